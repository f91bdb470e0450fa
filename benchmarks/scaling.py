"""How the cost of saving grows with the work: size, number of files, saves queued, tasks at once. Draws a plot of each.

    python benchmarks/scaling.py --plots docs/plots
    python benchmarks/scaling.py --quick

Through the whole engine (a task with its sidecar) into a sink, so that neither server nor disk is what grows. Large files are holes
but for their first bytes; all lie in memory where there is room.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from common import (
    MIB,
    describe_machine,
    drop_folder,
    in_turns,
    machine_line,
    say,
    scratch_folder,
    version_here,
    write_results,
    write_sparse,
)
from report import Quantity, print_table
from sink import Sink

from ckpt_async import Checkpointer, Settings, StoreAddress, TaskIdentity, open_checkpointer, short_hash
from ckpt_async.testing.access import ACCESS_SPEC, access_variables
from ckpt_async.words.events import WorkerReady

OPEN_TIMEOUT_S = 60.0
STORE_TIMEOUT_S = 900.0
SMALL_BYTES = 4096
#: Below a small file, so that 50,000 of them do not fill the sink's memory; above a record.
KEEP_BELOW_BYTES = 4000
LINE_BYTES_PER_S = 200e6
QUANTITIES = (
    Quantity("blocked_s", "save() blocks, ms", 1e-3, 1),
    Quantity("stored_s", "until stored, s"),
    Quantity("cpu_s", "CPU of the sidecars, s"),
    Quantity("peak_bytes", "memory of the sidecars, MB", 1e6, 0),
)


@dataclass(frozen=True)
class Axis:
    """What grows.

    Attributes
    ----------
    name, unit : str
        For table and plot.
    values, quick_values : tuple of int
        How far; and for a trial.
    measure : callable
        Measures one value.
    line_bytes_per_s : float, optional
        The rate of the line meanwhile.
    """

    name: str
    unit: str
    values: tuple[int, ...]
    quick_values: tuple[int, ...]
    measure: Callable[[int, Path, str], dict[str, float]]
    line_bytes_per_s: float | None = None


@dataclass(eq=False)
class Task:
    """A checkpointer and its sidecar."""

    opened: Checkpointer
    sidecar: psutil.Process
    cpu_before_s: float

    def used_cpu_s(self) -> float:
        times = self.sidecar.cpu_times()
        return times.user + times.system - self.cpu_before_s

    def peak_bytes(self) -> int:
        """The most memory that the sidecar ever had, where the system tells (Linux)."""
        status = Path(f"/proc/{self.sidecar.pid}/status")
        lines = status.read_text().splitlines() if status.exists() else []
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


@contextlib.contextmanager
def task(scratch: Path, run: str) -> Iterator[Task]:
    """A task whose sidecar has started and stored a first few bytes: its client of S3 is made."""
    ready: list[int] = []
    told = threading.Event()

    def hear(event: object) -> None:
        if isinstance(event, WorkerReady):
            ready.append(event.pid)
            told.set()

    opened = open_checkpointer(
        TaskIdentity("Bench", run, "train", "1", 0, short_hash("bench"), short_hash("train")),
        StoreAddress("s3://bench/metaflow", ACCESS_SPEC),
        Settings(async_upload=True, max_pending=1000),
        scratch_root=str(scratch / "spool"),
        say=lambda line: None,
    )
    try:
        opened.add_listener(hear)
        if not told.wait(OPEN_TIMEOUT_S):
            raise RuntimeError("a sidecar does not start")
        opened.save(Path(__file__)).wait(OPEN_TIMEOUT_S)
        found = Task(opened, psutil.Process(ready[0]), 0.0)
        found.cpu_before_s = found.used_cpu_s()
        yield found
    finally:
        opened.close(timeout_s=STORE_TIMEOUT_S)


def save_and_wait(tasks: list[Task], folders: list[Path]) -> dict[str, float]:
    """Save each folder with its task, then wait for all: how long the slowest `save()` blocked, and what it took to store them."""
    begun_s = time.perf_counter()
    blocked_s = []
    for one, folder in zip(tasks, folders, strict=True):
        called_s = time.perf_counter()
        one.opened.save(folder)
        blocked_s.append(time.perf_counter() - called_s)
    different = list(dict.fromkeys(tasks))
    for one in different:
        one.opened.flush(STORE_TIMEOUT_S)
    stored_s = time.perf_counter() - begun_s
    return {
        "blocked_s": max(blocked_s),
        "stored_s": stored_s,
        "cpu_s": sum(one.used_cpu_s() for one in different),
        "peak_bytes": sum(one.peak_bytes() for one in different),
    }


def by_size(mib: int, scratch: Path, run: str) -> dict[str, float]:
    """One file of so many MiB."""
    folder = scratch / "saved"
    folder.mkdir()
    write_sparse(folder / "model", mib * MIB)
    with task(scratch, run) as one:
        return save_and_wait([one], [folder])


def by_files(count: int, scratch: Path, run: str) -> dict[str, float]:
    """So many files of 4 KiB."""
    folder = scratch / "saved"
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:06}").write_bytes(os.urandom(SMALL_BYTES))
    with task(scratch, run) as one:
        return save_and_wait([one], [folder])


def by_queue(count: int, scratch: Path, run: str) -> dict[str, float]:
    """So many saves of 32 MiB, one right after the other, over a line of 200 MB/s."""
    folders = [scratch / "saved" / str(number) for number in range(count)]
    for folder in folders:
        folder.mkdir(parents=True)
        write_sparse(folder / "model", 32 * MIB)
    with task(scratch, run) as one:
        return save_and_wait([one] * count, folders)


def by_tasks(count: int, scratch: Path, run: str) -> dict[str, float]:
    """So many tasks at once, each with a sidecar of its own and 256 MiB."""
    folders = [scratch / "saved" / str(number) for number in range(count)]
    for folder in folders:
        folder.mkdir(parents=True)
        write_sparse(folder / "model", 256 * MIB)
    with contextlib.ExitStack() as owned:
        tasks = [owned.enter_context(task(scratch, f"{run}-{number}")) for number in range(count)]
        return save_and_wait(tasks, folders)


AXES = (
    Axis("size", "MiB in one file", (1, 8, 64, 512, 2048, 8192), (1, 64), by_size),
    Axis("files", "files of 4 KiB", (1, 10, 100, 1000, 10_000, 50_000), (1, 100), by_files),
    Axis("queue", "saves of 32 MiB queued (200 MB/s)", (1, 5, 10, 25, 50), (1, 4), by_queue, LINE_BYTES_PER_S),
    Axis("tasks", "tasks at once, 256 MiB each", (1, 2, 4, 8), (1, 2), by_tasks),
)


def draw(axis: Axis, measurements: list[dict[str, Any]], folder: Path, machine: dict[str, Any]) -> Path:
    """Draw what `save()` blocks and what it takes until stored over what grows, both logarithmic; the band is lowest to highest."""
    import matplotlib

    matplotlib.use("svg")
    # Text stays text, and two runs with the same numbers give the same file.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "ckpt-async", "font.size": 10})
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter

    figure, area = pyplot.subplots(figsize=(6.4, 4.0), layout="constrained")
    values = sorted({one["value"] for one in measurements})
    for field, label, color in (("stored_s", "until stored", "#1f77b4"), ("blocked_s", "save() blocks", "#d62728")):
        found = [sorted(one[field] for one in measurements if one["value"] == value) for value in values]
        area.plot(values, [some[len(some) // 2] for some in found], marker="o", label=label, color=color)
        area.fill_between(values, [some[0] for some in found], [some[-1] for some in found], alpha=0.2, color=color, linewidth=0)
    area.set(xscale="log", yscale="log", xlabel=axis.unit, ylabel="seconds")
    area.set_xticks(values, [f"{value:,}" for value in values])
    area.minorticks_off()
    area.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    area.set_title(f"{machine['cores']} cores, {machine['system'].split()[0]}, Python {machine['python']}", fontsize=9, loc="right")
    area.grid(alpha=0.3)
    area.legend(frameon=False)
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / f"scaling-{axis.name}.svg"
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", choices=[axis.name for axis in AXES], default=[axis.name for axis in AXES])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--largest", type=int, help="leave larger values out")
    parser.add_argument("--plots", help="draw into this folder (default: no plots)")
    parser.add_argument("--scratch", help="where files and spools lie (default: in memory where there is room)")
    parser.add_argument("--results", help="the folder for the JSON (default: benchmarks/results)")
    parser.add_argument("--quick", action="store_true", help="a trial of less than a minute: small, once")
    options = parser.parse_args()
    if options.quick:
        options.repeats = 1
    machine = describe_machine(())
    measurements: list[dict[str, Any]] = []
    run = 0
    with scratch_folder(options.scratch) as scratch, Sink(keep_below_bytes=KEEP_BELOW_BYTES) as sink:
        os.environ.update(access_variables(sink.endpoint_url, "key", "secret"))
        for axis in (axis for axis in AXES if axis.name in options.axes):
            sink.set_line(bytes_per_s=axis.line_bytes_per_s)
            values = axis.quick_values if options.quick else axis.values
            chosen = [value for value in values if not options.largest or value <= options.largest]
            for repeat, value in in_turns(chosen, options.repeats):
                run += 1
                measured = axis.measure(value, scratch, str(run))
                drop_folder(scratch / "saved")
                measurements.append({"axis": axis.name, "value": value, "repeat": repeat, **measured})
                say(
                    f"{value:6,} {axis.unit:34} save() {measured['blocked_s'] * 1000:8.1f} ms, "
                    f"stored {measured['stored_s']:7.2f} s, CPU {measured['cpu_s']:6.2f} s, {measured['peak_bytes'] / 1e6:5.0f} MB"
                )
    path = write_results("scaling", machine, measurements, options.results)
    for axis in (axis for axis in AXES if axis.name in options.axes):
        found = [one for one in measurements if one["axis"] == axis.name]
        print_table(
            [{**one, "variant": f"{one['value']:,}"} for one in found],
            f"{axis.unit}; {machine_line(machine)}",
            group_by=("axis",),
            quantities=QUANTITIES,
            baseline=None,
        )
        if options.plots:
            if version_here("matplotlib") == "missing":
                say("no plots: matplotlib is not installed")
            else:
                say(f"drawn: {draw(axis, found, Path(options.plots), machine)}")
    say(f"every measurement: {path}")


if __name__ == "__main__":
    main()
