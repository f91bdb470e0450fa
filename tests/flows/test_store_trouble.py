"""Stores that are slow, down, or refuse."""

from __future__ import annotations

import pytest

from ckpt_async import StoreAddress, open_reader
from ckpt_async.testing.slow_line import SlowLine
from tests.flows.harness import Place

pytestmark = pytest.mark.timeout(600)


@pytest.mark.slow
def test_what_was_saved_while_the_store_was_away_is_stored(
    checkpoints_behind_line: Place, line: SlowLine, s3_address: StoreAddress
) -> None:
    place, reader = checkpoints_behind_line, open_reader(s3_address)
    with place.start("outage.py") as run:
        # The machine loses its network in the middle of a step.
        [first] = run.wait_for(r"(\S+) goes on when")
        line.cut()
        (place.folder / "away-start").touch()
        run.wait_for("2 saves with .* left; trouble, being retried: ")
        line.restore()

        # The store is down from the first save of an attempt until after its end.
        second = run.wait_for(r"(\S+) goes on when", 2)[1]
        line.cut()
        (place.folder / "away-lasting").touch()
        run.wait_for(r"FlushTimeout: .*1 save with 12 bytes left.*is kept in ")
        # The retry takes it from this machine, and asks nobody.
        run.wait_for("attempt 1 began with never stored")
        assert len(place.saves_left(second)) == 1
        line.restore()
        result = run.end()
    assert result.code == 0, result.text
    assert len([said for said in result.text.splitlines() if "start/1 " in said and "trouble" in said]) == 1
    assert place.wait_until_clean() == []
    assert [[(one.attempt, one.version_id) for one in reader.list(task)] for task in (first, second)] == [
        [(0, 2), (0, 1), (0, 0)],
        [(0, 0)],
    ]


@pytest.mark.slow
def test_a_refused_save_fails_the_attempt_and_says_why(local: Place) -> None:
    """A file stands where the store would make a folder: permanent, so nothing is retried."""
    root = local.folder / ".metaflow"
    root.mkdir()
    (root / "mf.checkpoints").write_text("in the way")
    result = local.run("exits.py")
    assert result.code == 1
    assert "StoreRejected" in result.text
    assert "kept in" in result.text
    assert result.after("failure") == []


@pytest.mark.slow
def test_a_failed_flush_hides_no_exception(local: Place) -> None:
    root = local.folder / ".metaflow"
    root.mkdir()
    (root / "mf.checkpoints").write_text("in the way")
    result = local.run("exits.py", "--how", "raise", "--with", "catch:var=failure")
    assert result.code == 0, result.text
    assert "ValueError: left by an exception" in result.text
    assert "while the step failed with ValueError, its checkpoints were not all stored" in result.text
    task = local.look("ExitsFlow")["start/0"]["attempts"][-1]
    assert task["_task_checkpoints"] == []
    assert [reference["type"] for reference in task["references"]] == ["checkpoint-not-stored"] * 2


@pytest.mark.slow
def test_a_spot_notice_has_the_newest_save_stored_first(checkpoints_behind_line: Place, line: SlowLine) -> None:
    with checkpoints_behind_line.start("spot.py") as run:
        line.cut()
        run.wait_for("saved 3")
        run.wait_for("EntryStarted 0")
        (checkpoints_behind_line.folder / "notice").write_text("2030-01-01T00:02:00Z\n")
        run.wait_for("EntryStarted 2")
        line.restore()
        result = run.end()
    assert result.code == 0, result.text
    assert result.numbers("EntryCommitted") == [2, 1, 0]
    told = "Spot notice: this machine is taken away (2030-01-01T00:02:00Z). 3 saves ("
    assert result.text.count(told) == 1 and result.text.count("Spot notice") == 1, result.text
    # It has ended by itself, as there is no second notice.
    assert result.numbers("watching") == [0]
