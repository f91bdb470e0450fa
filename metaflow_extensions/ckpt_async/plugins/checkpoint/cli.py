"""``python flow.py checkpoint ...``: the program ``ckpt-async`` for one flow and its datastore. Everything is done by that one.

Also where ``ckpt-async`` finds checkpoints by itself: in Metaflow's datastore. Loaded only by those two.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from metaflow._vendor import click
from metaflow.exception import MetaflowException

if TYPE_CHECKING:
    from ckpt_async import StoreAddress

__all__ = ["cli", "configured_store"]

def configured_store() -> StoreAddress:
    """Return the store of Metaflow's configuration.

    Raises
    ------
    InvalidArgument
        There is none, or none that can hold checkpoints.
    """
    from ckpt_async import InvalidArgument

    from .store import configured_address

    try:
        return configured_address()
    except MetaflowException as error:
        raise InvalidArgument(
            "find the checkpoints in Metaflow's datastore",
            cause=error.message.rstrip("."),
            hint="Or name a store with --store.",
        ) from error


def _run(obj: Any, arguments: tuple[str, ...]) -> None:
    """Do what ``ckpt-async`` does with these arguments, for the flow that Metaflow has set up."""
    from ckpt_async import InvalidArgument
    from ckpt_async.cli import FlowPreset, run_command_line

    def find_store() -> StoreAddress:
        from .store import address_of_datastore

        try:
            return address_of_datastore(obj.flow_datastore)
        except MetaflowException as error:
            raise InvalidArgument("find the checkpoints of this flow", cause=error.message.rstrip(".")) from error

    preset = FlowPreset(obj.flow.name, find_store)
    sys.exit(run_command_line(arguments or ("--help",), preset=preset, program=f"{sys.argv[0]} checkpoint"))


_COMMAND = click.Command(
    "checkpoint",
    callback=click.pass_obj(_run),
    params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
    # All arguments are passed on as they are, --help too.
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    add_help_option=False,
    help="Look at, fetch, check and clean up the checkpoints of this flow.",
)

#: What Metaflow looks for commands in.
cli = click.Group(commands={"checkpoint": _COMMAND})
