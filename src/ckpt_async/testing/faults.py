"""Tries every crash point and prints a table of what survived: ``python -m ckpt_async.testing.faults``, or ``make faults``."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence

from ckpt_async.testing.crash_points import CrashPoints, Outcome, Point, sample

__all__ = ["main", "table"]

RUNS = (
    ("thread", "task"),
    ("thread", "retry"),
    ("thread", "pruning"),
    ("process", "task"),
    ("process", "retry"),
    ("process", "pruning"),
)

#: A file system without a disk, on Linux.
IN_MEMORY = "/dev/shm"  # noqa: S108 - what is made there is a folder of our own

#: Between two lines that tell how far it is, in seconds.
TELL_EVERY_S = 15.0


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the table: a row for each kind of point, with the points tried, survived, lost, and not reached."""
    rows: dict[str, list[int]] = {}
    for outcome in outcomes:
        row = rows.setdefault(outcome.point.kind, [0, 0, 0, 0])
        row[0] += outcome.struck
        row[1] += outcome.struck and not outcome.violations
        row[2] += bool(outcome.violations)
        row[3] += not outcome.struck and not outcome.violations
    lines = [f"{'':44}{'tried':>8}{'survived':>10}{'lost':>6}{'not reached':>13}"]
    lines += [f"{kind:44}{row[0]:8}{row[1]:10}{row[2]:6}{row[3]:13}" for kind, row in rows.items()]
    total = [sum(row[column] for row in rows.values()) for column in range(4)]
    lines.append(f"{'all':44}{total[0]:8}{total[1]:10}{total[2]:6}{total[3]:13}")
    return "\n".join(lines)


class _Told:
    """Prints what breaks at once, and now and then how far it is."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._lost = 0
        self._guard = threading.Lock()
        self._next_s = time.monotonic() + TELL_EVERY_S

    def __call__(self, outcome: Outcome) -> None:
        with self._guard:
            self._done += 1
            if outcome.violations:
                self._lost += 1
                print(f"LOST {outcome.point}", *(f"    {text}" for text in outcome.violations), sep="\n", flush=True)
            if time.monotonic() > self._next_s:
                self._next_s = time.monotonic() + TELL_EVERY_S
                print(f"{self._done} of {self._total} points, {self._lost} lost", flush=True)


def main(arguments: Sequence[str]) -> int:
    """Run the program; returns its exit status: 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="ckpt_async.testing.faults", description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="try every so-manieth point of each kind (default: all)")
    # Where something fails for good, a run waits for its deadlines: others use the processors meanwhile.
    parser.add_argument("--parallel", type=int, default=2 * (os.cpu_count() or 1), help="runs at a time")
    parser.add_argument(
        "--folder", help="for the runs (default: a temporary one, in memory if possible); what broke a promise stays"
    )
    parser.add_argument("--kind", default="", help="only points whose kind or step contains this text")
    chosen = parser.parse_args(arguments)
    # A sync is a step like any other; the seconds that a disk takes for it show nothing.
    memory = IN_MEMORY if os.access(IN_MEMORY, os.W_OK) else None
    folder = chosen.folder or tempfile.mkdtemp(prefix="ckpt-async-faults-", dir=memory)
    os.makedirs(folder, exist_ok=True)
    with CrashPoints(folder, parallel=chosen.parallel) as harness:
        points: list[Point] = []
        for worker, stage in RUNS:
            points += [point for point in harness.points(worker, stage) if chosen.kind in str(point) or chosen.kind in point.kind]
        points = sample(points, chosen.every) if chosen.every > 1 else points
        print(f"{len(points)} points, in {folder}", flush=True)
        outcomes = harness.run(points, _Told(len(points)))
    print(table(outcomes))
    if any(outcome.violations for outcome in outcomes):
        return 1
    if not os.listdir(folder):
        os.rmdir(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
