"""The thread that brings the card up to date: when it does, what it shows last, and that it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from metaflow import current

from ckpt_async import Checkpointer, CheckpointRecord, CheckpointReference, Pending, Stats
from ckpt_async.words.events import EntryProgress, WorkerReady
from metaflow_extensions.ckpt_async.plugins.checkpoint import card, lineage
from metaflow_extensions.ckpt_async.plugins.checkpoint.card import CheckpointCard, NoCard, pause_s
from metaflow_extensions.ckpt_async.plugins.checkpoint.names import CARD_ID
from tests.card.facts import PATHSPEC, save
from tests.engine.desk import wait_for


class Manager:
    """What `current.card` holds for a card, as far as it is used."""

    def __init__(self) -> None:
        self.pieces: list[Any] = []
        self.refreshes = 0
        self.rendered: list[str] = []
        self.by: set[str] = set()

    def extend(self, pieces: Any) -> None:
        self.pieces.extend(pieces)

    def refresh(self) -> None:
        self.by.add(threading.current_thread().name)
        self.refreshes += 1

    def _card_proc(self, mode: str, *, sync: bool = False) -> None:
        assert sync == (mode != "render_runtime"), "whoever waits for a process in the middle of a step waits in a busy loop"
        self.rendered.append(mode)

    @property
    def text(self) -> str:
        return "".join(piece.render()["source"] for piece in (self.pieces[0], self.pieces[1], self.pieces[4]))


class Told:
    """What the card is told by the engine."""

    def __init__(self) -> None:
        self.identity = SimpleNamespace(pathspec=PATHSPEC, attempt=1)
        self.saves: list[CheckpointReference] = []
        self.listeners: list[Callable[[object], None]] = []
        self.adopted = self.adopting = self.waits = ()
        self.left_errors: dict[str, Exception] = {}
        self.trouble = None
        self.resumed_from_disk = False
        self.stats, self.pending = Stats(), Pending(0, 0)

    def references(self) -> list[CheckpointReference]:
        return list(self.saves)

    def add_listener(self, listener: Callable[[object], None]) -> None:
        self.listeners.append(listener)

    def happens(self, event: object) -> None:
        for listener in self.listeners:
            listener(event)


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Manager:
    made = Manager()
    monkeypatch.setattr(card, "UPDATE_S", 0.0)
    monkeypatch.setattr(card, "MAX_UPDATE_S", 0.01)
    monkeypatch.setattr(current, "get", lambda _name: {CARD_ID: made})
    return made


def started(told: Told, left_out: Callable[[], None] = lambda: None, loaded: CheckpointRecord | None = None) -> CheckpointCard:
    shown = CheckpointCard(cast(Checkpointer, told), loaded, "fresh", left_out)
    shown.start()
    return shown


def test_a_card_is_made_only_for_what_it_can_show(manager: Manager) -> None:
    told, left_out = Told(), threading.Event()
    shown = started(told, left_out.set)
    told.happens(WorkerReady(1))
    wait_for(lambda: not shown._changed, "the event is dealt with")
    assert not shown.finish(failed=False)
    assert left_out.is_set() and not manager.refreshes


def test_progress_is_shown_by_one_thread_and_the_end_by_the_last_render(manager: Manager) -> None:
    told, left_out = Told(), threading.Event()
    shown = started(told, left_out.set)
    told.saves.append(save(0, 10, "uploading"))
    told.happens(EntryProgress("0000000000", 1))
    wait_for(lambda: manager.refreshes, "the first update")
    assert "running" in manager.text and "uploading" in manager.text
    shown.step_ended()
    wait_for(lambda: "storing the last saves" in manager.text, "the end of the step is shown")
    told.saves[0].state.status = "committed"
    assert shown.finish(failed=True)
    assert "failed; everything saved is in the datastore" in manager.text and "committed" in manager.text
    assert manager.by == {"ckpt-async-card"} and not left_out.is_set()
    assert all(not thread.name.startswith("ckpt-async-card") for thread in threading.enumerate())
    shown.render(with_data=True)
    assert manager.rendered == ["render", "refresh"]


def test_what_waits_is_shown_growing_older_where_nothing_happens(manager: Manager) -> None:
    told = Told()
    told.saves.append(save(0, 10, "queued"))
    told.pending = Pending(1, 5)
    shown = started(told)
    wait_for(lambda: manager.refreshes >= 3, "updates without any event")
    shown.finish(failed=False)


def test_a_card_that_cannot_be_updated_is_told_of_and_completed_at_the_end(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(manager, "refresh", fails)
    told = Told()
    told.saves.append(save(0, 10))
    shown = started(told)
    told.happens(WorkerReady(1))
    assert shown._thread is not None
    shown._thread.join(60)
    assert "not brought up to date any more until the step ends: OSError: [Errno 24]" in capfd.readouterr().err
    assert shown.finish(failed=False) and "ended well" in manager.text


def test_the_stored_page_is_made_anew_now_and_then(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card, "RENDER_S", 0.0)
    monkeypatch.setattr(card, "RENDER_SHARE", 0.0)
    told = Told()
    told.saves.append(save(0, 10, "queued"))
    told.pending = Pending(1, 5)
    shown = started(told)
    wait_for(lambda: len(manager.rendered) >= 2, "the page is made anew")
    assert manager.refreshes == 1, "the first of them lays it out"
    shown.finish(failed=False)
    assert set(manager.rendered) == {"render_runtime"}


def test_without_a_card_in_the_run_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    for found in (None, {CARD_ID: []}):
        monkeypatch.setattr(current, "get", lambda _name, found=found: found)
        shown = started(Told())
        shown.step_ended()
        assert not shown.finish(failed=True)


def test_nodes_without_a_card_have_none_made() -> None:
    left_out = threading.Event()
    shown = NoCard(left_out.set)
    shown.start()
    shown.step_ended()
    assert not shown.finish(failed=True) and left_out.is_set()


@pytest.mark.parametrize(
    ("answer", "shown_text"),
    [
        ([{"name": "older", "pathspec": "TrainFlow/0/train/1", "attempt": 4}], "which had begun from"),
        ([], "loaded from the datastore"),
        (ConnectionError("no answer"), "not known: ConnectionError: no answer."),
        ([{"name": "n", "pathspec": "p", "attempt": 0}] * lineage.MAX_ANCESTORS, "only the last 8 are looked up"),
    ],
)
def test_the_chain_behind_what_was_loaded(manager: Manager, monkeypatch: pytest.MonkeyPatch, answer: Any, shown_text: str) -> None:
    asked = []

    def lineage_of_task(task: str, *, attempt: int, most: int) -> Any:
        asked.append((task, attempt, threading.current_thread().name))
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(lineage, "lineage_of_task", lineage_of_task)
    shown = started(Told(), loaded=save(0, 10).record)
    assert shown.finish(failed=False)
    assert shown_text in manager.text
    assert asked == [(PATHSPEC, 1, "ckpt-async-lineage")]


def test_a_metadata_service_that_does_not_answer_holds_up_nothing(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()

    def lineage_of_task(task: str, *, attempt: int, most: int) -> Any:
        answers.wait()
        return []

    monkeypatch.setattr(card, "LINEAGE_TIMEOUT_S", 0.01)
    monkeypatch.setattr(lineage, "lineage_of_task", lineage_of_task)
    shown = started(Told(), loaded=save(0, 10).record)
    try:
        assert shown.finish(failed=False)
        assert "not known: it has not been looked up yet." in manager.text
    finally:
        answers.set()
        shown._lineage.wait(60)


@pytest.mark.parametrize(
    ("age_s", "took_s", "expected_s"),
    [(0, 0, 2), (15, 0.01, 2), (80, 0.01, 10), (3600, 0.01, 60), (36_000, 0.15, 60), (10, 0.15, 15), (36_000, 3, 300)],
)
def test_updates_come_often_in_the_beginning_and_never_cost_much(age_s: float, took_s: float, expected_s: float) -> None:
    assert pause_s(age_s, took_s) == pytest.approx(expected_s)
