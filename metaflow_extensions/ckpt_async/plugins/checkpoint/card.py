"""The card of a task's checkpoints, live: the thread that brings it up to date, and its last state.

The layout never changes (five pieces), so that Metaflow sends data only. It is made from what the engine tells, never by asking the
store: `card_model` computes what it says, `card_view` how that looks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .lineage import LineageLookUp
from .names import CARD_ID
from .output import say

if TYPE_CHECKING:
    from ckpt_async import Checkpointer, CheckpointRecord

__all__ = ["CheckpointCard", "NoCard", "pause_s"]

#: Between the first updates, in seconds.
UPDATE_S = 2.0

#: After a while the card is updated this seldom, in seconds; its last state always is.
MAX_UPDATE_S = 60.0

#: The next update comes after this part of the time that the step has taken so far.
AGE_SHARE = 1 / 8

#: And not before the update has taken so small a part of the time: with ten thousand saves it takes a tenth of a second.
UPDATE_COST = 1 / 100

#: The stored page, which is what somebody sees who has no viewer that fetches data, is made anew after this part of the time that
#: the step has taken so far, and not before so many seconds: it is a megabyte.
RENDER_SHARE = 1 / 4
RENDER_S = 20.0

#: How long the end of a task waits for the chain of checkpoints that led to the loaded one.
LINEAGE_TIMEOUT_S = 2.0


def pause_s(age_s: float, took_s: float) -> float:
    """Return how long to wait between two updates, of which the last one took so long, in a step of this age.

    Metaflow starts a process for each, which imports the flow's file: half a second of a processor, and more where that imports a
    large library. So a bar moves every two seconds in the beginning, when somebody looks on, and once a minute after eight minutes.
    """
    return max(UPDATE_S, min(MAX_UPDATE_S, age_s * AGE_SHARE), took_s / UPDATE_COST)


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

    def step_ended(self) -> None:
        """Do nothing."""

    def finish(self, *, failed: bool) -> bool:
        """Have no card made."""
        self._leave_out()
        return False

    def render(self, *, with_data: bool) -> None:
        """Do nothing."""


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
        self._lineage = LineageLookUp(loaded, self._tell)
        self._condition = threading.Condition()
        self._changed = False
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._manager: Any = None
        self._pieces: tuple[Any, ...] = ()
        self._began_unix_s = 0.0
        self._step_ended_unix_s = 0.0
        self._refreshed = False
        self._rendered_unix_s = 0.0

    def start(self) -> None:
        """Lay the card out and begin to update it. To be called once `current.card` is complete: when the step begins."""
        from metaflow import current
        from metaflow.cards import Markdown, VegaChart

        collector: Any = current.get("card")
        manager: Any = None if collector is None else collector[CARD_ID]
        if not hasattr(manager, "refresh"):
            return  # no such card in this run: somebody took the decorator off, or the run ignores cards
        self._began_unix_s = time.time()
        self._manager = manager
        # Filled by `_show`: in a step that never saves, neither that nor what it imports is needed.
        self._pieces = (Markdown(""), Markdown(""), VegaChart({}), VegaChart({}), Markdown(""))
        manager.extend(self._pieces)
        self._checkpointer.add_listener(self._on_event)
        self._thread = threading.Thread(target=self._run, name="ckpt-async-card", daemon=True)
        self._thread.start()

    def step_ended(self) -> None:
        """The step's code has ended; what it saved last is being stored."""
        self._step_ended_unix_s = time.time()
        self._tell()

    def finish(self, *, failed: bool) -> bool:
        """Stop the thread and leave the final state on the card; returns whether there is one. None is made where nothing was
        loaded or saved. Metaflow itself renders it for a task that ended well, and only then: see `render`.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return False
        self._tell(stop=True)
        thread.join()
        if not (self._refreshed or self._has_content()):
            self._leave_out()
            return False
        self._lineage.start()
        self._lineage.wait(LINEAGE_TIMEOUT_S)
        self._show(ended=True, failed=failed)
        return True

    def render(self, *, with_data: bool) -> None:
        """Have the final state rendered, as Metaflow does it for a task that ended well. It takes a second; `with_data` another:
        then who has the card open sees it, too. To be called after `finish`.
        """
        self._manager._card_proc("render", sync=True)
        if with_data and self._refreshed:
            self._manager._card_proc("refresh", sync=True)

    def _has_content(self) -> bool:
        told = self._checkpointer
        return self._loaded is not None or bool(told.references() or told.adopted or told.adopting or told.left_errors)

    def _show(self, *, ended: bool = False, failed: bool = False) -> None:
        from .card_model import Facts, Origin, make_model
        from .card_view import views

        told, identity = self._checkpointer, self._checkpointer.identity
        ancestors, unknown = self._lineage.found()
        facts = Facts(
            identity.pathspec,
            identity.attempt,
            now_unix_s=time.time(),
            began_unix_s=self._began_unix_s,
            origin=Origin(self._loaded, self._load_policy, told.resumed_from_disk, ancestors, unknown),
            references=told.references(),
            adopted=told.adopted,
            adopting=told.adopting,
            left_errors=told.left_errors,
            stats=told.stats,
            pending=told.pending,
            waits=told.waits,
            trouble=told.trouble,
            step_ended_unix_s=self._step_ended_unix_s,
            ended=ended,
            failed=failed,
        )
        for piece, content in zip(self._pieces, views(make_model(facts)), strict=True):
            piece.update(content)

    def _on_event(self, event: object) -> None:
        self._tell()

    def _tell(self, *, stop: bool = False) -> None:
        with self._condition:
            self._changed = True
            self._stopping |= stop
            self._condition.notify()

    def _run(self) -> None:
        # The first update waits too: a short step is better off without, its card is rendered at the end.
        pause = UPDATE_S
        while True:
            with self._condition:
                if self._condition.wait_for(lambda: self._stopping, timeout=pause):
                    return
                # What waits for its upload grows older also where nothing happens.
                patience_s = MAX_UPDATE_S if self._checkpointer.pending.saves else None
                self._condition.wait_for(lambda: self._changed, timeout=patience_s)
                if self._stopping:
                    return
                self._changed = False
            try:
                pause = self._update()
            except Exception as error:
                # Metaflow's, or the disk's. The training goes on, and its end tries once more.
                say(f"the card is not brought up to date any more until the step ends: {type(error).__name__}: {error}")
                return

    def _update(self) -> float:
        """Bring the card up to date; return how long to wait now."""
        if not self._has_content():
            return UPDATE_S  # The worker is ready, and that is all: perhaps there is never going to be a card.
        began_s = time.thread_time()
        self._show()
        now_s = time.time()
        age_s = now_s - self._began_unix_s
        if self._refreshed and now_s - self._rendered_unix_s < max(RENDER_S, age_s * RENDER_SHARE):
            self._manager.refresh()
        else:
            if self._refreshed:
                # Not its refresh(force=True), which waits for two processes in a busy loop.
                self._manager._card_proc("render_runtime")
            else:
                self._manager.refresh()  # This one renders: the layout is new to it.
            self._refreshed, self._rendered_unix_s = True, now_s
        self._lineage.start()
        return pause_s(age_s, time.thread_time() - began_s)
