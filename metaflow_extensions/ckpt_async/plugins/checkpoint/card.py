"""The card of a task's checkpoints: what was loaded, what this attempt saved, and how far each save has come.

The layout never changes (three pieces of Markdown), so that Metaflow sends data only. It is written from what the engine tells,
never by asking the store.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ckpt_async import EntryProgress, readable_bytes

from .names import CARD_ID

if TYPE_CHECKING:
    from ckpt_async import Checkpointer, CheckpointRecord, CheckpointReference

__all__ = ["CheckpointCard", "NoCard", "loaded_text", "table_text", "time_text"]

#: How many saves the table shows: the newest ones.
MAX_ROWS = 100

#: Between the first updates, in seconds.
UPDATE_S = 2.0

#: After a while the card is updated this seldom, in seconds; its last state always is.
MAX_UPDATE_S = 60.0

_METHODS = {"copy": "copied", "link": "linked", "packed": "packed", "reflink": "cloned"}


def loaded_text(record: CheckpointRecord | None, load_policy: str) -> str:
    """Return the Markdown that says what the attempt began with."""
    if record is None:
        return f"Nothing was loaded (`load_policy={load_policy}`): the step began afresh."
    rows = [
        ("name", record.name),
        ("saved by", f"{record.pathspec}, attempt {record.attempt}"),
        ("saved at", time_text(record.created_on)),
        ("size", readable_bytes(record.size_bytes)),
    ]
    lines = ["The step began from this checkpoint:", "", "| | |", "| --- | --- |"]
    lines += [f"| {label} | {_cell(value)} |" for label, value in rows]
    # Not in the table, whose cells break no long word: the key would make the card scroll sideways.
    lines += ["", f"Its key: {_breakable_code(record.key)}"]
    return "\n".join(lines)


def table_text(references: Sequence[CheckpointReference]) -> str:
    """Return the Markdown table of an attempt's saves, newest first; `references` are in order of saving."""
    if not references:
        return "No checkpoint has been saved yet."
    blocked_s = sum(reference.state.blocked_s for reference in references)
    lines = [
        f"{len(references)} saved; the step waited {blocked_s:.2f} s in `save()`.",
        "",
        "| save | name | size | state | saved at | `save()` took | files | upload took |",
        "| ---: | --- | ---: | --- | --- | ---: | --- | ---: |",
    ]
    for reference in reversed(references[-MAX_ROWS:]):
        record, state = reference.record, reference.state
        upload = f"{state.upload_s:.2f} s" if reference.done() else ""
        if state.copied_bytes:
            upload += f", {readable_bytes(state.copied_bytes)} not sent again"
        lines.append(
            f"| {record.version_id} | {_cell(record.name)} | {readable_bytes(record.size_bytes)} | {reference.status} "
            f"| {time_text(record.created_on)} | {state.blocked_s:.2f} s | {_methods_text(state.methods)} | {upload} |"
        )
    if len(references) > MAX_ROWS:
        lines += ["", f"The newest {MAX_ROWS} are shown."]
    return "\n".join(lines)


def time_text(created_on: str) -> str:
    """Return the time of a record to the second; one that can't be read is left as it is."""
    try:
        return datetime.fromisoformat(created_on).replace(tzinfo=None).isoformat(sep=" ", timespec="seconds")
    except ValueError:
        return created_on


def _methods_text(methods: Mapping[str, int]) -> str:
    """Return how many files of a save were taken in which way."""
    return ", ".join(f"{count} {_METHODS[name]}" for name, count in sorted(methods.items()) if name in _METHODS)


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("`", "\\`").replace("\n", " ").replace("<", "&lt;")


def _breakable_code(key: str) -> str:
    """Return a key as code that may be broken after each slash, and is copied as one piece all the same.

    Backticks would hold it together. What stands in keys and means something to Markdown is written by its number.
    """
    safe = "".join(char if char.isalnum() or char in "/.-" else f"&#{ord(char)};" for char in key)
    return f"<code>{safe.replace('/', '/<wbr>')}</code>"


