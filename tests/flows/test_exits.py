"""Whatever way a step is left, what it saved is in the store, and the artifacts say so."""

from __future__ import annotations

import pytest

from tests.flows.harness import Place

pytestmark = pytest.mark.timeout(600)

RETRY = ("--with", "retry:times=1,minutes_between_retries=0")


def check_first_attempt(place: Place, *, user_references: bool = True) -> None:
    """Both saves of attempt 0 are in its artifacts, and load."""
    first = place.look("ExitsFlow")["start/0"]["attempts"][0]
    assert [record["metadata"]["number"] for record in first["_task_checkpoints"]] == [1, 0]
    assert first["_task_latest_checkpoint"] == first["_task_checkpoints"][0]
    if user_references:
        assert first["references"] == first["_task_checkpoints"][::-1]


@pytest.mark.parametrize("how", ["raise", "sys.exit", "SIGINT"])
def test_a_failed_step_leaves_everything_stored(local: Place, how: str) -> None:
    result = local.run("exits.py", "--how", how)
    assert result.code != 0
    assert local.wait_until_clean() == []
    assert "while the step failed" not in result.text
    check_first_attempt(local)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["raise", "SIGTERM"])
def test_a_retry_resumes_from_the_last_save(local: Place, how: str) -> None:
    result = local.run("exits.py", "--how", how, *RETRY)
    assert result.code == 0, result.text
    assert result.after("loaded")[-1] == "1"
    assert local.wait_until_clean() == []
    check_first_attempt(local)
    second = local.look("ExitsFlow")["start/0"]["attempts"][1]
    assert second["_task_checkpoints"] == []
    assert second["_task_latest_checkpoint"]["attempt"] == 0


def test_a_killed_step_resumes_from_the_last_save(local: Place) -> None:
    result = local.run("exits.py", "--how", "SIGKILL", *RETRY)
    assert result.code == 0, result.text
    assert result.after("loaded")[-1] == "1"
    assert local.wait_until_clean() == []


def test_a_timeout_does_not_strike_twice(local: Place) -> None:
    result = local.run("exits.py", "--how", "hang", "--with", "timeout:seconds=2", "--with", "catch:var=failure")
    assert result.code == 0, result.text
    assert result.after("failure") == ["True"]
    assert local.wait_until_clean() == []
    check_first_attempt(local)


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
