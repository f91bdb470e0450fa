"""A session without a flow around it: failures at its end, where its spool stands, and what child processes leave."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ckpt_async import (
    CheckpointDamaged,
    CheckpointReference,
    InvalidArgument,
    StoreAddress,
    StoreRejected,
    TaskIdentity,
    coerce_settings,
    open_checkpointer,
    open_for_child,
)
from metaflow_extensions.ckpt_async.plugins.checkpoint.attributes import read_attributes
from metaflow_extensions.ckpt_async.plugins.checkpoint.environment import IDENTIFIER, STORE, UID, TaskPlace
from metaflow_extensions.ckpt_async.plugins.checkpoint.session import TaskSession
from metaflow_extensions.ckpt_async.plugins.checkpoint.store import scratch_root
from tests.engine.desk import save_in_killed_child

IDENTITY = TaskIdentity("Flow", "1", "train", "2", 0, "0" * 12, "1" * 12)


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A session tells its children where it is through the environment of this process. The store's folder is there."""
    (tmp_path / "store").mkdir()
    for name in (IDENTIFIER, UID, STORE):
        monkeypatch.setenv(name, "")
    yield


def open_session(tmp_path: Path, flow: Any, *, attempt: int = 0, last_attempt: bool = True, **values: object) -> TaskSession:
    attributes = read_attributes({"worker": "thread", "temp_dir_root": str(tmp_path / "tmp"), **values})
    scratch = scratch_root(attributes.settings.spool_dir, attributes.temp_dir_root)
    place = TaskPlace(StoreAddress(str(tmp_path / "store")), scratch)
    identity = dataclasses.replace(IDENTITY, attempt=attempt)
    return TaskSession(flow, identity, place, attributes, with_card=False, last_attempt=last_attempt)


def save_once(session: TaskSession) -> CheckpointReference:
    Path(session.current.directory, "file").write_text("x")
    return session.current.save()


