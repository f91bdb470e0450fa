"""`ckpt-async watch`: the command in processes of its own, with real signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ckpt_async import CheckpointError, CheckpointRecord, StoreAddress, Watcher, open_reader
from ckpt_async.testing.seaweed import SeaweedServer
from ckpt_async.watching import daemon as daemon_module
from tests.engine.desk import DEADLINE_S, alive, paused, read_tree, wait_for
from tests.watching.conftest import whole

PATHSPEC = "Trainer/7/train/1"


class Daemon:
    """The command, started; what it prints is read in a thread."""

    def __init__(self, folder: Path, address: StoreAddress, *more: str) -> None:
        self.folder = folder
        arguments = [str(folder), "--to", address.url, "--as", PATHSPEC, "--quiet-period", "0.2", "--json", *more]
        if address.access:
            arguments += ["--access", address.access]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ckpt_async.cli.watch", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.lines: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line))

    def told(self, kind: str, text: str = "", count: int = 1) -> None:
        """Wait until so many lines of a kind were printed."""

        def found() -> bool:
            assert self.process.poll() is None or not self._reader.is_alive()
            return sum(line["kind"] == kind and text in str(line) for line in list(self.lines)) >= count

        wait_for(found, f"{count} lines {kind!r} with {text!r}; it printed {self.lines}")

    def ready(self) -> Daemon:
        self.told("note", "watching")
        return self

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, expected: int) -> str:
        """Wait for its end; returns what it wrote to stderr."""
        assert self.process.stderr is not None
        errors = self.process.stderr.read()
        code = self.process.wait(DEADLINE_S)
        self._reader.join()
        self.close()
        assert code == expected, errors
        return errors

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


StartDaemon = Callable[..., Daemon]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartDaemon]:
    """Start daemons over one folder; nothing of them outlives the test."""
    (tmp_path / "store").mkdir()
    started: list[Daemon] = []

    def start(*more: str, address: StoreAddress | None = None) -> Daemon:
        started.append(Daemon(tmp_path / "watched", address or StoreAddress(str(tmp_path / "store")), *more))
        return started[-1]

    yield start
    for daemon in started:
        daemon.close()
    for pid in _sidecars(tmp_path):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(map(alive, _sidecars(tmp_path))), "no sidecar is left")


def _sidecars(folder: Path) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if b"ckpt_async.sidecar" in words and os.fsencode(folder) in words:
            found.append(int(process.name))
    return found


def records(address: StoreAddress) -> list[CheckpointRecord]:
    return open_reader(address).list(PATHSPEC)


def spooled(tmp_path: Path) -> list[Path]:
    """What is saved and not stored."""
    return list(tmp_path.glob(f"ckpt-async-{os.getuid()}/*/*/[ar]*/*/entry.json"))


@pytest.mark.slow
def test_a_daemon_saves_ends_in_order_and_the_next_one_goes_on_where_it_was(start: StartDaemon, tmp_path: Path) -> None:
    address = StoreAddress(str(tmp_path / "store"))
    watched = tmp_path / "watched"
    first = start().ready()
    (watched / "model").write_bytes(whole("one"))
    first.told("stored")
    first.signal(signal.SIGTERM)
    first.end(0)
    # What is stored is not saved again, and what it holds tells nothing is new.
    start("--once").end(0)
    assert len(records(address)) == 1
    # While none was there.
    (watched / "model").write_bytes(whole("two"))
    second = start().ready()
    second.told("stored")
    second.signal(signal.SIGINT)
    second.end(0)
    assert [(record.attempt, record.version_id) for record in records(address)] == [(1, 0), (0, 0)]
    target = tmp_path / "loaded"
    open_reader(address).load(records(address)[0], str(target))
    assert read_tree(target) == {"model": whole("two")}
    assert spooled(tmp_path) == []
    # As SageMaker does it: on a new machine the folder is empty.
    (watched / "model").unlink()
    third = start("--once", "--restore")
    third.end(0)
    assert read_tree(watched) == {"model": whole("two")}
    assert len(records(address)) == 2
    start("--once", "--restore").end(0)  # not empty: nothing is loaded
    assert len(records(address)) == 2


@pytest.mark.slow
def test_what_a_killed_one_has_saved_is_stored_by_the_next(
    start: StartDaemon, seaweed: SeaweedServer, s3_address: StoreAddress, tmp_path: Path
) -> None:
    watched = tmp_path / "watched"
    first = start(address=s3_address).ready()
    with paused(seaweed):
        (watched / "model").write_bytes(whole("one"))
        first.told("saved")
        first.signal(signal.SIGKILL)
        first.end(-signal.SIGKILL)
        for pid in _sidecars(tmp_path):
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not any(map(alive, _sidecars(tmp_path))), "its sidecar is gone")
    assert len(spooled(tmp_path)) == 1
    start("--once", address=s3_address).end(0)
    # Stored under the name of the first, and not once more by the second.
    assert [(record.attempt, record.metadata) for record in records(s3_address)] == [(0, {"watch": ["model"]})]
    assert spooled(tmp_path) == []


@pytest.mark.slow
def test_a_store_that_stands_still_ends_the_grace_and_a_second_ctrl_c_the_wait(
    start: StartDaemon, seaweed: SeaweedServer, s3_address: StoreAddress, tmp_path: Path
) -> None:
    watched = tmp_path / "watched"
    first = start("--grace", "1", address=s3_address).ready()
    with paused(seaweed):
        (watched / "model").write_bytes(whole("one"))
        first.told("saved")
        first.signal(signal.SIGTERM)
        first.end(6)
        assert "this is not stored: 1 save" in str(first.lines[-1]) and len(spooled(tmp_path)) == 1
    # Its sidecar goes on by itself; whoever comes next waits for that.
    second = start("--grace", str(DEADLINE_S), address=s3_address).ready()
    wait_for(lambda: len(records(s3_address)) == 1 and not spooled(tmp_path), "it is stored")
    with paused(seaweed):
        (watched / "model").write_bytes(whole("two"))
        second.told("saved")
        second.signal(signal.SIGINT)
        second.told("note", "told to stop")
        second.signal(signal.SIGINT)
        errors = second.end(130)
        assert "left at once" in errors and len(spooled(tmp_path)) == 1
    start("--once", address=s3_address).end(0)
    assert [record.attempt for record in records(s3_address)] == [1, 0]


@pytest.mark.skipif(sys.platform != "linux", reason="the queue is that of inotify")
@pytest.mark.slow
def test_a_queue_of_notices_that_overflows_loses_no_checkpoint(start: StartDaemon, tmp_path: Path) -> None:
    """It reads none while it is stopped, and the kernel drops what comes after the queue is full: the folder, and what is in it."""
    watched = tmp_path / "watched"
    daemon = start().ready()
    (watched / "first").write_bytes(whole("first"))
    daemon.told("stored")
    daemon.signal(signal.SIGSTOP)
    for name in ("one", "other"):
        (watched / name).write_bytes(whole(name))
    for _ in range(int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())):
        for name in ("one", "other"):
            os.utime(watched / name)
    (watched / "late").mkdir()
    (watched / "late" / "model").write_bytes(whole("model"))
    daemon.signal(signal.SIGCONT)
    daemon.told("stored", "late")
    daemon.signal(signal.SIGTERM)
    daemon.end(0)
    target = tmp_path / "loaded"
    open_reader(StoreAddress(str(tmp_path / "store"))).load(records(StoreAddress(str(tmp_path / "store")))[0], str(target))
    assert read_tree(target) == read_tree(watched)


@pytest.mark.slow
def test_one_for_a_folder(start: StartDaemon, tmp_path: Path) -> None:
    first = start().ready()
    assert "another process watches it" in start().end(5)
    first.signal(signal.SIGTERM)
    first.end(0)


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--marker", "*"], 2, "patterns that leave something over"),
        (["--spool-dir", "."], 2, "the spool would stand in it"),
        (["--grace", "0"], 2, "no longer than a day"),
        (["--as", "only/two"], 2, "FLOW/RUN/STEP/TASK"),
        (["--to", "ftp://bucket"], 3, "no store for ftp://"),
        (["--nonsense"], 2, "No such option"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_done(
    more: list[str], code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ckpt_async.cli.watch import main

    (tmp_path / "watched").mkdir()
    monkeypatch.chdir(tmp_path / "watched")
    monkeypatch.setattr("ckpt_async.cli.watch._Signals.install", lambda self: None)
    monkeypatch.setattr(sys, "argv", ["watch", ".", "--to", str(tmp_path / "store"), *more])
    assert main() == code
    assert words in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "store").exists() and list((tmp_path / "watched").iterdir()) == []


def test_a_signal_that_strikes_inside_a_wait_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler runs in the middle of whatever the main thread does, the lock of the event in its hand included."""
    from ckpt_async.cli.watch import _Signals

    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    stopped = threading.Event()
    signals = _Signals(stopped)
    signals.install()
    with stopped._cond:  # type: ignore[attr-defined]
        striking = threading.Thread(target=signals._on_signal, args=(signal.SIGTERM, None), daemon=True)
        striking.start()
        striking.join(DEADLINE_S / 2)
        assert not striking.is_alive()
    assert stopped.wait(DEADLINE_S)


