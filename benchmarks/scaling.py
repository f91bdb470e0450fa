"""How the cost of saving grows with the work: size, number of files, saves queued, tasks at once. Draws a plot of each.

    python benchmarks/scaling.py --plots docs/plots --peer-python .venv-peer/bin/python
    python benchmarks/scaling.py --quick

Through the whole engine (a task with its sidecar) into a sink, so that neither server nor disk is what grows. Large files are holes
but for a few bytes in each MiB; all lie in memory where there is room. metaflow-checkpoint saves the same folders, up to a value of
each axis beyond which it takes minutes; its save() returns when all is stored.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from common import (
    MIB,
    OURS,
    PEER,
    clean_environment,
    describe_machine,
    drop_folder,
    in_turns,
    machine_line,
    peer_path,
    run_client,
    s3_environment,
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
    Quantity("cpu_s", "CPU of who uploads, s"),
    Quantity("peak_bytes", "its memory, MB", 1e6, 0),
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
    make : callable
        Makes the folders that are saved for one value.
    task_for_each : bool
        Whether each folder has a task of its own; else one task saves one after the other without waiting.
    peer_up_to : int
        The largest value that metaflow-checkpoint is measured with; 0: with none.
    line_bytes_per_s : float, optional
        The rate of the line meanwhile.
    """

    name: str
    unit: str
    values: tuple[int, ...]
    quick_values: tuple[int, ...]
    make: Callable[[int, Path], list[Path]]
    task_for_each: bool = False
    peer_up_to: int = 0
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


def measure_ours(axis: Axis, folders: list[Path], scratch: Path, run: str) -> dict[str, float]:
    with contextlib.ExitStack() as owned:
        count = len(folders) if axis.task_for_each else 1
        tasks = [owned.enter_context(task(scratch, f"{run}-{number}")) for number in range(count)]
        return save_and_wait(tasks if axis.task_for_each else tasks * len(folders), folders)


def measure_peer(peer: str, folder: Path, environment: dict[str, str], scratch: Path, run: str) -> dict[str, float]:
    spec = {"client": PEER, "action": "upload", "run": f"{run}-peer", "folder": str(folder)}
    found = run_client(peer, spec, environment, scratch)
    return {
        "blocked_s": found["seconds"], "stored_s": found["seconds"], "cpu_s": found["cpu_s"], "peak_bytes": found["peak_bytes"],
    }  # fmt: skip


def one_large(mib: int, folder: Path) -> list[Path]:
    write_sparse(folder / "model", mib * MIB)
    return [folder]


def many_small(count: int, folder: Path) -> list[Path]:
    for number in range(count):
        (folder / f"{number:06}").write_bytes(os.urandom(SMALL_BYTES))
    return [folder]


def folders_of(mib: int) -> Callable[[int, Path], list[Path]]:
    """So many folders with one file each."""

    def make(count: int, folder: Path) -> list[Path]:
        folders = [folder / str(number) for number in range(count)]
        for one in folders:
            one.mkdir()
            write_sparse(one / "model", mib * MIB)
        return folders

    return make


AXES = (
    Axis("size", "size of one file, MiB", (1, 8, 64, 512, 2048, 8192), (1, 64), one_large, peer_up_to=2048),
    Axis("files", "number of files of 4 KiB", (1, 10, 100, 1000, 10_000, 50_000), (1, 20), many_small, peer_up_to=10_000),
    Axis(
        "queue", "saves of 32 MiB, one right after the other, over 200 MB/s", (1, 5, 10, 25, 50), (1, 4), folders_of(32),
        line_bytes_per_s=LINE_BYTES_PER_S,
    ),
    Axis("tasks", "tasks at once, each saving 256 MiB", (1, 2, 4, 8), (1, 2), folders_of(256), task_for_each=True),
)  # fmt: skip


