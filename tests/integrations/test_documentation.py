"""What docs/integrations.md shows is run: each example twice, as the first attempt and as the retry."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integrations.conftest import Attempts

PAGE = Path(__file__).parent.parent.parent / "docs" / "integrations.md"
SECTIONS = re.findall(r"^## (.+?)\n.*?^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
EXAMPLES = {title: block for title, block in SECTIONS if "def train(checkpoint)" in block}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized"),
]


@pytest.mark.parametrize("title", EXAMPLES)
def test_an_example_runs_and_is_resumed(
    title: str, attempts: Attempts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_bars: None
) -> None:
    monkeypatch.chdir(tmp_path)
    example: dict[str, Any] = {}
    exec(compile(EXAMPLES[title], title, "exec"), example)
    train: Callable[[Any], object] = example["train"]
    train(attempts.begin())
    saver = attempts.begin()
    stored = attempts.desk.records()
    assert saver.is_loaded and stored
    train(saver)
    attempts.end()
    # The first attempt had come to its end: there was nothing left, or only what comes after the last save.
    assert len(attempts.desk.records()) <= len(stored) + 1