def test_a_daemon_whose_watcher_has_broken_down_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_address: StoreAddress
) -> None:
    """Else it would look alive, and save nothing."""
    monkeypatch.setattr(daemon_module, "RETRY_EVERY_S", 0.05)
    monkeypatch.setattr(Watcher, "_step", lambda self, now_s: 1 / 0)
    said: list[str] = []
    plan = daemon_module.WatchPlan(str(tmp_path / "watched"), local_address, PATHSPEC)
    with pytest.raises(CheckpointError, match="could not watch a folder"):
        daemon_module.run_daemon(plan, threading.Event(), say=said.append)
    assert any("nothing is saved by itself any more" in line and "ZeroDivisionError" in line for line in said)
    assert not any("told to stop" in line for line in said)


def test_the_grace_is_one_for_what_is_saved_last_and_for_the_uploads(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]
    given: list[float] = []

    def stop(*, failed: bool, timeout_s: float) -> None:
        given.append(timeout_s)
        now_s[0] += timeout_s  # it waits for room until the time is over

    monkeypatch.setattr(daemon_module, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    checkpointer: Any = SimpleNamespace(close=lambda *, timeout_s, retried: given.append(timeout_s))
    plan = daemon_module.WatchPlan("/watched", StoreAddress("/store"), PATHSPEC, grace_s=30.0)
    assert daemon_module._end(plan, checkpointer, SimpleNamespace(stop=stop), threading.Event(), print)  # type: ignore[arg-type]
    assert given == [30.0, 0.0]
