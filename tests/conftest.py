"""What every test gets: asyncio alone, its place in the order, and a failure for whatever a test leaves behind."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.fixtures_s3", "tests.fixtures_clouds"]

LEAK_DEADLINE_S = float(os.environ.get("CKPT_ASYNC_LEAK_DEADLINE_S", "5"))
#: How many looks at what is left there are between two collections of rubbish.
COLLECT_EVERY = 10
# A shell lets its background jobs ignore SIGINT, and they hand that on to the flows that are to be interrupted.
signal.signal(signal.SIGINT, signal.default_int_handler)

BLOCKING_LIMIT_S = 0.25
BLOCKING_TRIES = 3

#: Awaits some work that is given the number of the try; see the fixture `unblocked`.
Unblocked = Callable[[Callable[[int], Awaitable[None]]], Awaitable[None]]

IN_MEMORY = "/dev/shm"

# Where this is set, each of the hundreds of processes that tests start would compile the package for itself.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A slow moment of the machine is no failure of what is tested.
settings.register_profile("no-clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no-clock")

# Linux names what a descriptor points to; macOS only numbers them.
_FD_FOLDER = Path("/proc/self/fd") if sys.platform == "linux" else Path("/dev/fd")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slow tests last, so that a mistake shows early; the order among equals stays.

    Where several processes share the tests it is the other way round, first of all those that only wait: what is left at the end is
    then so quick that no process waits for another one.
    """
    slow_first = "PYTEST_XDIST_WORKER" in os.environ

    def rank(item: pytest.Item) -> int:
        slowness = 2 if item.get_closest_marker("waits") else 1 if item.get_closest_marker("slow") else 0
        return -slowness if slow_first else slowness

    items.sort(key=rank)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The engine runs on asyncio alone: aiobotocore knows nothing else."""
    return "asyncio"


@pytest.fixture
def quick_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where the system has that, for tests that sync much: the seconds that a disk takes for it show nothing."""
    if not os.access(IN_MEMORY, os.W_OK):
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(prefix="ckpt-async-test-", dir=IN_MEMORY))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@dataclass(frozen=True)
class Holdings:
    """What this process holds at one moment."""

    threads: frozenset[threading.Thread]
    children: frozenset[tuple[int, str]]
    descriptors: frozenset[tuple[int, str]]

    def beyond(self, earlier: Holdings) -> Holdings:
        """What has come since `earlier`."""
        return Holdings(
            self.threads - earlier.threads,
            self.children - earlier.children,
            self.descriptors - earlier.descriptors,
        )

    def __bool__(self) -> bool:
        return bool(self.threads or self.children or self.descriptors)

    def describe(self) -> str:
        lines = [f"thread {thread.name}" for thread in self.threads]
        lines += [f"child process {pid}: {command}" for pid, command in self.children]
        lines += [f"descriptor {number}: {target}" for number, target in self.descriptors]
        return "\n".join(sorted(lines))


def _children() -> Iterator[tuple[int, str]]:
    """The child processes of this one, zombies included (somebody forgot to wait for them). Linux only."""
    me = str(os.getpid())
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rpartition(") ")[2].split()[1]
            if parent == me:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                # Python's own helper for shared memory and semaphores: one for the whole process, made when first needed.
                if "multiprocessing.resource_tracker" not in command:
                    yield int(folder.name), command or "(ended, nobody waited for it)"
        except (OSError, IndexError):
            continue  # it ended while we looked


def _descriptors() -> Iterator[tuple[int, str]]:
    for name in os.listdir(_FD_FOLDER):
        try:
            target = os.readlink(_FD_FOLDER / name) if sys.platform == "linux" else str(os.fstat(int(name)))
        except OSError:
            continue  # the descriptor of this listing itself
        # Opened once and kept by interpreter or libraries: sources of randomness, the null device.
        if target not in ("/dev/urandom", "/dev/random", "/dev/null"):
            yield int(name), target


def _holdings() -> Holdings:
    return Holdings(
        frozenset(thread for thread in threading.enumerate() if thread.is_alive()),
        frozenset(_children() if sys.platform == "linux" else ()),
        frozenset(_descriptors()),
    )


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fail a test that leaves a thread, a child process or an open descriptor behind.

    What ends by itself (idle threads of a pool once their loop is closed) gets until a deadline; the state is looked at again and
    again, so a clean test costs one look. Rubbish is collected only where nothing ends by itself: with all that a suite has
    imported, a collection takes tenths of a second.
    """
    before = _holdings()
    yield
    left = _holdings().beyond(before)
    deadline = time.monotonic() + LEAK_DEADLINE_S
    looks = 0
    while left and time.monotonic() < deadline:
        if looks % COLLECT_EVERY == COLLECT_EVERY - 1:
            gc.collect()
        looks += 1
        for thread in left.threads:
            thread.join(0.02)
        if not left.threads:
            threading.Event().wait(0.02)
        left = _holdings().beyond(before)
    if left:
        pytest.fail(f"left behind by the test:\n{left.describe()}", pytrace=False)


def _kept_from_running_s() -> float:
    """How long this thread has waited for a processor so far, which is the machine's business. Linux only."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


@pytest.fixture
def unblocked(monkeypatch: pytest.MonkeyPatch) -> Unblocked:
    """Await some work, and fail if each time a callback holds up an event loop, of any thread, for more than a quarter of a second.

    The work is given the number of the try. What blocks in the code blocks in every try; what only one of them meets is the
    machine, which may keep any thread of ours from running while the loop's own waits for it.
    """
    blocked: list[str] = []
    run = asyncio.Handle._run

    # asyncio's debug mode measures the same, but only in loops that are made after it was switched on, and it slows all of them.
    def timed_run(handle: asyncio.Handle) -> None:
        begun_s = time.monotonic() - _kept_from_running_s()
        run(handle)
        took_s = time.monotonic() - _kept_from_running_s() - begun_s
        if took_s > BLOCKING_LIMIT_S:
            blocked.append(f"{took_s:.3f} s in thread {threading.current_thread().name}: {handle!r}")

    async def in_some_try(work: Callable[[int], Awaitable[None]]) -> None:
        monkeypatch.setattr(asyncio.Handle, "_run", timed_run)
        for number in range(BLOCKING_TRIES):
            found = len(blocked)
            # A callback is told when it has ended: the work gets one of its own, and after it this one goes on in another.
            await asyncio.create_task(_awaited(work(number)))
            if len(blocked) == found:
                return
        pytest.fail("the event loop was blocked, in each try:\n" + "\n".join(blocked), pytrace=False)

    return in_some_try


async def _awaited(work: Awaitable[None]) -> None:
    await work
