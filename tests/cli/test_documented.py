"""What docs/cli.md shows: its commands are run, one after the other, and print what stands there."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import time
from pathlib import Path

import pytest

from ckpt_async import CheckpointError, Settings, StoreAddress, TaskIdentity, open_checkpointer, short_hash
from ckpt_async.cli.local import scratch_root
from ckpt_async.words import keys
from tests.cli.conftest import Run, train

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"

_BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
#: What is another one each time: times, ages, folders of this machine.
_CHANGING = (
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?(\+00:00)?"), "TIME"),
    (re.compile(r"\b\d+(\.\d+)? (ms|s|min)\b"), "AGE"),
    (re.compile(r"\S*/store\b"), "STORE"),
    (re.compile(r"/\S*/(restored|ckpt-async-\d+)\b"), "FOLDER"),
    (re.compile(r" +"), " "),
)


def comparable(text: str) -> list[str]:
    for pattern, word in _CHANGING:
        text = pattern.sub(word, text)
    return [line.strip() for line in text.splitlines()]


def documented() -> list[tuple[str, str]]:
    """The commands of the page, and what stands below each."""
    found: list[tuple[str, list[str]]] = []
    for block in _BLOCK.findall(PAGE.read_text()):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line.removeprefix("$ "), []))
            else:
                found[-1][1].append(line)
    return [(command, "\n".join(shown)) for command, shown in found]


def prepare(tmp_path: Path) -> None:
    """The store that the page speaks of: two runs, what a save has left that never ended; and what a dead task has left here."""
    store = tmp_path / "store"
    address = StoreAddress(str(store))
    (lost,) = train(address, tmp_path, run="11", epochs=1)
    (store / keys.record_key(lost.key)).unlink()
    (store / keys.task_record_key_of(lost.key, lost.pathspec)).unlink()
    train(address, tmp_path, epochs=3)
    train(address, tmp_path, run="13", epochs=2)
    days_ago = time.time() - 3 * 86400
    for path in store.rglob("*"):
        os.utime(path, (days_ago, days_ago))
    leave_in_spool(tmp_path, address)


def leave_in_spool(tmp_path: Path, address: StoreAddress) -> None:
    """Save while the store is away, and end before it is back."""
    (tmp_path / "store").rename(tmp_path / "away")
    checkpointer = open_checkpointer(
        TaskIdentity("TrainFlow", "14", "train", "36", 0, short_hash("user:ada"), short_hash("train")),
        address,
        Settings(async_upload=True, worker="thread"),
        scratch_root=scratch_root(""),
        say=lambda _: None,
    )
    checkpointer.save(tmp_path / "model")
    with contextlib.suppress(CheckpointError):
        checkpointer.close(timeout_s=0)
    (tmp_path / "away").rename(tmp_path / "store")


@pytest.mark.slow
def test_commands_print_what_stands_there(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    prepare(tmp_path)
    commands = documented()
    assert len(commands) >= 14
    for command, shown in commands:
        words = shlex.split(command)
        status = re.fullmatch(r"echo \$\?", command)
        if status:
            assert str(answer.code) == shown.strip()  # noqa: F821 - of the command before
            continue
        assert words[0] == "ckpt-async", command
        answer = run(*words[1:])
        assert comparable(answer.out + answer.err) == comparable(shown), f"$ {command}\n{answer.out}{answer.err}"


def test_every_command_is_there(run: Run) -> None:
    text = PAGE.read_text()
    names = re.findall(r"^│ ([a-z]+) ", run("--help").out.partition("Commands")[2], re.MULTILINE)
    assert len(names) >= 14
    for name in names:
        assert f"`{name}`" in text, f"docs/cli.md does not speak of {name}"
