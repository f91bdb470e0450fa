"""A later run finds what a dead one left on this machine, and sees to it that the datastore gets it."""

from __future__ import annotations

import sys

import pytest

from tests.engine.desk import wait_for
from tests.flows.harness import Place

pytestmark = pytest.mark.timeout(600)


@pytest.mark.skipif(sys.platform != "linux", reason="the program finds its sidecar through /proc")
def test_eager_goes_on_from_what_a_dead_run_left_in_a_new_run_and_with_resume(local: Place) -> None:
    first = local.run("eager.py")
    assert first.code != 0 and first.numbers("begins with") == [0]
    second = local.run("eager.py")
    assert second.code != 0 and second.numbers("begins with") == [2], second.text
    assert "left on this machine" in second.text
    resumed = local.run("eager.py", command="resume")
    assert resumed.code == 0 and resumed.numbers("begins with") == [4], resumed.text
    wait_for(lambda: not local.spools(), "everything that was left has been brought home")
    stored = (local.folder / ".metaflow").rglob("artifact_metadata/**/*.metadata")
    assert sorted(path.name.split(".", 1)[1] for path in stored) == sorted(2 * ["0.mfchckpt.0.metadata", "0.mfchckpt.1.metadata"])
