"""What uploading and loading take of memory, as the bytes grow: the sidecar's peak, and what is added to the task.

    python benchmarks/memory.py
    python benchmarks/memory.py --quick

Everything goes to a sink that drops the bytes, and comes from there: the client is the limit, so that as much as possible is under
way at once. Files are sparse: what they hold changes nothing here. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from common import (
    MIB,
    OURS,
    Case,
    clean_environment,
    describe_machine,
    in_turns,
    machine_line,
    say,
    scratch_folder,
    write_results,
)
from report import Quantity, print_table
from sink import Sink

from ckpt_async import Settings, StoreAddress, TaskIdentity, open_checkpointer, short_hash
from ckpt_async.testing.access import ACCESS_SPEC, access_variables
from ckpt_async.words.events import WorkerReady

TIMEOUT_S = 600.0
#: So that the list of 5,000 files is there when they are loaded.
KEPT_BYTES = 4 * MIB
QUANTITIES = (
    Quantity("moved_bytes", "moved, MB", 1e6, 0, with_ratio=False),
    Quantity("seconds", "s", with_ratio=False),
    Quantity("idle_bytes", "sidecar, idle, MB", 1e6, 0, with_ratio=False),
    Quantity("peak_bytes", "sidecar, peak, MB", 1e6, 0, with_ratio=False),
    Quantity("task_bytes", "added to the task, MB", 1e6, 0, with_ratio=False),
    Quantity("load_bytes", "added by a load, MB", 1e6, 0, with_ratio=False),
)


def memory_bytes(pid: int | str, what: str) -> int:
    """A line of what Linux tells of a process: ``VmRSS`` now, ``VmHWM`` at most."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"Linux does not tell {what} of process {pid}")


def forget_peak() -> int:
    """Begin to measure the peak of this process anew; returns what it has now."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory_bytes("self", "VmHWM")


def cases_of(scale: float) -> list[tuple[Case, int]]:
    """What is saved, and how often, before anybody waits."""
    cases = []
    for files, file_bytes, saves in ((1, 512 * MIB, 1), (1, 2048 * MIB, 1), (200, 10 * MIB, 1), (1, 100 * MIB, 20)):
        scaled_bytes = round(file_bytes * scale)
        times = f"{saves} saves of " if saves > 1 else ""
        cases.append((Case(f"{times}{files} × {scaled_bytes / MIB:g} MiB", files, scaled_bytes), saves))
    small = round(5000 * scale)
    return [*cases, (Case(f"{small} × 10 KiB", small, 10 * 1024), 1)]


def write_holes(folder: Path, files: int, file_bytes: int) -> None:
    """Make the files anew: the sink gives zero bytes back, and what was linked stays what it was."""
    for number in range(files):
        path = folder / f"{number:05}.bin"
        path.unlink(missing_ok=True)
        with path.open("wb") as file:
            file.truncate(file_bytes)


def be_task(spec: dict[str, Any]) -> dict[str, Any]:
    """Save, flush, load; returns what that took."""
    scratch, data = Path(spec["scratch"]), Path(spec["data"])
    ready: list[WorkerReady] = []
    is_ready = threading.Event()

    def listen(event: object) -> None:
        if isinstance(event, WorkerReady):
            ready.append(event)
            is_ready.set()

    opened = open_checkpointer(
        TaskIdentity("Bench", "1", "train", "1", 0, short_hash("bench"), short_hash("train")),
        StoreAddress("s3://bucket/prefix", ACCESS_SPEC),
        Settings(async_upload=True, max_pending=100, flush_timeout_s=TIMEOUT_S),
        scratch_root=str(scratch / "spools"),
        say=lambda line: None,
    )
    opened.add_listener(listen)
    if not is_ready.wait(TIMEOUT_S):
        raise RuntimeError("the sidecar does not start")
    sidecar = ready[0].pid
    idle_bytes, before_bytes = memory_bytes(sidecar, "VmRSS"), forget_peak()
    begun_s = time.perf_counter()
    for number in range(spec["saves"]):
        if number:
            # Of another size: what is the same is not sent again.
            write_holes(data, spec["files"], spec["file_bytes"] + number)
        last = opened.save(data, metadata={"number": number})
    opened.flush()
    took = {
        "seconds": time.perf_counter() - begun_s,
        "moved_bytes": opened.stats.sent_bytes,
        "idle_bytes": idle_bytes,
        "peak_bytes": memory_bytes(sidecar, "VmHWM"),
        "task_bytes": memory_bytes("self", "VmHWM") - before_bytes,
    }
    before_bytes = forget_peak()
    opened.load(last, str(scratch / "loaded"))
    took["load_bytes"] = memory_bytes("self", "VmHWM") - before_bytes
    opened.close(timeout_s=TIMEOUT_S)
    return took


def measure(case: Case, saves: int, scratch: Path) -> dict[str, Any]:
    """One case, in a process of its own, over a sink of its own."""
    data = scratch / "data"
    data.mkdir()
    try:
        write_holes(data, case.files, case.file_bytes)
        with Sink(keep_below_bytes=KEPT_BYTES) as sink:
            spec: dict[str, Any] = {"scratch": str(scratch), "data": str(data), "saves": saves}
            spec |= {"files": case.files, "file_bytes": case.file_bytes}
            done = subprocess.run(
                [sys.executable, __file__, "--be-task", json.dumps(spec)],
                stdout=subprocess.PIPE,
                env=clean_environment(**access_variables(sink.endpoint_url, "key", "secret")),
                timeout=2 * TIMEOUT_S,
                check=True,
            )
        measured: dict[str, Any] = json.loads(done.stdout)
        return measured
    finally:
        for name in ("data", "loaded", "spools"):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(scratch / name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="of each case (default 3)")
    parser.add_argument("--quick", action="store_true", help="once, with an eighth of the bytes")
    parser.add_argument("--scratch", help="a folder for spools and files (default: in memory where there is room)")
    parser.add_argument("--results", help="the folder for the JSON file (default: benchmarks/results)")
    parser.add_argument("--be-task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.be_task:
        print(json.dumps(be_task(json.loads(options.be_task))))
        return 0
    machine = describe_machine(())
    measurements = []
    with scratch_folder(options.scratch) as scratch:
        for repeat, (case, saves) in in_turns(cases_of(0.125 if options.quick else 1.0), 1 if options.quick else options.repeats):
            measured = measure(case, saves, scratch)
            measurements.append({"case": case.name, "variant": OURS, "repeat": repeat, **measured})
            say(f"{case.name}: the sidecar's peak was {measured['peak_bytes'] / 1e6:.0f} MB")
    print_table(measurements, f"Memory. {machine_line(machine)}", group_by=("case",), quantities=QUANTITIES, baseline=None)
    say(str(write_results("memory", machine, measurements, options.results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
