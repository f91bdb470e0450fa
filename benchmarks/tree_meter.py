"""Measures CPU time and memory of a process and all its descendants, from outside, so that measuring costs them nothing.

As a program, ``python tree_meter.py PID``: measures from its start until its input ends, then prints one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

import psutil

INTERVAL_S = 0.1
#: The meter rests for so many times as long as one look took.
COST_SHARE = 20


@dataclass(frozen=True)
class TreeUse:
    """What a process tree used.

    Attributes
    ----------
    cpu_s : float
        User and system seconds. Of children that were there before, such as a sidecar, all of their time is counted, their start
        included; of the process itself what came since the measuring began.
    peak_bytes : int
        The highest sum seen: proportional set sizes on Linux (shared pages count once), resident sizes elsewhere.
    peak_processes : int
        The highest number of processes seen at once.
    """

    cpu_s: float
    peak_bytes: int
    peak_processes: int


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    # Children that have ended and were waited for are accounted for by their parent (on Linux).
    return times.user + times.system + getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)


def _memory_bytes(process: psutil.Process) -> int:
    if sys.platform == "linux":
        return process.memory_full_info().pss
    return process.memory_info().rss


class TreeMeter:
    """Watches the tree below one process; the measuring process itself is left out."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._cpu_before_s = _cpu_s(self._root)
        self._peak_bytes = 0
        self._peak_processes = 0

    def _tree(self) -> list[psutil.Process]:
        return [self._root, *(child for child in self._root.children(recursive=True) if child.pid != os.getpid())]

    def sample(self) -> float:
        """Look at the tree once; returns the CPU seconds used so far."""
        cpu_s, memory_bytes, count = 0.0, 0, 0
        for process in self._tree():
            try:
                cpu_s += _cpu_s(process)
                memory_bytes += _memory_bytes(process)
                count += 1
            except psutil.Error:
                continue  # it ended while we looked; its parent has its CPU time from now on
        self._peak_bytes = max(self._peak_bytes, memory_bytes)
        self._peak_processes = max(self._peak_processes, count)
        return cpu_s - self._cpu_before_s

    def finish(self) -> TreeUse:
        """Look once more and return what was used; of a process that has ended its CPU time is not known any more."""
        cpu_s = 0.0
        with contextlib.suppress(psutil.NoSuchProcess):
            cpu_s = self.sample()
        return TreeUse(cpu_s, self._peak_bytes, self._peak_processes)


class MeterProcess:
    """Runs a `TreeMeter` on a process (this one, if none is given) in another one."""

    def __init__(self, pid: int | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), str(pid or os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def stop(self) -> dict[str, float]:
        """End measuring; returns the fields of `TreeUse`."""
        answer, _ = self._process.communicate()
        return json.loads(answer)


def main() -> None:
    meter = TreeMeter(int(sys.argv[1]))
    meter.sample()
    print("ready", flush=True)
    wait_s = INTERVAL_S
    while not select.select([sys.stdin], [], [], wait_s)[0]:
        begun_s = time.perf_counter()
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended: whoever asked will say so soon
            meter.sample()
        # Looking at fifty processes takes its time; it must not take the processor from them.
        wait_s = max(INTERVAL_S, COST_SHARE * (time.perf_counter() - begun_s))
    print(json.dumps(asdict(meter.finish())), flush=True)


if __name__ == "__main__":
    main()
