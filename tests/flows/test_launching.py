"""Other ways than `run` to start a step with `@checkpoint`, and what editors are told of it."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from metaflow_extensions.ckpt_async.plugins.checkpoint.attributes import read_attributes
from metaflow_extensions.ckpt_async.plugins.checkpoint.decorator import CheckpointDecorator
from tests.flows.harness import PROGRAMS, RUN_TIMEOUT_S, Place

pytestmark = pytest.mark.timeout(600)


def output_of(place: Place, program: str, argument: Path) -> str:
    """Run a program that is no flow; returns what it printed."""
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / program), str(argument)],
        cwd=place.folder,
        env=place.environment(),
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_runner_and_spin(local: Place) -> None:
    place = dataclasses.replace(local, variables={"COUNTER_ASYNC": "True", "COUNTER_CARD": "False"})
    printed = output_of(place, "launched.py", PROGRAMS / "counter.py").splitlines()
    assert "run saved [10, 8, 6, 4, 2]" in printed
    # What is spun is kept apart, as Metaflow does with artifacts.
    assert printed[-3:] == ["spin saved [10, 8, 6, 4, 2]", "apart True", "still there True"]
    assert place.wait_until_clean() == []


def test_stubs_know_the_decorator_and_current(local: Place) -> None:
    """`metaflow develop stubs install` makes a package of these files."""
    output_of(local, "stubs.py", local.folder / "stubs")
    attributes = re.compile(r"^def checkpoint\(\*, load_policy: .* = 'fresh', .*async_upload: bool = False,", re.MULTILINE)
    assert attributes.search((local.folder / "stubs" / "__init__.pyi").read_text())
    current = (local.folder / "stubs" / "metaflow_current.pyi").read_text()
    assert re.search(r"def checkpoint\(self\) -> .*\.CurrentCheckpoint\"", current)


def test_a_deployed_flow_has_the_attributes_as_text() -> None:
    """Argo Workflows and others write decorators that were not in the file into the command of each task."""
    given = {"async_upload": True, "load_policy": None, "max_pending_bytes": "20GB", "spool_dir": "/a, b/'c'=\"d\"", "max_lag": 2.5}
    decorator = CheckpointDecorator(attributes=given)
    decorator.init()
    name, _, text = decorator.make_decorator_spec().partition(":")
    arguments, attributes = CheckpointDecorator.extract_args_kwargs_from_decorator_spec(text)
    assert (name, arguments) == ("checkpoint", [])
    assert read_attributes(attributes) == read_attributes(given)
