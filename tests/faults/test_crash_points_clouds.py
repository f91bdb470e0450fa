"""A few of the crash points with the store on Azure and on Google Cloud Storage: the death of all, and answers that get lost, at
calls that these stores carry out in several requests or with conditions of their own.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterator

import pytest

from ckpt_async.testing.access import AZURE_ACCESS_SPEC, GCS_ACCESS_SPEC, azure_access_variables, gcs_access_variables
from ckpt_async.testing.azurite import AzuriteServer
from ckpt_async.testing.crash_points import CrashPoints, Point
from ckpt_async.testing.fake_gcs import FakeGcsServer
from ckpt_async.words.settings import StoreAddress
from tests.fixtures_clouds import BUCKET

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

#: What goes wrong, and at which call.
TRIED = (("kill-both", "complete_multipart"), ("reset", "complete_multipart"), ("kill-both", "put_part"), ("reset", "latest"))


def tried(points: list[Point]) -> list[Point]:
    """The first point of each kind that is tried."""
    return [
        next(point for point in points if point.plan.action == action and not point.plan.lasting and _is_at(point, at))
        for action, at in TRIED
    ]


def _is_at(point: Point, at: str) -> bool:
    _, operation, on = point.plan.step.split(" ")[:3]
    return at in operation or (at == "latest" and operation == "put" and on.endswith("/latest"))


@pytest.fixture(scope="module")
def of_azure(azurite: AzuriteServer) -> Iterator[CrashPoints]:
    yield from _harness(
        azure_access_variables(azurite.endpoint_url, azurite.authority), lambda url: f"azure://{url}", AZURE_ACCESS_SPEC
    )


@pytest.fixture(scope="module")
def of_gcs(fake_gcs: FakeGcsServer) -> Iterator[CrashPoints]:
    yield from _harness(gcs_access_variables(fake_gcs.endpoint_url), lambda url: f"gs://{url}", GCS_ACCESS_SPEC)


def _harness(variables: dict[str, str], address: Callable[[str], str], access: str) -> Iterator[CrashPoints]:
    unique = uuid.uuid4().hex[:12]
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ckpt-async-test-") as folder:
        for name, value in variables.items():
            patch.setenv(name, value)
        with CrashPoints(
            folder, make_address=lambda name: StoreAddress(address(f"{BUCKET}/crash-{unique}/{name}"), access)
        ) as harness:
            yield harness


def check(harness: CrashPoints) -> None:
    points = tried(harness.points("thread"))
    outcomes = harness.run(points)
    broken = [f"{outcome.point}\n" + "\n".join(outcome.violations) for outcome in outcomes if outcome.violations]
    assert not broken, "\n\n".join(broken)
    assert sum(outcome.struck for outcome in outcomes) >= len(points) / 2


def test_nothing_is_lost_on_azure(of_azure: CrashPoints) -> None:
    check(of_azure)


def test_nothing_is_lost_on_gcs(of_gcs: CrashPoints) -> None:
    check(of_gcs)
