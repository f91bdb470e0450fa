"""The tests of the integrations, in processes of their own: those of each module, and the examples of the documentation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integrations.frameworks import FRAMEWORKS, PROCESSES, need
from tests.integrations.test_documentation import EXAMPLES

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TIMEOUT_S = 500.0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("together", PROCESSES)
def test_the_tests_of_these_frameworks_pass(together: str, tmp_path: Path) -> None:
    frameworks = PROCESSES[together]
    need(*(package for framework in frameworks for package in framework.packages))
    tests = [str(HERE / framework.file) for framework in frameworks]
    example = f"{HERE / 'test_documentation.py'}::test_an_example_runs_and_is_resumed"
    tests += [f"{example}[{framework.section}]" for framework in frameworks if framework.section]
    options = ["-q", "-n0", "-p", "no:cacheprovider", "--durations=5", f"--basetemp={tmp_path / 'inside'}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", *options, *tests]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_example_of_the_documentation_is_tried() -> None:
    assert set(EXAMPLES) == {framework.section for framework in FRAMEWORKS if framework.section}
