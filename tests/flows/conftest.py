"""Places in which flows run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.flows.harness import Place


@pytest.fixture
def local(tmp_path: Path) -> Place:
    """The local datastore."""
    return Place(tmp_path)
