"""Watch mode in a step: a trainer that can't be changed is killed and goes on; and a session at each kind of its end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ckpt_async import CheckpointRecord, InvalidArgument, StoreAddress, open_reader
from metaflow_extensions.ckpt_async.plugins.checkpoint.attributes import read_attributes
from metaflow_extensions.ckpt_async.plugins.checkpoint.directory import PREFIX
from tests.engine.desk import read_tree, wait_for
from tests.flows.harness import Place
from tests.flows.test_session import IDENTITY, open_session, own_place as own_place

WHOLE = b"first half second half"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_trainer_that_can_not_be_changed_is_killed_and_goes_on(local: Place) -> None:
    out = local.folder / "fixed" / "out"
    with local.start("trainer.py", "--with", f"checkpoint:watch={out},watch_quiet=0.3,max_pending=4") as run:
        pid = int(run.wait_for(r"task \S+ pid (\d+)")[0])
        for number in (0, 1):
            run.wait_for(rf"saved what was written: checkpoint-{number} ")
            (local.folder / f"go-{number}").touch()
        run.wait_for("in the middle")
        os.kill(pid, signal.SIGKILL)
        result = run.end()
    assert result.code == 0, result.text
    assert result.after("found") == ["0", "2 checkpoint-0 checkpoint-1"]
    reader = open_reader(StoreAddress(str(local.folder / ".metaflow")))
    records = reader.list(result.after("task")[0].split()[0])
    assert [(record.attempt, record.version_id) for record in records] == [(1, 0), (0, 1), (0, 0)]
    for record, count in zip(reversed(records), (1, 2, 3), strict=True):
        target = local.folder / f"loaded-{count}"
        reader.load(record, str(target))
        assert read_tree(target) == {f"checkpoint-{number}/model": WHOLE for number in range(count)}
    look = local.look("TrainerFlow")["start/0"]
    assert look["attempts"][1]["_task_latest_checkpoint"]["metadata"] == {"watch": ["checkpoint-2"]}
    assert not os.path.lexists(out) and local.wait_until_clean() == []


def stored(tmp_path: Path) -> list[CheckpointRecord]:
    return open_reader(StoreAddress(str(tmp_path / "store"))).list(IDENTITY.pathspec)


def run(tmp_path: Path, step: Callable[[Any], object], *, attempt: int = 0, last_attempt: bool = True, **values: object) -> None:
    """Run a step in a session of its own; it gets `current.checkpoint`."""
    session = open_session(
        tmp_path, SimpleNamespace(), attempt=attempt, last_attempt=last_attempt, **{"watch": True, "watch_quiet": 0.1, **values}
    )
    session.run(lambda: step(session.current), (), {})


def test_what_a_step_wrote_last_is_saved_when_it_ends_well(tmp_path: Path) -> None:
    run(tmp_path, lambda current: Path(current.directory, "model").write_bytes(WHOLE))
    assert [record.metadata for record in stored(tmp_path)] == [{"watch": ["model"]}]


@pytest.mark.parametrize("failure", [ValueError("of the step"), SystemExit(143), KeyboardInterrupt()])
def test_what_was_half_written_at_an_exception_is_not(
    tmp_path: Path, failure: BaseException, capfd: pytest.CaptureFixture[str]
) -> None:
    def step(current: Any) -> None:
        Path(current.directory, "epoch-1.done").write_bytes(WHOLE)
        wait_for(lambda: current.stats.saves == 1, "the first is saved")
        Path(current.directory, "epoch-2").write_bytes(WHOLE[:7])
        raise failure

    with pytest.raises(type(failure)):
        run(tmp_path, step, watch_quiet=50.0)
    assert [record.metadata for record in stored(tmp_path)] == [{"watch": ["epoch-1.done"]}]
    assert "is not complete and is not saved: epoch-2" in capfd.readouterr().err


def test_a_retry_saves_nothing_before_something_is_written(tmp_path: Path) -> None:
    def first(current: Any) -> None:
        Path(current.directory, "model").write_bytes(WHOLE)
        wait_for(lambda: current.stats.saves == 1, "it is saved")
        raise ValueError("of the step")

    with pytest.raises(ValueError, match="of the step"):
        run(tmp_path, first, last_attempt=False)
    run(tmp_path, lambda current: Path(current.directory, "model").read_bytes(), attempt=1)
    assert len(stored(tmp_path)) == 1


def test_saves_and_loads_that_are_called_for_make_no_second_one(tmp_path: Path) -> None:
    def step(current: Any) -> None:
        model = Path(current.directory, "model")
        model.write_bytes(WHOLE)
        reference = current.save(name="by-hand")
        current.refresh_directory()
        current.load(reference)
        assert model.read_bytes() == WHOLE

    run(tmp_path, step)
    assert [record.name for record in stored(tmp_path)] == ["by-hand"]


def test_a_directory_that_is_cleaned_up_saves_nothing(tmp_path: Path) -> None:
    run(tmp_path, lambda current: current.cleanup())
    assert stored(tmp_path) == []


def test_what_could_not_be_saved_fails_a_step_that_ended_well(tmp_path: Path) -> None:
    def step(current: Any) -> None:
        Path(current.directory, "loop").symlink_to("loop")

    with pytest.raises(Exception, match="leads back to itself"):
        run(tmp_path, step)


class TestFixedPath:
    """``watch="/a/path"``: where a writer finds the directory that can't be told of it."""

    def test_it_leads_to_the_directory_while_the_step_runs(self, tmp_path: Path) -> None:
        path = tmp_path / "opt" / "checkpoints"
        path.mkdir(parents=True)

        def step(current: Any) -> None:
            assert os.path.realpath(path) == os.path.realpath(current.directory)
            (path / "model").write_bytes(WHOLE)

        run(tmp_path, step, watch=str(path))
        assert [record.metadata for record in stored(tmp_path)] == [{"watch": ["model"]}]
        assert not os.path.lexists(path)

    @pytest.mark.parametrize("pid", [2**22 + 7, os.getpid()], ids=["of nobody", "of this process, in a container started anew"])
    def test_the_link_of_a_dead_attempt_is_replaced(self, tmp_path: Path, pid: int) -> None:
        path = tmp_path / "checkpoints"
        path.symlink_to(tmp_path / f"{PREFIX}{'0' * 12}_0_{pid}_gone")
        run(tmp_path, lambda current: (path / "model").write_bytes(WHOLE), watch=str(path))
        assert len(stored(tmp_path)) == 1

    @pytest.mark.parametrize("there", ["files", "a file", "somebody's link", "a live task's link"])
    def test_what_is_there_is_never_touched(self, tmp_path: Path, there: str) -> None:
        path = tmp_path / "checkpoints"
        if there == "files":
            path.mkdir()
            (path / "mine").write_text("x")
        elif there == "a file":
            path.write_text("x")
        elif there == "somebody's link":
            (tmp_path / "mine").mkdir()
            path.symlink_to(tmp_path / "mine")
        else:
            path.symlink_to(tmp_path / f"{PREFIX}{'0' * 12}_0_{os.getppid()}_alive")
        with pytest.raises(InvalidArgument, match="could not have a folder watched"):
            run(tmp_path, lambda current: None, watch=str(path))
        assert os.path.lexists(path)
        assert list((tmp_path / "tmp").glob(f"{PREFIX}*")) == []


