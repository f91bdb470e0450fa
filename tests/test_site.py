"""The documentation as a site: the reference has every public name once, and what the pages name is checked."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import pytest
import typer

import ckpt_async
from ckpt_async.cli.app import app

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def check_docs(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import check_docs

    monkeypatch.delitem(sys.modules, "check_docs")
    return check_docs


def test_every_public_name_is_in_the_reference_once() -> None:
    pages = sorted((ROOT / "docs" / "reference").glob("*.md"))
    named = Counter(name for page in pages for name in re.findall(r"^::: ckpt_async\.(\w+)$", page.read_text(), re.MULTILINE))
    assert named == Counter(name for name in ckpt_async.__all__ if name != "__version__")


@pytest.mark.parametrize(
    "line",
    [
        "ckpt-async lits TrainFlow",
        "ckpt-async --store s3://bucket lits",
        "ckpt-async list TrainFlow --atempt 1",
        "python flow.py checkpoint prune 12 --keep-best loss:min --keep-forever",
    ],
)
def test_a_command_that_does_not_exist_is_found(check_docs, line: str) -> None:
    program = typer.main.get_command(app)
    for text in (f"See `{line}`.", f"    {line}\n", f"```console\n$ {line}\n```\n"):
        assert len(list(check_docs.missing_commands(text, program))) == 1
    assert not list(check_docs.missing_commands("`ckpt-async list TrainFlow --attempt 1 --json`", program))


def test_an_attribute_that_does_not_exist_is_found(check_docs) -> None:
    text = '`--with checkpoint:async_upload=True,max_pendng=4`, `@checkpoint(keep_last=3, keep_bets="loss:min")`'
    assert list(check_docs.missing_attributes(text)) == [
        "@checkpoint has no attribute 'keep_bets'",
        "@checkpoint has no attribute 'max_pendng'",
    ]
