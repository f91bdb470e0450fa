from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize(("scenario", "fewest_kills"), [("saving", 30), ("uploading", 20), ("dropping", 4)])
def test_a_kill_before_any_system_call_loses_nothing_and_leaves_no_half(scenario: str, fewest_kills: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.spool.killed", scenario, str(tmp_path)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= fewest_kills
