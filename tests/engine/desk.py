"""What the tests of the engine work with: checkpointers over one store and one scratch folder, tasks in processes of their own."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ckpt_async import (
    Checkpointer,
    CheckpointError,
    CheckpointRecord,
    Reader,
    Settings,
    StoreAddress,
    TaskIdentity,
    open_checkpointer,
    open_reader,
    short_hash,
)
from ckpt_async.testing.seaweed import SeaweedServer
from ckpt_async.words.errors import from_wire
from ckpt_async.words.events import WorkerReady

DEADLINE_S = 60.0
PROGRAMS = Path(__file__).parent / "programs"
TASK = PROGRAMS / "task.py"


def wait_for(reached: Callable[[], object], what: str) -> None:
    """Look at a state again and again until it is reached: for what can't tell by itself, such as another process."""
    limit_s = time.monotonic() + DEADLINE_S
    while not reached():
        assert time.monotonic() < limit_s, f"not within {DEADLINE_S:.0f} s: {what}"
        threading.Event().wait(0.02)


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except FileNotFoundError:
        if sys.platform == "linux":
            return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def identity_of(attempt: int = 0, *, run: str = "1", scope: str = "user:tester") -> TaskIdentity:
    return TaskIdentity("Flow", run, "train", "7", attempt, short_hash(scope), short_hash("train"))


def write_tree(folder: Path, files: dict[str, bytes]) -> Path:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def read_tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextlib.contextmanager
def paused(server: SeaweedServer) -> Iterator[None]:
    """Let the server stand still: requests neither end nor fail meanwhile."""
    server.pause()
    try:
        yield
    finally:
        server.resume()


def save_in_killed_child(
    identity: TaskIdentity, address: StoreAddress, scratch: str, folder: Path, name: str, *, node: int = 0, num_nodes: int = 1
) -> None:
    """Have a child process of the task save, and die as soon as its save is in the spool; see ``programs/killed_child.py``."""
    arguments = [json.dumps(dataclasses.asdict(identity)), json.dumps(dataclasses.asdict(address)), scratch, str(folder), name]
    arguments += [str(node), str(num_nodes)]
    child = subprocess.run([sys.executable, str(PROGRAMS / "killed_child.py"), *arguments], timeout=DEADLINE_S)
    assert child.returncode == -signal.SIGKILL


class TaskProcess:
    """A task in a process of its own, which does what it is told; see ``programs/task.py``."""

    def __init__(self, desk: Desk, attempt: int, settings: Settings) -> None:
        spec = {
            "identity": dataclasses.asdict(identity_of(attempt)),
            "address": dataclasses.asdict(desk.address),
            "settings": settings.to_dict(),
            "scratch": str(desk.scratch),
        }
        self.process = subprocess.Popen(
            [sys.executable, str(TASK), json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=desk.folder,
        )

    def do(self, action: str, **arguments: object) -> Any:
        """Have something done; a `CheckpointError` of the task is raised here."""
        assert self.process.stdin is not None and self.process.stdout is not None and self.process.stderr is not None
        self.process.stdin.write(json.dumps({"do": action, **arguments}).encode() + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"the task ended: {self.process.stderr.read().decode()}")
        answer = json.loads(line)
        if "error" in answer:
            raise from_wire(answer["error"])
        return answer["result"]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE_S)

    def end(self) -> str:
        """Let it end by itself; returns what it wrote to stderr."""
        _, errors = self.process.communicate(timeout=DEADLINE_S)
        return errors.decode()

    def drop(self) -> None:
        """Leave nothing of it."""
        if self.process.poll() is None:
            self.kill()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


