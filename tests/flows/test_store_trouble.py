"""Stores that are slow, down, or refuse."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckpt_async.testing.slow_line import SlowLine
from tests.fixtures_s3 import S3Place
from tests.flows.harness import Place, s3_variables

pytestmark = pytest.mark.timeout(600)

RETRY = ("--with", "retry:times=1,minutes_between_retries=0")


@pytest.fixture
def line(s3_place: S3Place) -> Iterator[SlowLine]:
    """A line to the test server that Metaflow knows nothing of."""
    with SlowLine(s3_place.server.host, s3_place.server.port) as slow:
        yield slow


@pytest.fixture
def behind_line(tmp_path: Path, s3_place: S3Place, line: SlowLine) -> Place:
    """A place whose checkpoints and artifacts go through the line."""
    return Place(tmp_path, "s3", s3_variables(s3_place, line.endpoint_url))


@pytest.mark.slow
def test_a_kill_before_the_upload_ended_loses_nothing(behind_line: Place, line: SlowLine) -> None:
    """8 MB through 1 MB/s: when the task dies, they can't be in the store. The retry begins with the second save all the same."""
    line.set_rate(1_000_000)
    result = behind_line.run("exits.py", "--how", "SIGKILL", "--size_bytes", "4000000", *RETRY)
    assert result.code == 0, result.text
    assert result.after("loaded")[-1] == "1"
    assert behind_line.wait_until_clean() == []
    task = behind_line.look("ExitsFlow")["start/0"]
    assert task["attempts"][1]["_task_latest_checkpoint"]["attempt"] == 0


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
def test_a_second_signal_ends_the_wait(behind_line: Place, line: SlowLine) -> None:
    """The task ends at once; the process beside it stores what was saved."""
    line.set_rate(200_000)
    process = behind_line.start("exits.py", "run", "--how", "return", "--size_bytes", "1000000")
    assert process.stdout is not None
    text = ""
    try:
        for piece in process.stdout:
            text += piece
            if "saved both" in piece:
                task_pid = int(piece.split("(pid ")[1].split(")")[0])
                os.kill(task_pid, signal.SIGTERM)
            if "a second signal ends the wait" in piece:
                os.kill(task_pid, signal.SIGTERM)
    finally:
        process.stdout.close()
        process.wait(60)
    assert "stopped waiting at a signal" in text, text
    assert process.returncode != 0
    line.set_rate(None)
    assert behind_line.wait_until_clean() == []


def test_spools_are_private(local: Place) -> None:
    local.run("plain.py", "--with", "checkpoint:show_card=False")
    assert stat.S_IMODE(local.scratch.stat().st_mode) == 0o700
