"""The tests of each integration, in a process of its own: those of the module, and the example of the documentation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integrations.frameworks import FRAMEWORKS, Framework, need
from tests.integrations.test_documentation import EXAMPLES

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
TIMEOUT_S = 500.0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("framework", FRAMEWORKS, ids=lambda framework: framework.file[len("test_") : -len(".py")])
def test_the_tests_of_a_framework_pass(framework: Framework, tmp_path: Path) -> None:
    need(*framework.packages)
    tests = [str(HERE / framework.file)]
    if framework.section:
        tests.append(f"{HERE / 'test_documentation.py'}::test_an_example_runs_and_is_resumed[{framework.section}]")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n0",
        "-p",
        "no:cacheprovider",
        "--durations=5",
        f"--basetemp={tmp_path / 'inside'}",
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run([*command, *tests], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)


def test_every_example_of_the_documentation_is_tried() -> None:
    assert set(EXAMPLES) == {framework.section for framework in FRAMEWORKS if framework.section}