def draw(axis: Axis, measurements: list[dict[str, Any]], folder: Path, machine: dict[str, Any]) -> Path:
    """Draw what `save()` blocks and what it takes until stored over what grows, both logarithmic; the band is lowest to highest."""
    import matplotlib

    matplotlib.use("svg")
    # Text stays text, and two runs with the same numbers give the same file.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "ckpt-async", "font.size": 10})
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, LogLocator

    figure, area = pyplot.subplots(figsize=(7.0, 4.4), layout="constrained")
    lines = (
        (PEER, "stored_s", f"{PEER}: save() blocks until stored", "#7f7f7f", "s"),
        (OURS, "stored_s", f"{OURS}: until stored", "#1f77b4", "o"),
        (OURS, "blocked_s", f"{OURS}: save() blocks", "#d62728", "^"),
    )
    seconds = []
    for variant, field, label, color, marker in lines:
        some = [one for one in measurements if one["variant"] == variant]
        values = sorted({one["value"] for one in some})
        if not values:
            continue
        found = [sorted(one[field] for one in some if one["value"] == value) for value in values]
        seconds += [second for at_value in found for second in at_value]
        area.plot(values, [statistics.median(at_value) for at_value in found], marker=marker, label=label, color=color)
        area.fill_between(values, *zip(*((at[0], at[-1]) for at in found), strict=True), alpha=0.2, color=color, linewidth=0)
    area.set(xscale="log", yscale="log", xlabel=axis.unit, ylabel="time, seconds")
    values = sorted({one["value"] for one in measurements})
    area.set_xticks(values, [f"{value:,}" for value in values])
    # Whole decades: each has a line with its number.
    area.set_ylim(10 ** math.floor(math.log10(min(seconds))), 10 ** math.ceil(math.log10(max(seconds))))
    area.yaxis.set_major_locator(LogLocator(numticks=12))
    area.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    area.minorticks_off()
    area.grid(alpha=0.3)
    area.spines[["top", "right"]].set_visible(False)
    # Above the axes, where no line can be.
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    system = f"{machine['cores']} cores, {machine['system'].split()[0]}, Python {machine['python']}"
    area.annotate(system, (1, 1.01), xycoords="axes fraction", ha="right", va="bottom", fontsize=8, color="#555555")
    folder.mkdir(exist_ok=True, parents=True)
    path = folder / f"scaling-{axis.name}.svg"
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="Python of an environment with metaflow-checkpoint; left out: without it")
    parser.add_argument("--axes", nargs="+", choices=[axis.name for axis in AXES], default=[axis.name for axis in AXES])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--largest", type=int, help="leave larger values out")
    parser.add_argument("--plots", help="draw into this folder (default: no plots)")
    parser.add_argument("--scratch", help="where files and spools lie (default: in memory where there is room)")
    parser.add_argument("--results", help="the folder for the JSON (default: benchmarks/results)")
    parser.add_argument("--quick", action="store_true", help="a trial of a minute or so: small, once")
    options = parser.parse_args()
    if options.quick:
        options.repeats = 1
    peer = peer_path(options.peer_python)
    machine = describe_machine((), peer)
    measurements: list[dict[str, Any]] = []
    run = 0
    with scratch_folder(options.scratch) as scratch, Sink(keep_below_bytes=KEEP_BELOW_BYTES) as sink:
        os.environ.update(access_variables(sink.endpoint_url, "key", "secret"))
        environment = clean_environment(
            METAFLOW_HOME=str(scratch / "config"), **s3_environment(sink.endpoint_url, "bench", "key", "secret")
        )
        for axis in (axis for axis in AXES if axis.name in options.axes):
            sink.set_line(bytes_per_s=axis.line_bytes_per_s)
            values = axis.quick_values if options.quick else axis.values
            chosen = [value for value in values if not options.largest or value <= options.largest]
            for repeat, value in in_turns(chosen, options.repeats):
                run += 1
                saved = scratch / "saved"
                saved.mkdir()
                folders = axis.make(value, saved)
                found = {OURS: measure_ours(axis, folders, scratch, str(run))}
                if peer and value <= axis.peer_up_to:
                    found[PEER] = measure_peer(peer, saved, environment, scratch, str(run))
                drop_folder(saved)
                for variant, measured in found.items():
                    measurements.append({"axis": axis.name, "value": value, "variant": variant, "repeat": repeat, **measured})
                    spent = f"CPU {measured['cpu_s']:6.2f} s, {measured['peak_bytes'] / 1e6:5.0f} MB"
                    say(
                        f"{value:6,} {axis.name:6} {variant:20} save() {measured['blocked_s'] * 1000:9.1f} ms, "
                        f"stored {measured['stored_s']:7.2f} s, {spent}"
                    )
    path = write_results("scaling", machine, measurements, options.results)
    for axis in (axis for axis in AXES if axis.name in options.axes):
        found = [one for one in measurements if one["axis"] == axis.name]
        print_table(
            [{**one, axis.name: f"{one['value']:,}"} for one in found],
            f"{axis.unit}; {machine_line(machine)}",
            group_by=(axis.name,),
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
