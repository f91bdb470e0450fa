"""A flow that trains with `save_state`: what it goes on from after a kill and after a failure, and how it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.flows.harness import Place
from tests.integrations.frameworks import need


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_flow_goes_on_from_the_newest_state_whatever_ended_its_attempts(tmp_path: Path) -> None:
    need("torch")
    place = Place(tmp_path)
    result = place.run("torch_states.py")
    assert result.code == 0, result.text
    assert result.after("began after") == ["step 0", "step 3", "step 6"], result.text
    assert result.after("undisturbed") == ["True"]
    assert result.after("newest") == ["8 dict"]
    assert place.wait_until_clean() == []
