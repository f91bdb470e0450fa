"""The crash-point harness: each operation of the engine on disk and store is a step, and at each step in turn something goes wrong.

A first, undisturbed run names the steps. Then, for each of them, a run of its own: a process is killed there, or the operation
fails; a retry recovers; and the promises are checked. A run is a task with three saves, a load, a flush and an end
(`ckpt_async.testing.crash_scenario`), in processes that exist for it alone (`ckpt_async.testing.crash_driver`).

What is checked of every run: what the store shows restores byte for byte, at once and after the retry; `latest` neither dangles nor
moves back; no save that was acknowledged is lost; no call said "well" that was not; no foreign error came out; no wait passed its
deadline; the spools are gone in the end, and so are the processes.
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from ckpt_async.testing.crash_plan import Plan
from ckpt_async.testing.crash_scenario import DYING_KEY
from ckpt_async.words.settings import StoreAddress

__all__ = ["CrashPoints", "Outcome", "Point", "sample"]

#: Where the first attempt dies in runs where the retry is what goes wrong: one save is stored, one half sent, one waits.
DEATH_BEFORE_RETRY = f"worker put_part store:{DYING_KEY} #2"


#: How many checkpoints stay in the store in a run in which others are deleted.
KEEP_LAST = 2


@dataclass(frozen=True)
class Point:
    """One thing to try.

    Attributes
    ----------
    worker : str
        ``"thread"`` or ``"process"``: where the uploads run.
    stage : str
        ``"task"``: it strikes the first attempt; ``"retry"``: the second, which recovers from the death of the first;
        ``"pruning"``: the first attempt of a task with ``keep_last``, in what deletes checkpoints.
    plan : Plan
        Where it strikes, and what it is.
    """

    worker: str
    stage: str
    plan: Plan

    @property
    def kind(self) -> str:
        """What is counted together in a table."""
        where = "" if self.stage == "task" else f", {self.stage}"
        return f"{self.worker}{where}: {self.plan.action}{' from then on' if self.plan.lasting else ''}"

    def __str__(self) -> str:
        return f"{self.worker}, {self.stage}: {self.plan}"


@dataclass(frozen=True)
class Outcome:
    """How a point went.

    Attributes
    ----------
    struck : bool
        Whether the run came to the point; where threads raced it may have taken another way.
    violations : tuple of str
        Promises that were broken; none: it survived.
    """

    point: Point
    struck: bool
    violations: tuple[str, ...]
    seconds: float


class _Driver:
    """A process that does one run after another."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ckpt_async.testing.crash_driver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([_home(), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep)},
        )

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the driver of the runs ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _home() -> str:
    """The folder that holds this package: the driver tests what its starter has imported."""
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class CrashPoints:
    """Names points and tries them; a context manager.

    Parameters
    ----------
    folder : str
        For the runs; a run that broke a promise leaves its folder there, with its journal and log.
    parallel : int
        Runs at a time.
    make_address : callable, optional
        Makes the address of an empty store from the name of a run; a folder of the run if left out.
    """

    def __init__(self, folder: str, *, parallel: int = 2, make_address: Callable[[str], StoreAddress] | None = None) -> None:
        self._folder = folder
        self._parallel = parallel
        self._make_address = make_address
        self._drivers: list[_Driver] = []
        self._numbers = itertools.count(1)

    def __enter__(self) -> CrashPoints:
        self._drivers = [_Driver() for _ in range(self._parallel)]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for driver in self._drivers:
            driver.end()

    def points(self, worker: str, stage: str = "task") -> list[Point]:
        """Make an undisturbed run and return all points of it, in the order of its steps.

        Raises
        ------
        RuntimeError
            That run already broke a promise.
        """
        answer = self._run(self._drivers[0], worker, stage, None)
        if answer["violations"]:
            raise RuntimeError("without any disturbance: " + "\n".join(answer["violations"]))
        return [
            Point(worker, stage, replace(plan, step=step))
            for step, kinds in answer["steps"]
            if stage != "pruning" or _deletes(step)
            for plan in _plans(worker, stage, step, kinds)
        ]

    def run(self, points: Iterable[Point], on_outcome: Callable[[Outcome], None] = lambda _outcome: None) -> list[Outcome]:
        """Try points; returns what became of each, in their order.

        Parameters
        ----------
        on_outcome : callable
            Called with each as it comes, in a thread of its own.
        """
        waiting: queue.SimpleQueue[tuple[int, Point]] = queue.SimpleQueue()
        for number, point in enumerate(points):
            waiting.put((number, point))
        outcomes: dict[int, Outcome] = {}
        failures: list[BaseException] = []

        def work(driver: _Driver) -> None:
            try:
                while not failures:
                    number, point = waiting.get_nowait()
                    answer = self._run(driver, point.worker, point.stage, point.plan)
                    outcome = Outcome(point, answer["struck"], tuple(answer["violations"]), answer["seconds"])
                    outcomes[number] = outcome
                    on_outcome(outcome)
            except queue.Empty:
                return
            except BaseException as error:  # raised below, in the caller's thread
                failures.append(error)

        threads = [threading.Thread(target=work, args=(driver,), name="crash-points") for driver in self._drivers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return [outcomes[number] for number in sorted(outcomes)]

    def _run(self, driver: _Driver, worker: str, stage: str, plan: Plan | None) -> dict[str, Any]:
        name = f"run-{next(self._numbers):05d}"
        folder = os.path.join(self._folder, name)
        os.makedirs(os.path.join(folder, "target"))
        if self._make_address is None:
            address = StoreAddress(os.path.join(folder, "store"))
            os.mkdir(address.url)
        else:
            address = self._make_address(name)
        text = plan.to_json() if plan is not None else ""
        request: dict[str, Any] = {"folder": folder, "address": {"url": address.url, "access": address.access}, "worker": worker}
        if stage in ("task", "pruning"):
            request |= {"what": "task", "plan": text, "keep_last": KEEP_LAST if stage == "pruning" else None}
        else:
            request |= {"what": "recovery", "plan": Plan(DEATH_BEFORE_RETRY, "kill-both").to_json(), "retry_plan": text}
        answer = driver.ask(request)
        if answer["violations"]:
            answer["violations"].append(f"see {folder}")
        else:
            shutil.rmtree(folder)
        return answer


def _plans(worker: str, stage: str, step: str, kinds: Sequence[str]) -> list[Plan]:
    """Return what is worth trying at a step."""
    if worker == "process":
        return [Plan(step, f"kill-{whom}") for whom in ("worker", "task", "both")] if "kill" in kinds else []
    plans = []
    if "kill" in kinds:
        plans.append(Plan(step, "kill-both"))
        if step.startswith("worker "):
            plans.append(Plan(step, "die"))
    plans += [Plan(step, kind) for kind in ("tear", "EIO", "ENOSPC", "timeout", "reset", "503", "403") if kind in kinds]
    # A disk that is full, and a store that is away or refuses, stay so for a while.
    if stage == "task":
        plans += [Plan(step, kind, lasting=True) for kind in ("ENOSPC", "timeout", "403") if kind in kinds]
    return plans


def sample(points: Sequence[Point], every: int) -> list[Point]:
    """Choose points: every so-manieth of each kind, and, as the death of all, each of the moments in which something becomes seen
    or goes away for good: publishing into the spool, the transitions of an entry, and the writes of a commit.
    """
    counts: dict[str, int] = {}
    chosen = []
    for point in points:
        counts[point.kind] = counts.get(point.kind, 0) + 1
        decides = point.worker == "thread" and point.plan.action == "kill-both" and _decides(point.plan.step)
        if counts[point.kind] % every == 1 % every or decides:
            chosen.append(point)
    return chosen


def _deletes(step: str) -> bool:
    """Return whether a step is one of deleting a stored checkpoint."""
    _, operation, on = step.split(" ")[:3]
    if not on.startswith("store") or "/.ckpt-async-tmp/" in on:
        return False
    return operation in ("delete", "unlink", "rmdir") or "/deletions/" in on or "/pins/" in on


def _decides(step: str) -> bool:
    _, operation, on = step.split(" ")[:3]
    if operation == "rename":
        return on.startswith(("spool/0000/ready/", "spool/0000/active/", "spool/0000/trash/"))
    return operation == "put" and on.endswith((".metadata", "/latest"))
