from __future__ import annotations

import pytest

from ckpt_async.transfer import gathering, group_catalog


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No node waits for what another one is doing."""
    _wait(monkeypatch, (0.0,))


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node waits for as long as another one may take on a busy machine, and looks often."""
    _wait(monkeypatch, (0.02,) * 1000)


def _wait(monkeypatch: pytest.MonkeyPatch, pauses: tuple[float, ...]) -> None:
    for module in (gathering, group_catalog):
        monkeypatch.setattr(module, "pauses_s", lambda _: pauses)