class NoCard:
    """Stands in where there is no card: ``show_card=False``, and the nodes of a gang but the control task.

    Parameters
    ----------
    leave_out : callable
        See `CheckpointCard`: Metaflow would make an empty card for every node.
    """

    def __init__(self, leave_out: Callable[[], None]) -> None:
        self._leave_out = leave_out

    def start(self) -> None:
        """Do nothing."""

    def finish(self, *, refresh: bool) -> None:
        """Have no card made."""
        self._leave_out()


class CheckpointCard(NoCard):
    """Owns the thread that updates the card.

    Parameters
    ----------
    checkpointer : Checkpointer
        Tells what happens.
    loaded : CheckpointRecord or None
        What the attempt began with.
    load_policy : str
        Of the decorator.
    leave_out : callable
        Called where there is nothing to show in the end: has Metaflow make no card. Making one takes it a second.
    """

    def __init__(
        self,
        checkpointer: Checkpointer,
        loaded: CheckpointRecord | None,
        load_policy: str,
        leave_out: Callable[[], None],
    ) -> None:
        super().__init__(leave_out)
        self._checkpointer = checkpointer
        self._loaded = loaded
        self._load_policy = load_policy
        self._condition = threading.Condition()
        self._changed = False
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._manager: Any = None
        self._table: Any = None
        self._due_at = 0.0
        self._refreshed = False
        self._refreshed_at = 0.0

    def start(self) -> None:
        """Lay the card out and begin to update it. To be called once `current.card` is complete: when the step begins."""
        from metaflow import current
        from metaflow.cards import Markdown

        collector: Any = current.get("card")
        manager: Any = None if collector is None else collector[CARD_ID]
        if not hasattr(manager, "refresh"):
            return  # no such card in this run: somebody took the decorator off, or the run ignores cards
        self._manager = manager
        self._table = Markdown(self._table_text())
        identity = self._checkpointer.identity
        manager.append(Markdown(f"## Checkpoints of {_cell(identity.pathspec)}, attempt {identity.attempt}"))
        manager.append(Markdown(loaded_text(self._loaded, self._load_policy)))
        manager.append(self._table)
        # The first update waits too: a short step is better off without, its card is rendered at the end.
        self._due_at = time.monotonic() + UPDATE_S
        self._checkpointer.add_listener(self._on_event)
        self._thread = threading.Thread(target=self._run, name="ckpt-async-card", daemon=True)
        self._thread.start()

    def finish(self, *, refresh: bool) -> None:
        """Stop the thread and leave the final state on the card; none where nothing was loaded or saved.

        Metaflow itself renders it for a task that ended well, and only then: `refresh` asks for it here, which takes up to 2 s.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return
        with self._condition:
            self._stopping = True
            self._condition.notify()
        thread.join()
        if not (self._refreshed or self._has_content()):
            self._leave_out()
            return
        self._table.update(self._table_text())
        if refresh:
            if self._refreshed:
                # Metaflow passes over requests that follow one another too closely.
                threading.Event().wait(max(0.0, self._refreshed_at + UPDATE_S - time.monotonic()))
            self._manager.refresh()

    def _has_content(self) -> bool:
        return self._loaded is not None or bool(self._checkpointer.references())

    def _table_text(self) -> str:
        return table_text(self._checkpointer.references())

    def _on_event(self, event: object) -> None:
        if isinstance(event, EntryProgress):
            return  # The table does not show it.
        with self._condition:
            self._changed = True
            self._condition.notify()

    def _run(self) -> None:
        pause_s = UPDATE_S
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._changed or self._stopping)
                self._condition.wait_for(lambda: self._stopping, timeout=max(0.0, self._due_at - time.monotonic()))
                if self._stopping:
                    return
                self._changed = False
            if not self._has_content():
                continue  # The worker is ready, and that is all: perhaps there is never going to be a card.
            self._table.update(self._table_text())
            self._manager.refresh()
            self._refreshed = True
            self._refreshed_at = time.monotonic()
            # Metaflow starts a process for each update, which takes half a second of a processor: not for ever every two seconds.
            self._due_at = self._refreshed_at + pause_s
            pause_s = min(2 * pause_s, MAX_UPDATE_S)
