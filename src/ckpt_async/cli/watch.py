"""``ckpt-async watch DIR --to URL``: what is written into a folder becomes checkpoints, for programs that can't be changed."""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import sys
import threading
import time
from queue import SimpleQueue
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ckpt_async.words.errors import CheckpointError, InvalidArgument, StoreError

if TYPE_CHECKING:
    from ckpt_async.checkpointer import Checkpointer
    from ckpt_async.reference import CheckpointReference

__all__ = ["main", "register", "watch"]

#: All of it is in the store.
OK = 0
#: Some of it lies in the spool, for the next one.
NOT_DONE = 6
INTERRUPTED = 130


class _Lines:
    """Prints what happens, a line each; from any thread."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        self._print("note", text, {"text": text})

    def on_event(self, checkpointer: Checkpointer, event: object) -> None:
        from ckpt_async.words.events import EntryCommitted, EntryFailed, EntrySaved

        if not isinstance(event, (EntrySaved, EntryCommitted, EntryFailed)):
            return
        reference = next((one for one in checkpointer.references() if one.state.entry == event.entry), None)
        if reference is None:
            return  # of an earlier one, which had its own lines
        if isinstance(event, EntrySaved):
            if self._as_json:  # in words the watcher says it
                self._print("saved", "", _facts(reference))
        elif isinstance(event, EntryCommitted):
            sent = {"sent_bytes": event.sent_bytes, "copied_bytes": event.copied_bytes, "seconds": round(event.seconds, 3)}
            self._print("stored", f"stored checkpoint {reference['key']}", _facts(reference) | sent)
        else:
            self._print(
                "refused",
                f"the store refuses checkpoint {reference['key']}: {reference.state.error}",
                _facts(reference) | {"error": event.error},
            )

    def _print(self, kind: str, text: str, facts: dict[str, Any]) -> None:
        now_s = time.time()
        line = (
            json.dumps({"time": round(now_s, 3), "kind": kind, **facts}) if self._as_json else f"{time.strftime('%H:%M:%S')} {text}"
        )
        with self._lock:
            try:
                print(line.encode(errors="backslashreplace").decode(), flush=True)
            except OSError:
                return  # Whoever read this is gone; what is to be saved matters more.


def _facts(reference: CheckpointReference) -> dict[str, Any]:
    return {
        "key": reference["key"],
        "name": reference["name"],
        "size_bytes": reference.state.size_bytes,
        "metadata": reference["metadata"],
    }


class _Signals:
    """SIGTERM and SIGINT end it in order; the second SIGINT at once.

    The event is set by a thread: in the handler, `set` would wait for ever for a lock that the interrupted code may hold.
    """

    def __init__(self, stopped: threading.Event) -> None:
        self._stopped = stopped
        self._came = False
        self._news: SimpleQueue[None] = SimpleQueue()

    def _pass_on(self) -> None:
        self._news.get()
        self._stopped.set()

    def install(self) -> None:
        threading.Thread(target=self._pass_on, name="ckpt-async-signals", daemon=True).start()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._came:
            # Nothing is lost by that: what was saved lies in the spool.
            os.write(2, b"left at once; what is not stored lies in the spool, and the next one goes on with it\n")
            os._exit(INTERRUPTED)
        self._came = True
        self._news.put(None)


def watch(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="The folder to watch. Made where it is missing.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="URL",
            help="Where the checkpoints go: s3://BUCKET/PREFIX, azure://CONTAINER/PREFIX, gs://BUCKET/PREFIX, or a folder.",
            show_default=False,
        ),
    ],
    access: Annotated[
        str,
        typer.Option(
            "--access",
            metavar="MODULE:FUNCTION",
            help="What tells how that store is reached. Default: what its client library finds by itself.",
            show_default=False,
        ),
    ] = "",
    pathspec: Annotated[
        str,
        typer.Option(
            "--as",
            metavar="FLOW/RUN/STEP/TASK",
            help="Under what they are kept. Default: Watched/HOST/watch/ and the folder's name.",
            show_default=False,
        ),
    ] = "",
    namespace: Annotated[
        str,
        typer.Option("--namespace", help="Flows of this namespace may begin with them: load_policy='eager'.", show_default=False),
    ] = "",
    name: Annotated[str, typer.Option("--name", help="Of the checkpoints.")] = "mfchckpt",
    quiet_period: Annotated[
        float,
        typer.Option("--quiet-period", metavar="SECONDS", help="How long nothing may have changed, so that it counts as complete."),
    ] = 2.0,
    max_wait: Annotated[
        float,
        typer.Option("--max-wait", metavar="SECONDS", help="How long something may stay incomplete before that is said."),
    ] = 60.0,
    marker: Annotated[
        list[str] | None,
        typer.Option(
            "--marker",
            metavar="PATTERN",
            help="A file that says that its folder is complete. Without one it is so only after --max-wait.",
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option("--ignore", metavar="PATTERN", help="What makes no checkpoint by itself; it is saved along."),
    ] = None,
    temporary: Annotated[list[str] | None, typer.Option("--temporary", metavar="PATTERN", help="What is never saved.")] = None,
    max_bandwidth: Annotated[
        str,
        typer.Option(
            "--max-bandwidth", metavar="RATE", help="Of uploads, for example 200MB/s. Default: no cap.", show_default=False
        ),
    ] = "",
    max_pending: Annotated[int, typer.Option("--max-pending", help="How many saves may wait for their upload.")] = 16,
    max_pending_bytes: Annotated[
        str, typer.Option("--max-pending-bytes", metavar="SIZE", help="How much may wait, for example 20GB.", show_default=False)
    ] = "",
    on_full: Annotated[str, typer.Option("--on-full", help="What happens then: block, drop_oldest or raise.")] = "block",
    keep_last: Annotated[
        str, typer.Option("--keep-last", metavar="N", help="How many of the newest stay in the store.", show_default=False)
    ] = "",
    keep_every: Annotated[
        str, typer.Option("--keep-every", metavar="N|PERIOD", help="Every so manieth, or one of each period.", show_default=False)
    ] = "",
    spool_dir: Annotated[
        str,
        typer.Option(
            "--spool-dir",
            metavar="DIR",
            help="The folder in which a private one is made for saves that wait. Default: beside DIR.",
            show_default=False,
        ),
    ] = "",
    once: Annotated[bool, typer.Option("--once", help="Save what is complete, store it, and end.", show_default=False)] = False,
    restore: Annotated[
        bool, typer.Option("--restore", help="Load the newest checkpoint first, where DIR is empty.", show_default=False)
    ] = False,
    grace: Annotated[
        float, typer.Option("--grace", metavar="SECONDS", help="How long the end may take after SIGTERM or Ctrl-C.")
    ] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.", show_default=False)] = False,
) -> int:
    """Save what is written into a folder, each time that it is complete, until SIGTERM or Ctrl-C."""
    from ckpt_async.watching.daemon import WatchPlan, run_daemon
    from ckpt_async.words.settings import StoreAddress, coerce_settings
    from ckpt_async.words.watch_rules import read_watch_rules

    if not 0 < grace < 86400:
        raise InvalidArgument("watch a folder", on=f"--grace {grace}", cause="it must be above 0, and no longer than a day")
    settings = coerce_settings(
        {
            "async_upload": True,
            "max_bandwidth": max_bandwidth or None,
            "max_pending": max_pending,
            "max_pending_bytes": max_pending_bytes or None,
            "on_full": on_full,
            "keep_last": keep_last or None,
            "keep_every": keep_every or None,
            "spool_dir": spool_dir or None,
        }
    )
    rules = read_watch_rules(
        {
            "watch_quiet": quiet_period,
            "watch_max_wait": max_wait,
            "watch_marker": marker or None,
            "watch_ignore": ignore or None,
            "watch_temporary": temporary or None,
        }
    )
    plan = WatchPlan(
        directory,
        StoreAddress(to if "://" in to else os.path.abspath(os.path.expanduser(to)), access=access),
        pathspec or f"Watched/{socket.gethostname()}/watch/{os.path.basename(os.path.abspath(directory)) or 'root'}",
        namespace=namespace or None,
        name=name,
        settings=settings,
        rules=rules,
        once=once,
        restore=restore,
        grace_s=grace,
    )
    lines = _Lines(as_json=as_json)
    stopped = threading.Event()
    _Signals(stopped).install()
    return OK if run_daemon(plan, stopped, say=lines.say, listener=lines.on_event) else NOT_DONE


def register(app: typer.Typer) -> None:
    """Add the command to a program, which ends with the status that it returns."""
    app.command("watch")(watch)


def main() -> int:
    """Run it as ``python -m ckpt_async.cli.watch``; returns the exit status."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @functools.wraps(watch)
    def command(*arguments: Any, **options: Any) -> None:
        raise typer.Exit(watch(*arguments, **options))

    app.command()(command)
    try:
        app()
    except SystemExit as ended:
        return int(ended.code or OK)
    except CheckpointError as error:
        print(f"ckpt-async: {error}", file=sys.stderr)
        return 2 if isinstance(error, InvalidArgument) else 3 if isinstance(error, StoreError) else 5
    return OK


if __name__ == "__main__":
    sys.exit(main())
