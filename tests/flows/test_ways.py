"""Every way of leaving a step while the store takes nothing: what was saved is stored in the end, and a retry begins with it."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from ckpt_async import StoreAddress, open_reader
from ckpt_async.testing.slow_line import SlowLine
from tests.engine.desk import wait_for
from tests.flows.harness import Place

pytestmark = pytest.mark.timeout(600)

#: What a branch is left by, attempt after attempt. "grace" and "impatience" wait for the test's signals.
FLUSHED = ["raise+alarm", "sys_exit"]
LEFT_ALONE = ["os_exit+kill_task", "kill_both", "impatience", "grace"]
WELL = "kill_sidecar"


def is_data(request: str) -> bool:
    """Whether an HTTP request uploads files of a checkpoint."""
    return request.startswith("PUT ") and "/checkpoints/artifacts/" in request


@pytest.mark.slow
def test_whatever_ends_a_task_nothing_is_lost(
    checkpoints_behind_line: Place, line: SlowLine, s3_address: StoreAddress, tmp_path: Path
) -> None:
    place, reader = checkpoints_behind_line, open_reader(s3_address)
    branches = [*FLUSHED, *LEFT_ALONE, WELL]
    line.hold(is_data)
    with place.start("ways.py", "--ways", ",".join(branches)) as run:
        run.wait_for(r"attempt 0 saved twice, 2 pending", len(branches))
        found = re.findall(r"\[\d+/(\S+) \(pid (\d+)\)\] (\S+): (\S+) attempt 0 saved twice", run.text)
        names = {branch: name for name, _, _, branch in found}
        pids = {branch: int(pid) for _, pid, _, branch in found}
        pathspecs = {branch: pathspec for _, _, pathspec, branch in found}

        # SIGTERM, and SIGKILL when the time of grace is over: the newer save was stored first.
        os.kill(pids["grace"], signal.SIGTERM)
        run.wait_for(rf"{names['grace']} .*2 saves are being stored, newest first")
        line.hold(lambda request: is_data(request) and ".grace.1/" not in request)
        wait_for(lambda: len(place.saves_left(pathspecs["grace"])) == 1, "one save is stored")
        os.kill(pids["grace"], signal.SIGKILL)

        # A second signal ends the wait, and not the uploads.
        for answer in ("a second signal ends the wait", "a process beside the task goes on storing 2 saves"):
            os.kill(pids["impatience"], signal.SIGTERM)
            run.wait_for(rf"{names['impatience']} .*{answer}")

        # Nobody waits for the sidecars of these attempts: the next ones have begun, with saves that no store has.
        for branch in LEFT_ALONE:
            run.wait_for(rf"\] {re.escape(branch)} attempt 1 began with 1")
        assert [len(reader.list(pathspecs[branch])) for branch in LEFT_ALONE] == [0, 0, 0, 1]
        # It is said after a second; the alarm of @timeout would have struck after half of one.
        run.wait_for(rf"{names[WELL]} .*Uploading to ")
        line.hold(lambda request: is_data(request) and ".join." in request)

        # Ctrl-C: Metaflow kills the task some seconds later and ends, while nothing of this step is stored.
        [pathspecs["join"]] = run.wait_for(r"(\S+): join attempt 0 saved twice, 2 pending")
        os.killpg(run.process.pid, signal.SIGINT)
        result = run.end()
    assert result.code != 0
    assert len(place.saves_left(pathspecs["join"])) == 2
    line.let_go()
    place.wait_until_stored()

    begun = set(re.findall(r"(\S+) attempt (\d) began with (\w+)", result.text))
    assert begun == {(branch, "0", "None") for branch in branches} | {(branch, "1", "1") for branch in branches if branch != WELL}
    left = dict(re.findall(r"\] (\S+) was left by (\w+)", result.text))
    assert left == {branch: "MetaflowExceptionWrapper" if "+" in branch else "NoneType" for branch in branches}
    lists = {(pathspec, attempt): told for pathspec, attempt, told in re.findall(r"(\S+) attempt (\d) lists (.*)", result.text)}
    for branch in (*FLUSHED, WELL):
        assert lists[pathspecs[branch], "0"] == "([1, 0], 0)"
    for branch in ("sys_exit", "kill_both", "impatience", "grace"):
        assert lists[pathspecs[branch], "1"] == "([], 0)"
    assert lists[pathspecs["impatience"], "0"] == "([], None)"
    assert result.text.count("is started again") == 1
    for branch, pathspec in pathspecs.items():
        records = reader.list(pathspec)
        attempts = [1, 0] if "+" in branch else [0]
        assert [(one.attempt, one.version_id) for one in records] == [
            (attempt, number) for attempt in attempts for number in (1, 0)
        ]
        reader.load(records[0].key, str(tmp_path / branch))
        assert (tmp_path / branch / "data").read_bytes() == b"\1" * 300_000
