"""``python flow.py checkpoint``: the command line of the checkpoints of one flow."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.flows.harness import PROGRAMS, RUN_TIMEOUT_S, Place


def call(place: Place, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [place.python, *words], cwd=place.folder, env=place.environment(), capture_output=True, text=True, timeout=RUN_TIMEOUT_S
    )


@pytest.mark.slow
def test_the_checkpoints_of_a_flow(tmp_path: Path) -> None:
    local = Place(tmp_path, variables={"COUNTER_ASYNC": "False", "COUNTER_CARD": "False"})
    assert local.run("counter.py", "--fail_at", ",").code == 0
    flow = str(PROGRAMS / "counter.py")
    answer = call(local, flow, "checkpoint", "list", "--json")
    assert answer.returncode == 0, answer.stderr
    # Nothing else is on stdout.
    found = json.loads(answer.stdout)["checkpoints"]
    assert found
    name, run, step, task = found[0]["pathspec"].split("/")
    answer = call(local, flow, "checkpoint", "show", f"{run}/{step}/{task}:latest", "--json")
    assert json.loads(answer.stdout)["key"] == next(one["key"] for one in found if one["latest"])
    answer = call(local, flow, "checkpoint", "show", f"OtherFlow/{run}/{step}/{task}")
    assert (answer.returncode, f"this is the command of the flow {name}" in answer.stderr) == (2, True)
    # Outside of the flow: what Metaflow is configured for.
    answer = call(local, "-m", "ckpt_async.cli", "list", "--json")
    assert json.loads(answer.stdout)["checkpoints"] == found, answer.stderr


def test_metaflow_and_flows_load_nothing_of_it(local: Place) -> None:
    code = (
        "import sys, metaflow\n"
        "print(*[name for name in sys.modules if name.startswith(('typer', 'rich', 'ckpt_async.cli'))"
        " or name.endswith('checkpoint.cli')])"
    )
    answer = call(local, "-c", code)
    assert (answer.returncode, answer.stdout.split()) == (0, []), answer.stderr