def break_close(session: TaskSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the engine's close end as it would where an error of the disk came through."""
    close = session._checkpointer.close

    def breaks(**arguments: Any) -> None:
        close(**arguments)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(session._checkpointer, "close", breaks)


def test_any_failure_to_close_is_told_beside_that_of_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = SimpleNamespace()
    session = open_session(tmp_path, flow)
    break_close(session, monkeypatch)

    def step() -> None:
        save_once(session)
        raise ValueError("of the step")

    with pytest.raises(ValueError, match="of the step") as caught:
        session.run(step, (), {})
    if sys.version_info >= (3, 11):
        assert "OSError: [Errno 28]" in caught.value.__notes__[0]
    assert [record["name"] for record in flow._task_checkpoints] == ["mfchckpt"]
    assert flow._task_latest_checkpoint == flow._task_checkpoints[0]
    assert not os.path.exists(session.current.directory)


def test_a_step_that_fails_with_the_stores_refusal_is_not_told_of_it_twice(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "store" / "mf.checkpoints").write_text("in the way")
    session = open_session(tmp_path, SimpleNamespace(), async_upload=True)

    def step() -> None:
        save_once(session)
        session.current.flush()

    with pytest.raises(StoreRejected, match="is a file") as caught:
        session.run(step, (), {})
    assert "kept in" in str(caught.value)
    assert not getattr(caught.value, "__notes__", [])
    assert "not all stored" not in capfd.readouterr().err


def test_after_a_signal_the_newest_save_comes_first_before_anything_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session(tmp_path, SimpleNamespace(), watch=True)
    order: list[str] = []
    watcher: Any = session._watcher

    def note(what: Any, name: str) -> None:
        act = getattr(what, name)
        monkeypatch.setattr(what, name, lambda *arguments, **more: [order.append(name), act(*arguments, **more)][1])

    note(session._checkpointer, "press")
    note(watcher, "stop")

    with pytest.raises(SystemExit):
        session.run(lambda: os.kill(os.getpid(), signal.SIGTERM), (), {})
    assert order[:2] == ["press", "stop"]


def test_a_failure_to_close_fails_a_step_that_ended_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = SimpleNamespace()
    session = open_session(tmp_path, flow)
    break_close(session, monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        session.run(lambda: save_once(session), (), {})
    assert len(flow._task_checkpoints) == 1


def test_what_is_kept_stays_for_a_retry_and_not_after_the_last_attempt(tmp_path: Path) -> None:
    def fail(session: TaskSession) -> None:
        def step() -> None:
            save_once(session)
            raise ValueError("of the step")

        with pytest.raises(ValueError, match="of the step"):
            session.run(step, (), {})

    def kept() -> list[Path]:
        return sorted(tmp_path.rglob("kept/*/entry.json"))

    fail(open_session(tmp_path, SimpleNamespace(), last_attempt=False, keep_local=1))
    assert len(kept()) == 1
    # What it was, not where it came from: the store has lost it.
    shutil.rmtree(next((tmp_path / "store").rglob("artifacts")))
    retried = open_session(tmp_path, SimpleNamespace(), attempt=1, keep_local=1)
    assert Path(retried.current.directory, "file").read_text() == "x"
    fail(retried)
    assert not kept() and not list(tmp_path.rglob("spool.json"))


def test_a_strict_session_begins_with_no_older_checkpoint(tmp_path: Path) -> None:
    session = open_session(tmp_path, SimpleNamespace())
    session.run(lambda: (save_once(session), save_once(session)), (), {})
    for newest in (tmp_path / "store").rglob("*.mfchckpt.1/file"):
        newest.unlink()
    with pytest.raises(CheckpointDamaged, match="'file'"):
        open_session(tmp_path, SimpleNamespace(), attempt=1, strict="True")
    lenient = open_session(tmp_path, SimpleNamespace(), attempt=2)
    assert lenient.loaded is not None and lenient.loaded.version_id == 0
    lenient.end_unused(None)


def test_no_artifact_names_what_an_attempt_that_is_still_alive_has_pruned(tmp_path: Path) -> None:
    rules = {"keep_last": 1, "keep_best": "loss:min"}
    flow = SimpleNamespace()
    session = open_session(tmp_path, flow, attempt=1, **rules)
    Path(session.current.directory, "file").write_text("x")

    def step() -> None:
        flow.references = [session.current.save(metadata={"loss": loss}) for loss in (2, 3)]
        # On another machine.
        zombie = open_checkpointer(
            IDENTITY, StoreAddress(str(tmp_path / "store")), coerce_settings(rules), scratch_root=str(tmp_path / "elsewhere")
        )
        zombie.save(session.current.directory, metadata={"loss": 1})
        zombie.close(timeout_s=60)

    session.run(step, (), {})
    assert [reference.status for reference in flow.references] == ["deleted", "committed"]
    assert [record["metadata"] for record in flow._task_checkpoints] == [{"loss": 3}]
    assert flow._task_latest_checkpoint == flow._task_checkpoints[0]


def test_an_unused_session_ends_without_a_word_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = open_session(tmp_path, SimpleNamespace())
    break_close(session, monkeypatch)
    session.end_unused(ValueError("of another decorator"))
    session.end_unused(None)

    class Refuses:
        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

    session = open_session(tmp_path, Refuses())
    session.end_unused(ValueError("of another decorator"))


def test_the_folder_of_the_user_is_left_as_it_is(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    session = open_session(tmp_path, SimpleNamespace(), spool_dir=str(shared))
    own = shared / f"ckpt-async-{os.getuid()}"
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    session.run(lambda: save_once(session), (), {})
    assert stat.S_IMODE(shared.stat().st_mode) == 0o1777


def test_the_directory_can_be_emptied_and_removed(tmp_path: Path) -> None:
    session = open_session(tmp_path, SimpleNamespace())
    current = session.current

    def step() -> None:
        saved = save_once(session)
        current.refresh_directory()
        assert os.listdir(current.directory) == []
        current.cleanup()
        assert not os.path.exists(current.directory)
        with pytest.raises(InvalidArgument):
            current.save()
        current.load(saved)
        assert os.listdir(current.directory) == ["file"]
        current.cleanup()
        current.refresh_directory()
        assert stat.S_IMODE(os.stat(current.directory).st_mode) == 0o700

    session.run(step, (), {})


def test_a_wait_for_a_save_can_be_interrupted(tmp_path: Path) -> None:
    """The alarm of `@timeout` strikes in the middle of a wait: it comes out, and the end of the step waits for nothing it broke."""
    session = open_session(tmp_path, SimpleNamespace(), async_upload=True, flush_timeout=30)

    def strike(number: int, frame: object) -> None:
        raise TimeoutError("struck")

    def step() -> None:
        saved = save_once(session)
        assert saved.wait() == saved and saved.done()
        # One that never ends: as if its news had not come yet.
        saved.state.status = "queued"
        previous = signal.signal(signal.SIGALRM, strike)
        try:
            with pytest.raises(TimeoutError, match="struck"):
                signal.setitimer(signal.ITIMER_REAL, 0.05)
                saved.wait(30)
        finally:
            signal.signal(signal.SIGALRM, previous)
        saved.state.status = "committed"
        assert session.current.pending.saves == 0

    session.run(step, (), {})


def test_the_store_is_only_asked_where_a_child_has_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = SimpleNamespace()
    session = open_session(tmp_path, flow)
    session.run(lambda: save_once(session), (), {})
    assert not session._children_saved()

    session = open_session(tmp_path, flow)
    place = session._place

    def step() -> None:
        save_once(session)
        child = open_for_child(IDENTITY, place.address, scratch_root=place.scratch_root)
        child.save(session.current.directory, name="child")
        child.close(timeout_s=30)
        assert session._children_saved()
        # What the store can't tell is left out, and the own saves stay.
        Path(tmp_path, "store").rename(tmp_path / "away")
        Path(tmp_path, "store").write_text("in the way")

    session.run(step, (), {})
    assert [record["name"] for record in flow._task_checkpoints] == ["mfchckpt"]


def test_what_a_killed_child_saved_is_stored_with_the_task(tmp_path: Path) -> None:
    flow = SimpleNamespace()
    session = open_session(tmp_path, flow)
    place = session._place

    def step() -> None:
        saved = save_once(session)
        files = Path(session.current.directory)
        save_in_killed_child(IDENTITY, place.address, place.scratch_root, files, "child")
        assert saved.done()

    session.run(step, (), {})
    assert [record["name"] for record in flow._task_checkpoints] == ["child", "mfchckpt"]
    assert flow._task_latest_checkpoint == flow._task_checkpoints[0]
    assert not list(tmp_path.rglob("spool.json"))


def test_a_child_whose_task_has_ended_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="the task has ended"):
        open_for_child(IDENTITY, StoreAddress(str(tmp_path / "store")), scratch_root=str(tmp_path / "scratch"))
