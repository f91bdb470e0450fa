"""`@parallel`: nodes save alone and together, lose one of them, and go on."""

from __future__ import annotations

import dataclasses
import os
import sys

import pytest

from tests.fixtures_s3 import S3Place
from tests.flows.harness import Place, s3_variables

pytestmark = pytest.mark.timeout(600)


@pytest.mark.slow
@pytest.mark.parametrize(("datastore", "order"), [("local", "below"), ("s3", "above")])
def test_a_gang_saves_alone_and_together_and_goes_on_from_one_group_save(
    local: Place, s3_place: S3Place, datastore: str, order: str
) -> None:
    place = local
    if datastore == "s3":
        at_s3 = {**s3_variables(s3_place, s3_place.server.endpoint_url), "CHECKPOINTS_AT": s3_place.url}
        place = dataclasses.replace(local, variables=at_s3)
    # Metaflow starts the other nodes with the `python` that it finds.
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    place = dataclasses.replace(place, variables={**place.variables, "PATH": path, "GANG_CHECKPOINT": order})
    result = place.run("gang.py")
    assert result.code == 0, result.text
    for node in range(3):
        assert result.after(f"0 node {node} began with") == ["nothing"], result.text
        assert result.after(f"1 node {node} began with") == [f"{node} of 1 1 ['shard']"], result.text
        assert result.after(f"whole {node}") == [f"{node} of 3"]
    assert result.after("part") == ["2 of 3"]
    assert result.after("identifiers") == ["1"]
    # What nodes 0 and 2 saved after node 1 had failed never became whole.
    assert result.after("attempt 0 groups") == ["[1]"]
    assert result.after("attempt 1 groups") == ["[3]"]
    for attempt in (0, 1):
        assert result.after(f"attempt {attempt} alone") == ["6 [0, 0, 1, 1, 2, 2]"]
    if order == "above":
        assert result.after("control") == ["checkpoint True"], "the control task ends last, and knows that all is there"
    assert result.after("nodes") == ["3 [True, True, True]"]
    assert result.after("cards") == ["[True]" if order == "above" else "[]"]
    assert place.wait_until_clean() == []
