"""Flows whose datastore is Azure Blob Storage, Google Cloud Storage, or one that another extension has registered."""

from __future__ import annotations

import pytest

from tests.flows.harness import FlowResult, Place

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def check(place: Place) -> FlowResult:
    """A task is killed, its retry goes on from the last save, and all of it is stored."""
    result = place.run("clouds.py")
    assert result.code == 0, result.text
    assert result.numbers("resumed at") == [2]
    assert result.after("listed") == ["[(1, 3), (1, 2)]", "[(0, 1), (0, 0)]"], result.text
    assert place.wait_until_clean() == []
    assert "Traceback" not in result.text and "Warning:" not in result.text
    return result


def test_azure(on_azure: Place) -> None:
    check(on_azure)


def test_gcs(on_gcs: Place) -> None:
    check(on_gcs)


def test_a_datastore_of_another_extension(on_shelf: Place) -> None:
    result = check(on_shelf)
    # Once by each task that lives long enough.
    assert 2 <= result.text.count("is reached through its own storage class, in threads") <= 3, result.text