class TestAttributes:
    def test_watching_implies_uploads_beside_the_step(self) -> None:
        assert read_attributes({"watch": "True"}).settings.async_upload is True
        assert read_attributes({"watch": "False"}).settings.async_upload is False
        assert read_attributes({"watch": None}).watch is False

    @pytest.mark.parametrize(
        "values",
        [
            {
                "watch": True,
                "watch_quiet": 0.5,
                "watch_marker": ["DONE", "*.ok"],
                "watch_ignore": "a, b/*",
                "watch_temporary": "x*",
            },
            {"watch": "/opt/ml/checkpoints", "watch_max_wait": 7},
        ],
    )
    def test_a_task_is_given_the_same(self, values: dict[str, object]) -> None:
        found = read_attributes(values)
        text = {name: str(value) for name, value in found.to_attributes().items() if value is not None}
        assert read_attributes(text) == found

    @pytest.mark.parametrize(
        ("attribute", "value"),
        [
            ("watch", "out"),
            ("watch", 3),
            ("watch_quiet", 0),
            ("watch_max_wait", "long"),
            ("watch_marker", ["*"]),
            ("watch_ignore", 3),
        ],
    )
    def test_wrong_values_are_refused(self, attribute: str, value: object) -> None:
        with pytest.raises(Exception, match=rf"@checkpoint\({attribute}=.*the value is not allowed. Allowed: "):
            read_attributes({attribute: value})
