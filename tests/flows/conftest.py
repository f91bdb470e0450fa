"""Places in which flows run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ckpt_async.testing.slow_line import SlowLine
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
