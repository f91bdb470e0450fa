"""A sample of the crash points, and all of the moments that decide; ``make faults`` tries every one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckpt_async.testing.crash_plan import Journal, Plan
from ckpt_async.testing.crash_points import CrashPoints, Outcome, Point, sample
from ckpt_async.testing.crash_scenario import Place, recover, run_task, saves_of
from ckpt_async.testing.faults import IN_MEMORY, table
from ckpt_async.words import keys
from ckpt_async.words.settings import StoreAddress

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

#: How often a point that was not met is tried once more.
CHANCES = 3


@pytest.fixture(scope="module")
def runs_folder() -> Iterator[Path]:
    """In memory where the system has that, like `quick_folder`."""
    memory = IN_MEMORY if os.access(IN_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="ckpt-async-test-", dir=memory) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def harness(runs_folder: Path) -> Iterator[CrashPoints]:
    """One for all tests: a program that has imported everything is what takes time."""
    with CrashPoints(str(runs_folder), parallel=4) as harness:
        yield harness


@pytest.mark.parametrize(
    ("worker", "stage", "every"),
    [("thread", "task", 180), ("thread", "retry", 300), ("process", "task", 180), ("process", "retry", 200)],
    ids=["thread", "thread-retry", "process", "process-retry"],
)
def test_nothing_is_lost_and_nothing_is_half_there(harness: CrashPoints, worker: str, stage: str, every: int) -> None:
    points = harness.points(worker, stage)
    assert len({point.plan.step for point in points}) > 300
    outcomes = harness.run(sample(points, every))
    # Threads race: a few points may not be met, on a busy machine more. They get other chances.
    for _ in range(CHANCES):
        struck = {outcome.point for outcome in outcomes if outcome.struck}
        outcomes += harness.run(sorted({outcome.point for outcome in outcomes} - struck, key=str))
    broken = [f"{outcome.point}\n" + "\n".join(outcome.violations) for outcome in outcomes if outcome.violations]
    assert not broken, "\n\n".join(broken)
    # Were it many that are never met, the test would have tested nothing.
    assert sum(outcome.struck for outcome in outcomes) > 0.8 * len({outcome.point for outcome in outcomes})


@pytest.mark.parametrize("worker", ["thread", "process"])
def test_what_stays_is_whole_while_others_are_deleted(harness: CrashPoints, worker: str) -> None:
    points = harness.points(worker, "pruning")
    assert {point.plan.step.split(" ")[1] for point in points} >= {"delete", "unlink", "put"}
    outcomes = harness.run(sample(points, 25))
    broken = [f"{outcome.point}\n" + "\n".join(outcome.violations) for outcome in outcomes if outcome.violations]
    assert not broken, "\n\n".join(broken)
    assert any(outcome.struck for outcome in outcomes)


# The harness must find what it looks for: each of these is a promise that somebody has broken on purpose.


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "store").mkdir()
    return Place(str(tmp_path), StoreAddress(str(tmp_path / "store")))


@pytest.fixture
def journal(place: Place) -> Iterator[Journal]:
    journal = Journal(place.journal)
    run_task(place, "thread", 30.0, journal)
    yield journal
    journal.close()


def test_a_whole_run_breaks_no_promise(place: Place, journal: Journal) -> None:
    assert list(saves_of(Journal.read(place.journal))) == [0, 1, 2]
    assert recover(place, journal) == []


def test_a_lost_checkpoint_is_found(place: Place, journal: Journal) -> None:
    key = saves_of(Journal.read(place.journal))[1]
    for path in (keys.record_key(key), keys.task_record_key(place.identity(0), "model", 1), key):
        os.unlink(os.path.join(place.address.url, path))
    found = recover(place, journal)
    assert any(text.startswith("silent: ") for text in found) and any(text.startswith("lost: [1]") for text in found)


def test_half_a_checkpoint_is_found(place: Place, journal: Journal) -> None:
    key = saves_of(Journal.read(place.journal))[0]
    os.unlink(os.path.join(place.address.url, key, "model.bin"))
    assert any(text.startswith(f"half there: {key}") for text in recover(place, journal))


def test_a_dangling_latest_is_found(place: Place, journal: Journal) -> None:
    key = saves_of(Journal.read(place.journal))[2]
    for path in (keys.record_key(key), keys.task_record_key(place.identity(0), "model", 2)):
        os.unlink(os.path.join(place.address.url, path))
    assert any("dangles" in text for text in recover(place, journal))


def test_a_spool_that_stays_is_found(place: Place, journal: Journal) -> None:
    os.makedirs(os.path.join(place.scratch, "forgotten"))
    assert any(text.startswith("not emptied: ") for text in recover(place, journal))


def test_a_foreign_error_is_found(place: Place, journal: Journal) -> None:
    # A file where the spools should stand, in the place of the folder: our error. A store address of another type: a foreign one.
    other = Place(place.folder, StoreAddress(None))  # type: ignore[arg-type]
    run_task(other, "thread", 30.0, journal, attempt=1)
    assert any(line["what"] == "violation" and "foreign" in line["text"] for line in Journal.read(place.journal))


def test_the_table_counts() -> None:
    point = Point("thread", "task", Plan("task mkdir spool #1", "kill-both"))
    outcomes = [Outcome(point, True, (), 1.0), Outcome(point, True, ("lost",), 1.0), Outcome(point, False, (), 1.0)]
    rows = [line.split() for line in table(outcomes).splitlines()]
    assert rows[1][-4:] == ["2", "1", "1", "1"] == rows[-1][-4:]


def test_a_run_that_survived_leaves_nothing(harness: CrashPoints, runs_folder: Path) -> None:
    before = sorted(os.listdir(runs_folder))
    points = [point for point in harness.points("thread") if point.kind == "thread: tear"][:1]
    (outcome,) = harness.run(points)
    assert outcome.struck and not outcome.violations
    assert sorted(os.listdir(runs_folder)) == before
