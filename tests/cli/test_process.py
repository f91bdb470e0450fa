"""The program as a process of its own: signals, terminals and pipes, exit statuses, completion."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from fcntl import ioctl
from pathlib import Path

import pytest

from ckpt_async import (
    CheckpointError,
    CheckpointRecord,
    Settings,
    StoreAddress,
    TaskIdentity,
    open_checkpointer,
    open_reader,
    short_hash,
)
from ckpt_async.cli.local import scratch_root
from ckpt_async.testing.access import ACCESS_SPEC, ENDPOINT
from ckpt_async.testing.seaweed import SeaweedServer
from ckpt_async.testing.slow_line import SlowLine
from tests.cli.conftest import PATHSPEC, Run, train
from tests.engine.desk import read_tree, wait_for, write_tree

PROGRAM = [sys.executable, "-m", "ckpt_async.cli"]
DEADLINE_S = 60.0


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    (tmp_path / "tmp").mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")}
    return {**kept, "TMPDIR": str(tmp_path / "tmp"), "CKPT_ASYNC_STORE": str(tmp_path / "store"), "TERM": "xterm", **more}


def call(tmp_path: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments],
        env=environment(tmp_path, **more),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )


@pytest.fixture
def saved(tmp_path: Path) -> list[CheckpointRecord]:
    (tmp_path / "store").mkdir()
    return train(StoreAddress(str(tmp_path / "store")), tmp_path)


@pytest.mark.slow
def test_statuses_and_streams(saved: Sequence[CheckpointRecord], tmp_path: Path) -> None:
    answer = call(tmp_path, "list", "--json")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert len(json.loads(answer.stdout)["checkpoints"]) == 3
    answer = call(tmp_path, "show", f"{PATHSPEC}:0")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.startswith("ckpt-async: could not find a checkpoint")
    answer = call(tmp_path, "lst")
    assert (answer.returncode, "No such command 'lst'" in answer.stderr) == (2, True)


def test_nothing_is_asked_where_nobody_can_answer(saved: Sequence[CheckpointRecord], tmp_path: Path) -> None:
    answer = call(tmp_path, "delete", saved[0].key)
    assert (answer.returncode, "Pass --yes" in answer.stderr) == (6, True)
    assert len(open_reader(StoreAddress(str(tmp_path / "store"))).list(PATHSPEC)) == 3


def test_a_reader_that_goes_away(saved: Sequence[CheckpointRecord], tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as pipe:
        ended = subprocess.run(
            [*PROGRAM, "list"], env=environment(tmp_path), stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=DEADLINE_S
        )
    assert (ended.returncode, ended.stderr) == (141, "")


def test_completion(tmp_path: Path) -> None:
    answer = call(tmp_path, "--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert (answer.returncode, "complete -o default -F" in answer.stdout) == (0, True), answer.stderr
    words = call(tmp_path, _CKPT_ASYNC_COMPLETE="complete_bash", COMP_WORDS="ckpt-async d", COMP_CWORD="1")
    assert words.stdout.split() == ["diff", "delete", "drain", "doctor"]


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    heavy = ["aiobotocore", "botocore", "anyio", "asyncio", "metaflow"]
    code = (
        "import sys\nfrom ckpt_async.cli import run_command_line\nassert run_command_line(['--help']) == 0\n"
        f"print(*[name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE_S)
    assert (answer.returncode, answer.stderr.split()) == (0, [])
    for command in (
        "list",
        "show",
        "pull",
        "push",
        "verify",
        "diff",
        "delete",
        "prune",
        "pin",
        "unpin",
        "spool",
        "drain",
        "doctor",
        "watch",
    ):
        assert command in answer.stdout


class Terminal:
    """A program in a terminal of so many columns."""

    def __init__(self, tmp_path: Path, arguments: Sequence[str], columns: int, variables: Mapping[str, str]) -> None:
        self.master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.process = subprocess.Popen(
            [*PROGRAM, *arguments],
            env=environment(tmp_path, **variables),
            cwd=tmp_path,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.text = ""

    def read_until(self, wanted: str) -> None:
        """Read until the text has been shown; empty: to the end."""
        limit_s = time.monotonic() + DEADLINE_S
        while (not wanted or wanted not in self.text) and time.monotonic() < limit_s:
            if not select.select([self.master], [], [], 0.1)[0]:
                continue
            try:
                piece = os.read(self.master, 65536)
            except OSError:
                return  # So Linux says that nobody has the other end any more.
            if not piece:
                return
            self.text += piece.decode()
        assert not wanted or wanted in self.text, self.text

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def end(self) -> int:
        self.read_until("")
        return self.process.wait(DEADLINE_S)


@contextlib.contextmanager
def terminal(tmp_path: Path, *arguments: str, columns: int = 80, **variables: str) -> Iterator[Terminal]:
    shown = Terminal(tmp_path, arguments, columns, variables)
    try:
        yield shown
    finally:
        if shown.process.poll() is None:
            shown.process.kill()
            shown.process.wait()
        os.close(shown.master)


@pytest.mark.slow
def test_in_a_terminal(saved: Sequence[CheckpointRecord], tmp_path: Path) -> None:
    for columns in (40, 140):
        with terminal(tmp_path, "list", columns=columns) as shown:
            assert shown.end() == 0
        lines = shown.text.replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()
        assert all(len(line) <= columns for line in lines), shown.text
        assert all(word in shown.text for word in ("attempt", "number", "size", "saved"))


@pytest.mark.slow
def test_the_answer_is_apart_from_the_progress(saved: Sequence[CheckpointRecord], tmp_path: Path) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, "verify", "--json"], env=environment(tmp_path), cwd=tmp_path, stdout=subprocess.PIPE, stderr=slave, text=True
    )
    os.close(slave)
    try:
        out, _ = process.communicate(timeout=DEADLINE_S)
        shown = os.read(master, 65536).decode()
    finally:
        os.close(master)
    assert process.returncode == 0
    assert [json.loads(line)["status"] for line in out.splitlines()] == ["verified"] * 3
    assert "Verifying" in shown


@pytest.mark.slow
def test_a_question_is_answered(saved: Sequence[CheckpointRecord], tmp_path: Path) -> None:
    reader = open_reader(StoreAddress(str(tmp_path / "store")))
    for typed, code, left in (("n\n", 6, 3), ("y\n", 0, 2)):
        with terminal(tmp_path, "delete", saved[0].key) as shown:
            shown.read_until("[y/N]")
            shown.type(typed)
            assert shown.end() == code
        assert len(reader.list(PATHSPEC)) == left


@pytest.fixture
def line(seaweed: SeaweedServer, s3_address: StoreAddress, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowLine]:
    """A line in front of the server, through which `s3_address` leads from now on: slow enough that nothing large gets through."""
    with SlowLine(seaweed.host, seaweed.port) as line:
        monkeypatch.setenv(ENDPOINT, line.endpoint_url)
        yield line


def interrupted(tmp_path: Path, address: StoreAddress, wait: Callable[[], object], *arguments: str) -> tuple[int, str, str]:
    """Run a command, wait until it is in the middle, and press Ctrl-C."""
    process = subprocess.Popen(
        [*PROGRAM, *arguments],
        env=environment(tmp_path, CKPT_ASYNC_STORE=address.url, CKPT_ASYNC_ACCESS=ACCESS_SPEC),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait()
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=DEADLINE_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    return process.returncode, out, errors


@pytest.mark.slow
def test_ctrl_c_while_pushing_and_pulling(
    run: Run, s3_address: StoreAddress, line: SlowLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CKPT_ASYNC_STORE", s3_address.url)
    monkeypatch.setenv("CKPT_ASYNC_ACCESS", ACCESS_SPEC)
    write_tree(tmp_path / "model", {"big.bin": os.urandom(12 << 20), "small": b"x"})
    line.set_rate(4e6)
    sent_bytes = line.upstream_bytes
    push = ("push", "model", "--as", PATHSPEC)
    ended = interrupted(tmp_path, s3_address, lambda: line.wait_for_upstream(sent_bytes + 2_000_000), *push)
    assert ended == (130, "", "ckpt-async: Interrupted.\n")
    line.set_rate(None)
    # Nothing of it is left: no object, no upload in parts, and the attempt is free again.
    assert run("doctor", "--older-than", "0s", "--json").json["findings"] == []
    assert run(*push, "--json").json["attempt"] == 1000

    line.set_rate(4e6)
    received_bytes = line.downstream_bytes
    pull = ("pull", f"{PATHSPEC}:latest", "out")
    ended = interrupted(
        tmp_path,
        s3_address,
        lambda: wait_for(lambda: line.downstream_bytes > received_bytes + 2_000_000, "a part of it has come"),
        *pull,
    )
    assert ended == (130, "", "ckpt-async: Interrupted.\n")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    line.set_rate(None)
    assert run(*pull).code == 0
    assert read_tree(tmp_path / "out") == read_tree(tmp_path / "model")


@pytest.mark.slow
def test_ctrl_c_while_draining(
    run: Run, s3_address: StoreAddress, line: SlowLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is as it was: nothing is lost, nothing of it can be seen yet, and the next one goes on."""
    line.cut()
    write_tree(tmp_path / "model", {"big.bin": os.urandom(12 << 20)})
    checkpointer = open_checkpointer(
        TaskIdentity("TrainFlow", "12", "train", "34", 0, short_hash("user:ada"), short_hash("train")),
        s3_address,
        Settings(async_upload=True, worker="thread"),
        scratch_root=scratch_root(""),
        say=lambda _: None,
    )
    checkpointer.save(tmp_path / "model")
    with contextlib.suppress(CheckpointError):
        checkpointer.close(timeout_s=0)
    line.restore()
    line.set_rate(4e6)
    sent_bytes = line.upstream_bytes
    ended = interrupted(tmp_path, s3_address, lambda: line.wait_for_upstream(sent_bytes + 2_000_000), "drain")
    assert ended == (130, "", "ckpt-async: Interrupted.\n")
    line.set_rate(None)
    (spool,) = run("spool", "--json").json["spools"]
    assert (len(spool["saves"]), spool["alive"], spool["uploading"]) == (1, False, False)
    assert run("list", "--store", s3_address.url, "--access", ACCESS_SPEC, "--json").json["checkpoints"] == []
    answer = run("drain", "--json")
    assert (answer.code, answer.lines[0]["stored"]) == (0, 1), answer.err
    assert run("verify", "--store", s3_address.url, "--access", ACCESS_SPEC).code == 0
