"""The commands for what lies on this machine: spool, drain."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ckpt_async.cli.exit_codes import FOUND, OK, exit_code_of
from ckpt_async.cli.options import JsonOption, SpoolDirOption, given
from ckpt_async.cli.rendering import Column, Output, iso_time, plural, printable, reference_of, size_words
from ckpt_async.progress import readable_seconds
from ckpt_async.spool.overview import SpoolState, WaitingSave, look_at_spools

if TYPE_CHECKING:
    from ckpt_async.words.events import Event
    from ckpt_async.worker.draining import Drained

__all__ = ["register", "scratch_root", "spool_state_json"]

_T = TypeVar("_T")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(spool)
    app.command()(drain)


def scratch_root(spool_dir: str) -> str:
    """Return the folder under which this user's spools stand: one of the user's own in the folder that is named."""
    own = f"ckpt-async-{os.getuid()}"
    folder = os.path.abspath(os.path.expanduser(spool_dir)) if spool_dir else tempfile.gettempdir()
    return folder if os.path.basename(folder) == own else os.path.join(folder, own)


def spool_state_json(state: SpoolState, now_s: float) -> dict[str, Any]:
    """Return a spool as JSON has it."""
    return {
        "task": state.task,
        "attempt": state.attempt,
        "of_child": state.of_child,
        "alive": state.alive,
        "uploading": state.uploading,
        "store": state.store_url,
        "folder": state.folder,
        "size_bytes": state.size_bytes,
        "saves": [
            {
                "reference": reference_of(save.record),
                "key": save.record.key,
                "size_bytes": save.size_bytes,
                "saved_at": iso_time(save.record.saved_at_unix_ns / 1e9),
                "age_s": round(_age_s(save, now_s), 3),
                "lost": save.lost or None,
            }
            for save in state.saves
        ],
        "problems": list(state.problems),
    }


def _age_s(save: WaitingSave, now_s: float) -> float:
    return max(0.0, now_s - save.record.saved_at_unix_ns / 1e9)


def _whose(state: SpoolState) -> str:
    return f"{state.task}, {'a child of ' if state.of_child else ''}attempt {state.attempt}"


def _condition(state: SpoolState) -> str:
    if state.alive:
        return "task alive"
    return "dead, uploading" if state.uploading else "dead"


# spool


def spool(context: typer.Context, spool_dir: SpoolDirOption = "", as_json: JsonOption = False) -> int:
    """Show what waits on this machine for its upload: whose it is, how much, how old, and whether its task lives."""
    out = Output(as_json=given(context, "", "", as_json).as_json)
    root = scratch_root(spool_dir)
    states = look_at_spools(root)
    now_s = time.time()

    def for_people(out: Output) -> None:
        if not states:
            out.line(f"No spools in {root}.")
            return
        out.table(
            [
                Column("task", whole=False),
                Column("attempt", right=True),
                Column("is"),
                Column("saves", right=True),
                Column("size", right=True),
                Column("oldest", right=True),
                Column("goes to", whole=False),
            ],
            [
                (
                    f"{state.task}{' (a child)' if state.of_child else ''}",
                    state.attempt,
                    _condition(state),
                    len(state.saves),
                    size_words(state.size_bytes) if state.saves else "",
                    readable_seconds(_age_s(state.saves[0], now_s)) if state.saves else "",
                    state.store_url,
                )
                for state in states
            ],
        )
        for state in states:
            for save in state.saves:
                if save.lost:
                    out.line(f"Lost: {printable(reference_of(save.record))}: {printable(save.lost)}")
            for problem in state.problems:
                out.line(f"Can't be read: {printable(problem)}")
        dead = [state for state in states if state.saves and not state.alive]
        waiting = sum(len(state.saves) for state in states)
        out.line(f"{plural(waiting, 'save')} with {size_words(sum(state.size_bytes for state in states))} in {root}.")
        if dead:
            out.line(f"{plural(sum(len(state.saves) for state in dead), 'save')} of dead tasks: ckpt-async drain uploads them.")

    out.answer({"root": root, "spools": [spool_state_json(state, now_s) for state in states]}, for_people)
    return FOUND if any(state.problems or any(save.lost for save in state.saves) for state in states) else OK


# drain


@dataclass
class _Watched:
    """Turns what an uploader tells into progress."""

    told: Callable[[int, int], None]
    say: Callable[[str], None]
    done: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    stored: list[str] = field(default_factory=list)

    def hear(self, event: Event) -> None:
        """Take an event."""
        from ckpt_async.words.errors import from_wire
        from ckpt_async.words.events import EntryCommitted, EntryFailed, EntryProgress, Notice

        if isinstance(event, EntryProgress):
            self._reach(event.entry, event.done_bytes)
        elif isinstance(event, EntryCommitted):
            self._reach(event.entry, self.sizes.get(event.entry, 0))
            self.stored.append(event.entry)
        elif isinstance(event, EntryFailed):
            self.say(f"A save is not stored: {from_wire(event.error)}")
        elif isinstance(event, Notice):
            self.say(event.text)

    def _reach(self, entry: str, done_bytes: int) -> None:
        self.told(done_bytes - self.done.get(entry, 0), 0)
        self.done[entry] = done_bytes


def drain(
    context: typer.Context,
    spool_dir: SpoolDirOption = "",
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="SECONDS", help="How long to try at most; what is not stored then, stays.", min=0)
    ] = 3600.0,
    as_json: JsonOption = False,
) -> int:
    """Upload what dead tasks have left on this machine. What a living task has saved is never touched.

    Ctrl-C leaves all as it is: what is stored by then need not be sent again.
    """
    from ckpt_async.assembly import StoresOfWorker
    from ckpt_async.worker.draining import ALIVE, BUSY, drain_spool

    out = Output(as_json=given(context, "", "", as_json).as_json)
    states = look_at_spools(scratch_root(spool_dir))
    dead = [state for state in states if state.saves and not state.alive]
    stores = StoresOfWorker()
    deadline_s = time.monotonic() + timeout
    status = OK
    with out.progress("Uploading", sum(state.size_bytes for state in dead)) as told:
        for state in dead:
            watched = _Watched(told, out.say, sizes={save.entry: save.size_bytes for save in state.saves})

            async def act(state: SpoolState = state, watched: _Watched = watched) -> Drained:
                return await drain_spool(
                    state.folder,
                    stores,
                    watched.hear,
                    lambda _, error: _tell_trouble(out, error),
                    timeout_s=max(0.0, deadline_s - time.monotonic()),
                )

            result = run_async(act)
            sizes = [save.size_bytes for save in state.saves if save.entry in watched.stored]
            words = f"{_whose(state)}: {plural(len(sizes), 'save')} with {size_words(sum(sizes))} stored in {state.store_url}"
            if result.error is not None:
                status = status or exit_code_of(result.error)
                words += f"; {plural(result.left, 'save')} not: {result.error}"
            elif result.status == ALIVE:
                words = f"{_whose(state)}: its task lives, and uploads it"
            elif result.status == BUSY:
                words = f"{_whose(state)}: another uploader is at it"
            document = {
                "task": state.task,
                "attempt": state.attempt,
                "folder": state.folder,
                "status": result.status,
                "stored": len(sizes),
                "stored_bytes": sum(sizes),
                "left": result.left,
                "error": str(result.error) if result.error is not None else None,
            }
            out.event(document, printable(words))
    if not dead and not out.as_json:
        out.line("No dead task has left anything here.")
    return status


def _tell_trouble(out: Output, error: object) -> None:
    if error is not None:
        out.say(f"Trouble, being retried: {error}")


def run_async(act: Callable[[], Awaitable[_T]]) -> _T:
    """Run work in a loop of its own, in another thread: Ctrl-C cancels it, and is raised once it has ended."""
    from anyio.from_thread import start_blocking_portal

    with start_blocking_portal("asyncio") as portal:
        future = portal.start_task_soon(act)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise
