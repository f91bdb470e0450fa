"""Whatever way a step is left, what it saved is in the store, and the artifacts say so."""

from __future__ import annotations

import pytest

from tests.flows.harness import Place

pytestmark = pytest.mark.timeout(600)

RETRY = ("--with", "retry:times=1,minutes_between_retries=0")


def test_an_interrupted_step_leaves_everything_stored(local: Place) -> None:
    result = local.run("exits.py", "--how", "SIGINT")
    assert result.code != 0
    assert local.wait_until_clean() == []
    attempt = local.look("ExitsFlow")["start/0"]["attempts"][0]
    assert [record["metadata"]["number"] for record in attempt["_task_checkpoints"]] == [1, 0]
    assert attempt["_task_latest_checkpoint"] == attempt["_task_checkpoints"][0]
    assert attempt["references"] == attempt["_task_checkpoints"][::-1]


@pytest.mark.slow
def test_catch_steps_in_after_kills(local: Place) -> None:
    """The fallback attempt runs no code of the user: it loads nothing, and still names the newest checkpoint."""
    result = local.run("exits.py", "--how", "SIGKILL-always", *RETRY, "--with", "catch:var=failure")
    assert result.code == 0, result.text
    assert result.after("failure") == ["True"]
    assert local.wait_until_clean() == []
    last = local.look("ExitsFlow")["start/0"]["attempts"][-1]
    assert last["_task_checkpoints"] == []
    assert last["_task_latest_checkpoint"]["type"] == "checkpoint"