class Desk:
    """Opens checkpointers over one store and one scratch folder. At its end nothing runs any more.

    Attributes
    ----------
    said, events : list
        What all of them said, and told their listeners.
    """

    def __init__(self, folder: Path, address: StoreAddress, worker: str = "process") -> None:
        self.folder = folder
        self.address = address
        self.worker = worker
        self.scratch = folder / "scratch"
        self.said: list[str] = []
        self.events: list[object] = []
        self._opened: list[Checkpointer] = []
        self._tasks: list[TaskProcess] = []
        self._pids: set[int] = set()
        self._loads = 0

    # Checkpointers of this process

    def settings(self, **settings: Any) -> Settings:
        return Settings(**{"async_upload": True, "worker": self.worker, "flush_timeout_s": DEADLINE_S, **settings})

    def open(
        self,
        attempt: int = 0,
        *,
        run: str = "1",
        scope: str = "user:tester",
        scratch: Path | None = None,
        node: int = 0,
        num_nodes: int = 1,
        **settings: Any,
    ) -> Checkpointer:
        opened = open_checkpointer(
            identity_of(attempt, run=run, scope=scope),
            self.address,
            self.settings(**settings),
            scratch_root=str(scratch or self.scratch),
            say=self.said.append,
            node_index=node,
            num_nodes=num_nodes,
        )
        opened.add_listener(self.events.append)
        self._opened.append(opened)
        return opened

    def happened(self, kind: type, count: int = 1) -> Callable[[], bool]:
        """For `wait_for`: whether so many events of a kind have come."""
        return lambda: sum(isinstance(event, kind) for event in list(self.events)) >= count

    def sidecars(self, count: int = 1) -> list[int]:
        """The sidecars so far, in the order of their starts; waits until there are so many."""
        wait_for(self.happened(WorkerReady, count), f"{count} workers are ready")
        return [event.pid for event in list(self.events) if isinstance(event, WorkerReady)]

    # Tasks in other processes

    def task(self, attempt: int = 0, **settings: Any) -> TaskProcess:
        task = TaskProcess(self, attempt, self.settings(**settings))
        self._tasks.append(task)
        return task

    def independent(self) -> list[int]:
        """Sidecars that belong to nobody, on spools of this desk. Linux only."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (process / "cmdline").read_bytes().split(b"\0")
                if b"ckpt_async.sidecar" in words and os.fsencode(self.scratch) in b" ".join(words) and words[5] == b"0":
                    found.append(self.orphan(int(process.name)))
        return found

    def orphan(self, pid: int) -> int:
        """See to it that a sidecar which nobody waits for does not outlive the test."""
        self._pids.add(pid)
        return pid

    # The store, the spools, and files

    def reader(self) -> Reader:
        return open_reader(self.address, say=self.said.append, give_up_after_s=DEADLINE_S)

    def records(self, **more: Any) -> list[CheckpointRecord]:
        return self.reader().list(identity_of().pathspec, **more)

    def content(self, reference: object) -> dict[str, bytes]:
        """Load a checkpoint and return its files."""
        return read_tree(self.load(reference))

    def load(self, reference: object) -> Path:
        target = self.target()
        self.reader().load(reference.key if isinstance(reference, CheckpointRecord) else reference, str(target))
        return target

    def target(self) -> Path:
        """A folder to load into; it does not exist."""
        self._loads += 1
        return self.folder / f"loaded-{self._loads}"

    def tree(self, files: dict[str, bytes] | None = None, name: str = "data") -> Path:
        return write_tree(self.folder / name, {"model.bin": b"weights"} if files is None else files)

    def spools(self) -> list[str]:
        """The spools that are there."""
        # Not by Path.glob(), which fails where a sidecar removes a folder that it is about to look into.
        return sorted(os.path.basename(os.path.dirname(path)) for path in glob.glob(f"{self.scratch}/*/*/spool.json"))

    def is_clean(self) -> bool:
        """Whether nothing is left in the scratch folder."""
        return not self.scratch.exists() or not os.listdir(self.scratch)

    # The end

    def end(self) -> None:
        for opened in self._opened:
            # One that is let go before it is ready never tells who it is.
            if (pid := getattr(opened._worker._worker, "pid", None)) is not None:
                self._pids.add(pid)
            with contextlib.suppress(CheckpointError):
                opened.close(timeout_s=0.1)
        for task in self._tasks:
            task.drop()
        for pid in {event.pid for event in self.events if isinstance(event, WorkerReady)} | self._pids:
            if pid != os.getpid():
                self._reap(pid)

    def _reap(self, pid: int) -> None:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        wait_for(lambda: not alive(pid), f"process {pid} has ended")
