"""Places in which flows run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures_s3 import S3Place
from tests.flows.harness import Place, s3_variables


@pytest.fixture
def local(tmp_path: Path) -> Place:
    """The local datastore."""
    return Place(tmp_path)


@pytest.fixture
def on_s3(tmp_path: Path, s3_place: S3Place) -> Place:
    """An S3 datastore of its own, reached through Metaflow's settings alone."""
    return Place(tmp_path, "s3", s3_variables(s3_place, s3_place.server.endpoint_url))


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, local: Place, on_s3: Place) -> Place:
    """Each of the two in turn. Both are arguments, so that the server starts before the leak check looks."""
    return local if request.param == "local" else on_s3
