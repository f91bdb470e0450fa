"""Places in which flows run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ckpt_async.testing.slow_line import SlowLine
from tests.fixtures_clouds import AzurePlace, GcsPlace
from tests.fixtures_s3 import S3Place
from tests.flows.harness import EXTENSION, Place, azure_variables, gcs_variables, s3_variables


@pytest.fixture
def local(tmp_path: Path) -> Place:
    """The local datastore."""
    return Place(tmp_path)


@pytest.fixture
def on_s3(tmp_path: Path, s3_place: S3Place) -> Place:
    """An S3 datastore of its own, reached through Metaflow's settings alone."""
    return Place(tmp_path, "s3", s3_variables(s3_place, s3_place.server.endpoint_url))


@pytest.fixture
def on_azure(tmp_path: Path, azure_place: AzurePlace) -> Place:
    """An Azure datastore of its own, reached through Metaflow's settings alone."""
    return Place(tmp_path, "azure", azure_variables(azure_place))


@pytest.fixture
def on_gcs(tmp_path: Path, gcs_place: GcsPlace) -> Place:
    """A Google Cloud datastore of its own, reached likewise."""
    return Place(tmp_path, "gs", gcs_variables(gcs_place))


@pytest.fixture
def on_shelf(tmp_path: Path) -> Place:
    """A datastore of a kind that another extension has registered."""
    (tmp_path / "shelf").mkdir()
    return Place(tmp_path, "shelf", {"PYTHONPATH": EXTENSION, "SHELF_ROOT": str(tmp_path / "shelf")})


@pytest.fixture
def line(s3_place: S3Place) -> Iterator[SlowLine]:
    """A line to the test server that Metaflow knows nothing of."""
    with SlowLine(s3_place.server.host, s3_place.server.port) as slow:
        yield slow


@pytest.fixture
def behind_line(tmp_path: Path, s3_place: S3Place, line: SlowLine) -> Place:
    """A place whose checkpoints and artifacts go through the line."""
    return Place(tmp_path, "s3", s3_variables(s3_place, line.endpoint_url))


@pytest.fixture
def checkpoints_behind_line(tmp_path: Path, s3_place: S3Place, line: SlowLine) -> Place:
    """A place whose checkpoints alone go through the line, for programs that import ``apart``."""
    return Place(tmp_path, "local", {**s3_variables(s3_place, line.endpoint_url), "CHECKPOINTS_AT": s3_place.url})
