"""What users install, with the oldest and the newest Python and Metaflow that are supported."""

from __future__ import annotations

import dataclasses

import pytest

from tests.environments import interpreter, product, requirements, virtual_environment
from tests.flows.harness import Place

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(params=[("3.10", "metaflow==2.16.8"), ("3.13", "metaflow")], ids=["oldest", "newest"])
def python(request: pytest.FixtureRequest) -> str:
    version, metaflow = request.param
    if (found := interpreter(version)) is None:
        pytest.skip(f"there is no Python {version} here")
    return str(virtual_environment(f"python-{version}", [*requirements(), metaflow], python=found))


@pytest.fixture
def elsewhere(python: str, on_s3: Place) -> Place:
    """A place whose runs have what users install."""
    return dataclasses.replace(on_s3, python=python, variables={**on_s3.variables, "PYTHONPATH": str(product())})


def test_a_retry_resumes(elsewhere: Place) -> None:
    place = dataclasses.replace(elsewhere, variables={**elsewhere.variables, "COUNTER_ASYNC": "True", "COUNTER_CARD": "False"})
    result = place.run("counter.py")
    assert result.code == 0, result.text
    assert result.numbers("resumed at") == [2, 6]
    assert result.numbers("ended at") == [10]
    assert "Warning:" not in result.text
    assert place.wait_until_clean() == []
    attempts = place.look("CounterFlow")["start/0"]["attempts"]
    assert [[record["metadata"]["counter"] for record in attempt["_task_checkpoints"]] for attempt in attempts] == [
        [2],
        [6, 4],
        [10, 8],
    ]
