"""The program ``ckpt-async``: its commands, and how any of them ends."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

import ckpt_async
from ckpt_async.cli import changing, doctor, local, reading, watch
from ckpt_async.cli.desk import FlowPreset, Options
from ckpt_async.cli.exit_codes import BROKEN_PIPE, INTERRUPTED, OK, USAGE, exit_code_of
from ckpt_async.cli.options import AccessOption, JsonOption, StoreOption
from ckpt_async.cli.rendering import ReaderGone, printable
from ckpt_async.words.errors import CheckpointError

__all__ = ["app", "main", "run_command_line"]

#: What is wrong with arguments. Versions of typer differ in where they have click from.
_Wrong: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

app = typer.Typer(
    help="Look at checkpoints, fetch and store them, check them, clean up after them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 well, 1 something was found, 2 wrong arguments, 3 the store, 4 no such checkpoint, 5 this machine, "
    "6 not done, 130 interrupted.",
)
for _commands in (reading, changing, local, doctor, watch):
    _commands.register(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ckpt-async {ckpt_async.__version__}")
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    store: StoreOption = "",
    access: AccessOption = "",
    as_json: JsonOption = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.", show_default=False)
    ] = False,
) -> None:
    context.meta["options"] = Options(store, access, as_json)


def main() -> int:
    """Run what the arguments of this process say; returns the exit status."""
    return run_command_line(sys.argv[1:])


def run_command_line(arguments: Sequence[str], *, preset: FlowPreset | None = None, program: str = "ckpt-async") -> int:
    """Run a command; returns its exit status.

    Parameters
    ----------
    arguments : sequence of str
        Without the program's name.
    preset : FlowPreset, optional
        What a flow has set whose command this is.
    program : str
        What the program is called in its help.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # What a terminal's encoding lacks is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    command = typer.main.get_command(app)
    if preset is not None:
        # A shell completes what comes first on its line, which is the flow there.
        command.params = [one for one in command.params if one.name not in ("install_completion", "show_completion")]
    try:
        found = command.main(args=list(arguments), prog_name=program, standalone_mode=False, obj=preset)
        sys.stdout.flush()
    except CheckpointError as error:
        return _fail(str(error), exit_code_of(error))
    except _Wrong as error:
        error.show()
        return USAGE
    except (KeyboardInterrupt, typer.Abort):
        # What was under way has been undone, or can be taken up again, before this line is reached.
        return _fail("Interrupted.", INTERRUPTED)
    except ReaderGone:
        # Nobody reads: nor would what Python flushes at its end be read.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    if found == INTERRUPTED:  # So versions of typer turn Ctrl-C into.
        return _fail("Interrupted.", INTERRUPTED)
    return found if isinstance(found, int) else OK


def _fail(text: str, status: int) -> int:
    sys.stderr.write(f"ckpt-async: {printable(text)}\n")
    return status
