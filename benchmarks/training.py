"""What a training loop feels while checkpoints are uploaded beside it: with ckpt-async, and with what people write by hand.

    python benchmarks/training.py --peer-python .venv-peer/bin/python --torch-python PYTHON
    python benchmarks/training.py --quick

Loops in pure Python, NumPy and PyTorch step all the time while 2 GiB go out, again and again, at full speed and over a line of
200 MB/s. The speed of a machine changes by more than what is looked for, within tenths of a second. So windows of 50 ms are
compared in pairs, hundreds in one process: in one the upload goes on, in the other uploader and sink are stopped (SIGSTOP); which
comes first is left to chance.

- steps/s by the clock, in total: what somebody sees who waits for the training, but for `save()` itself (in the second table).
- The same in the loop's own time: less the time in which other programs had its core. Those are not the uploader, which is kept
  from that core; so this holds where others work on the machine, too. A loop that waits for the GIL is slower here.
- The median of all pairs: known best, but a stall that comes now and then is not in it; it is in the total and in p99.
- CPU of a step, in the loop's own thread: more than 1 where caches or memory are shared. It does not count waiting.
- p99 of the steps, by the clock and of their CPU time.

`none` is the same with nothing uploaded: what it shows is noise. `curl -T` is the least that any upload costs. Pairs in which the
host took the core away are left out and counted. Before that each process saves once with nothing stopped: what the first save()
blocks, and the longest step until it is stored. Threads can't be stopped: with them a pair is a whole upload of 128 MiB.

The loop has a core to itself, as where a GPU does the work or there are cores enough; uploader and sink share the others. The
sink, which stands for a server on another machine, has the lowest priority. `--unpinned` leaves that to the system: the sink gets
into the loop's way then too, and "own time" says nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import (
    CURL,
    HERE,
    MIB,
    OURS,
    Case,
    clean_environment,
    describe_machine,
    in_turns,
    machine_line,
    peer_path,
    s3_environment,
    say,
    scratch_folder,
    write_case,
    write_results,
)
from paired import Pair, Window, median_of, speed_in_total, tail_in_total
from rich.console import Console
from rich.table import Table
from sink import Sink

BUCKET = "bench"
LOOPS = ("python", "numpy", "torch")
NONE, PEER_THREAD, BOTO3_THREAD = "none", "metaflow-checkpoint in a thread", "boto3 in a thread"
VARIANTS = (NONE, OURS, CURL, PEER_THREAD, BOTO3_THREAD)
LINES: dict[str, float | None] = {"full speed": None, "200 MB/s": 200e6}
#: What is sent by threads of the loop's process, and how often: that hurts so much that little shows it.
THREAD_MIB, THREAD_PAIRS = 128, 3
LOOP_TIMEOUT_S = 600
SINK_NICENESS = 15


@dataclass(frozen=True)
class Cell:
    """One row of the table."""

    variant: str
    line: str
    python: str


def missing_library(python: str, library: str) -> bool:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({library!r}) is None)"
    return subprocess.run([python, "-c", code], capture_output=True, cwd="/").returncode != 0


def python_for(loop: str, variant: str, peer: str | None, torch: str) -> tuple[str, str]:
    """The Python for a measurement; or, where there is none, the reason."""
    python = torch if loop == "torch" else sys.executable
    if variant == PEER_THREAD:
        if not peer:
            return "", "name the Python of metaflow-checkpoint with --peer-python"
        python = peer
    if loop != "python" and missing_library(python, loop):
        return "", f"{loop} is not installed in its Python"
    return python, ""


def cells_of(loop: str, options: argparse.Namespace, peer: str | None, torch: str, notes: dict[str, None]) -> list[Cell]:
    """What is measured with a loop. Without an upload there is no line; others than ours are measured over the first one alone."""
    cells = []
    for variant in options.variants:
        python, reason = python_for(loop, variant, peer, torch)
        if reason:
            notes[f"without {loop} with {variant}: {reason}"] = None
            continue
        lines = [""] if variant == NONE else options.lines if variant == OURS else options.lines[:1]
        cells += [Cell(variant, line, python) for line in lines]
    return cells


def run_loop(python: str, spec: dict[str, Any], environment: dict[str, str], scratch: Path) -> dict[str, Any]:
    command = [python, str(HERE / "training_loop.py"), json.dumps(spec)]
    with subprocess.Popen(
        command, cwd=scratch, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as loop:  # fmt: skip
        try:
            output, errors = loop.communicate(timeout=LOOP_TIMEOUT_S)
        except BaseException:
            # Not killed: it lets go on what it has stopped.
            loop.terminate()
            raise
    if loop.returncode != 0:
        raise RuntimeError(f"{spec['loop']} with {spec['variant']} failed:\n{errors[-4000:]}")
    measured: dict[str, Any] = json.loads(output.splitlines()[-1])
    return measured


def pair_of(found: dict[str, Any]) -> Pair:
    return Pair(Window(**found["idle"]), Window(**found["busy"]))


def brief(pair: Pair) -> dict[str, Any]:
    """A pair for the file of results: without its single steps."""
    return {
        f"{name}_{what}": value
        for name, window in (("idle", pair.idle), ("busy", pair.busy))
        for what, value in (
            ("steps", window.steps), ("wall_s", window.wall_s), ("waited_s", window.waited_s), ("stolen_s", window.stolen_s),
            ("cpu_s", sum(window.cpu_steps_s)), ("longest_s", max(window.steps_s)),
        )
    }  # fmt: skip


def pairs_row(found: list[dict[str, Any]]) -> list[str]:
    """What all processes of a cell say together, of the many pairs."""
    pairs = [pair_of(pair) for run in found for pair in run["pairs"]]
    kept = [pair for pair in pairs if not pair.was_stolen] or pairs
    others = [
        sum(window.waited_s for window in windows) / sum(window.wall_s for window in windows)
        for windows in ([pair.idle for pair in kept], [pair.busy for pair in kept])
    ]
    return [
        f"{sum(run['sent_bytes'] for run in found) / (1024 * MIB):.1f}",
        f"{len(pairs)} ({len(pairs) - len(kept)})",
        speed_in_total(kept, own=False).text(3),
        speed_in_total(kept, own=True).text(3),
        median_of([pair.own_speed for pair in kept]).text(3),
        median_of([pair.cpu_per_step for pair in kept]).text(3),
        tail_in_total([(pair.idle.steps_s, pair.busy.steps_s) for pair in kept], 0.99).text(2),
        tail_in_total([(pair.idle.cpu_steps_s, pair.busy.cpu_steps_s) for pair in kept], 0.99).text(2),
        "/".join(f"{share:.1%}" for share in others),
    ]


def firsts_row(firsts: list[tuple[dict[str, Any], Pair]]) -> list[str]:
    """What each process says of its first save."""
    columns = [
        [f"{found['blocked_s'] * 1000:.1f}" for found, _ in firsts],
        [f"{max(pair.idle.steps_s) * 1000:.1f}" for _, pair in firsts],
        [f"{max(pair.busy.steps_s) * 1000:.1f}" for _, pair in firsts],
        [f"{found['stored_s']:.2f}" for found, _ in firsts],
        [
            f"{pair.busy.steps / (pair.busy.own_s + found['blocked_s']) / (pair.idle.steps / pair.idle.own_s):.3f}"
            for found, pair in firsts
        ],
    ]
    return [", ".join(column) for column in columns]


PAIRS_HEADINGS = (
    "GiB sent", "pairs (left out)", "steps/s, clock, total", "own time, total", "own time, median", "CPU of a step, median",
    "p99, clock", "p99, CPU", "core had by others, idle/busy",
)  # fmt: skip
FIRSTS_HEADINGS = ("save() blocks, ms", "longest step, ms, idle", "busy", "stored after, s", "steps/s, own time, save() included")


def print_rows(title: str, caption: str, headings: tuple[str, ...], rows: dict[Cell, list[str]]) -> None:
    table = Table(title=title, caption=caption)
    for heading in ("line", "variant", *headings):
        table.add_column(heading, overflow="fold")
    for cell, row in rows.items():
        table.add_row(cell.line, cell.variant, *row)
    # Wide enough for every cell also where the output is a file.
    Console(width=190).print(table)


def print_loop(loop: str, runs: dict[Cell, list[dict[str, Any]]]) -> None:
    """What one loop has shown, as soon as it is done: a time limit then does not lose it."""
    runs = {cell: found for cell, found in runs.items() if found}
    print_rows(
        f"{loop}: windows with the upload by windows without", "in parentheses the limits with 95 % confidence", PAIRS_HEADINGS,
        {cell: pairs_row(found) for cell, found in runs.items()},
    )  # fmt: skip
    print_rows(
        f"{loop}: the first save of a process, with nothing stopped", "one value for each process", FIRSTS_HEADINGS,
        {cell: firsts_row([(run["first"], pair_of(run["first"])) for run in found]) for cell, found in runs.items()},
    )  # fmt: skip


def split_cores(unpinned: bool) -> tuple[list[int], list[int]]:
    """Keep this process, and what it starts, from one core. Returns that one, and the others; nothing where nothing is pinned."""
    if unpinned:
        return [], []
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        say("nothing is pinned: that needs Linux and two cores")
        return [], []
    # The last one: the first one often has the interrupts.
    os.sched_setaffinity(0, cores[:-1])
    return cores[-1:], cores[:-1]


def model_folder(scratch: Path, mib: int) -> Path:
    """A folder with one file of so many MiB: written out, since the memory that an upload reads is part of what a loop feels."""
    folder = scratch / f"saved-{mib}"
    if not folder.exists():
        write_case(Case("model", 1, mib * MIB), folder)
    return folder


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="Python of an environment with metaflow-checkpoint (and numpy)")
    parser.add_argument("--torch-python", default=sys.executable, help="Python of an environment with torch (default: this one)")
    parser.add_argument("--loops", nargs="+", choices=LOOPS, default=list(LOOPS))
    parser.add_argument("--lines", nargs="+", choices=list(LINES), default=list(LINES))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--worker", choices=("process", "thread"), default="process", help="where our worker lives")
    parser.add_argument("--repeats", type=int, default=1, help="processes for each row; their pairs are put together")
    parser.add_argument("--seconds", type=float, default=20.0, help="of windows in turn, in each process")
    parser.add_argument("--window-s", type=float, default=0.05, help="of one window")
    parser.add_argument("--size-mib", type=int, default=2048, help="of a save")
    parser.add_argument("--around-s", type=float, default=2.0, help="idle time around the first save")
    parser.add_argument("--unpinned", action="store_true", help="let the system choose the cores")
    parser.add_argument("--scratch", help="where files and spool lie (default: in memory where there is room)")
    parser.add_argument("--results", help="the folder for the JSON (default: benchmarks/results)")
    parser.add_argument(
        "--quick", action="store_true", help="a trial of a minute or so: small, once, full speed, the others beside one loop"
    )
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.seconds, options.lines = 1, min(options.seconds, 1.0), ["full speed"]
        options.size_mib, options.around_s = min(options.size_mib, 128), 0.5
    return options


def main() -> None:
    options = read_arguments()
    # Told to end, it cleans up.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    peer, torch = peer_path(options.peer_python), peer_path(options.torch_python) or sys.executable
    machine = describe_machine(("numpy", "boto3"), peer)
    say(machine_line(machine))
    measurements: list[dict[str, Any]] = []
    notes: dict[str, None] = {}
    path = None
    core, others = split_cores(options.unpinned)
    with scratch_folder(options.scratch) as scratch, Sink(niceness=SINK_NICENESS) as sink:
        environment = clean_environment(
            # One core trains; and each Python finds the engine of this checkout.
            OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", PYTHONPATH=str(HERE.parent / "src"),
            METAFLOW_HOME=str(scratch / "config"), **s3_environment(sink.endpoint_url, BUCKET, "key", "secret"),
        )  # fmt: skip
        for loop in options.loops:
            cells = cells_of(loop, options, peer, torch, notes)
            if options.quick and loop != options.loops[0]:
                cells = [cell for cell in cells if cell.variant in (NONE, OURS)]
            runs: dict[Cell, list[dict[str, Any]]] = {cell: [] for cell in cells}
            for repeat, cell in in_turns(cells, options.repeats if cells else 0):
                sink.set_line(bytes_per_s=LINES[cell.line] if cell.line else None)
                in_thread = cell.variant in (PEER_THREAD, BOTO3_THREAD) or (cell.variant, options.worker) == (OURS, "thread")
                size_mib = (
                    min(options.size_mib // 4 if options.quick else THREAD_MIB, THREAD_MIB) if in_thread else options.size_mib
                )
                run = f"{loop}-{len(measurements)}"
                spec = {
                    "loop": loop, "variant": cell.variant, "folder": str(model_folder(scratch, size_mib)), "run": run,
                    "wholes": THREAD_PAIRS if in_thread and not options.quick else 1, "seconds": options.seconds,
                    "window_s": options.window_s, "around_s": options.around_s, "core": core, "others": others,
                    "sink_pid": sink.pid, "scratch": str(scratch / "spool"), "prefix": run, "worker": options.worker,
                }  # fmt: skip
                before_bytes = sink.stats().get("body_bytes", 0)
                measured = run_loop(cell.python, spec, environment, scratch)
                measured["sent_bytes"] = sink.stats().get("body_bytes", 0) - before_bytes
                runs[cell].append(measured)
                pairs = [pair_of(found) for found in measured["pairs"]]
                measurements.append({
                    "loop": loop, "line": cell.line, "variant": cell.variant, "repeat": repeat, "size_mib": size_mib,
                    "sent_bytes": measured["sent_bytes"],
                    "first": {name: measured["first"][name] for name in ("blocked_s", "stored_s")},
                    "first_pair": brief(pair_of(measured["first"])), "pairs": [brief(pair) for pair in pairs],
                })  # fmt: skip
                typical = median_of([pair.own_speed for pair in pairs]).text(3)
                say(f"{loop:6} {cell.line:10} {cell.variant:32} {len(pairs):4} pairs, steps/s in own time ×{typical}")
            path = write_results("training", machine, measurements, options.results)
            print_loop(loop, runs)
    for note in notes:
        say(note)
    say(f"every measurement: {path}")


if __name__ == "__main__":
    main()
