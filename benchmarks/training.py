"""What a training loop feels while a checkpoint is uploaded beside it: with ckpt-async, and with what people write by hand.

    python benchmarks/training.py --peer-python .venv-peer/bin/python --torch-python PYTHON
    python benchmarks/training.py --quick

Loops in pure Python, NumPy and PyTorch, each on one core, while 2 GiB go out at full speed and over a line of 200 MB/s. Each
measurement has two undisturbed windows of its own to compare with. The sink stands back behind all others: a real server would be
on another machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import (
    HERE,
    MIB,
    OURS,
    clean_environment,
    describe_machine,
    in_turns,
    machine_line,
    peer_path,
    s3_environment,
    say,
    scratch_folder,
    write_results,
    write_sparse,
)
from report import Quantity, print_table
from sink import Sink

BUCKET = "bench"
LINES: dict[str, float | None] = {"full speed": None, "200 MB/s": 200e6}
LOOPS = ("python", "numpy", "torch")
PEER_THREAD, BOTO3_THREAD = "metaflow-checkpoint in a thread", "boto3 in a thread"
VARIANTS = ("none", OURS, PEER_THREAD, BOTO3_THREAD)
LOOP_TIMEOUT_S = 600
SINK_NICENESS = 15
QUANTITIES = (
    Quantity("speed", "steps/s, undisturbed = 1", digits=3, with_ratio=False),
    Quantity("p99", "p99 of a step, undisturbed = 1", with_ratio=False),
    Quantity("longest_ms", "longest step, ms", digits=1, with_ratio=False),
    Quantity("blocked_s", "save() blocks, ms", 1e-3, 1, with_ratio=False),
    Quantity("stored_s", "until stored, s", with_ratio=False),
)


def missing_library(python: str, library: str) -> bool:
    return subprocess.run([python, "-c", f"import {library}"], capture_output=True, cwd="/").returncode != 0


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


def measure(python: str, spec: dict[str, Any], environment: dict[str, str], scratch: Path) -> dict[str, Any]:
    answer = subprocess.run(
        [python, str(HERE / "training_loop.py"), json.dumps(spec)],
        cwd=scratch,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LOOP_TIMEOUT_S,
    )
    if answer.returncode != 0:
        raise RuntimeError(f"{spec['loop']} with {spec['variant']} failed:\n{answer.stderr[-4000:]}")
    measured: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="Python of an environment with metaflow-checkpoint (and numpy)")
    parser.add_argument("--torch-python", default=sys.executable, help="Python of an environment with torch (default: this one)")
    parser.add_argument("--loops", nargs="+", choices=LOOPS, default=list(LOOPS))
    parser.add_argument("--lines", nargs="+", choices=list(LINES), default=list(LINES))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--worker", choices=("process", "thread"), default="process", help="where our worker lives")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size-mib", type=int, default=2048, help="what goes out")
    parser.add_argument("--window-s", type=float, default=3.0, help="of an undisturbed window")
    parser.add_argument("--scratch", help="where files and spool lie (default: in memory where there is room)")
    parser.add_argument("--results", help="the folder for the JSON (default: benchmarks/results)")
    parser.add_argument("--quick", action="store_true", help="a trial of less than a minute: small, once, full speed")
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.size_mib, options.window_s, options.lines = 1, min(options.size_mib, 128), 0.5, ["full speed"]
    peer, torch = peer_path(options.peer_python), peer_path(options.torch_python) or sys.executable
    machine = describe_machine(("numpy", "boto3"), peer)
    measurements: list[dict[str, Any]] = []
    notes: dict[str, None] = {}
    with scratch_folder(options.scratch) as scratch, Sink(niceness=SINK_NICENESS) as sink:
        folder = scratch / "saved"
        folder.mkdir()
        write_sparse(folder / "model", options.size_mib * MIB)
        environment = clean_environment(
            # One core trains, as where a GPU does the work; and each Python finds the engine of this checkout.
            OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", PYTHONPATH=str(HERE.parent / "src"),
            METAFLOW_HOME=str(scratch / "config"), **s3_environment(sink.endpoint_url, BUCKET, "key", "secret"),
        )  # fmt: skip
        run = 0
        for line in options.lines:
            sink.set_line(bytes_per_s=LINES[line])
            for loop in options.loops:
                pythons = {}
                for variant in options.variants:
                    python, reason = python_for(loop, variant, peer, torch)
                    if reason:
                        notes[f"without {loop} with {variant}: {reason}"] = None
                    else:
                        pythons[variant] = python
                for repeat, variant in in_turns(list(pythons), options.repeats if pythons else 0):
                    run += 1
                    spec = {
                        "loop": loop, "variant": variant, "folder": str(folder), "scratch": str(scratch / "spool"), "run": str(run),
                        "prefix": f"run-{run}", "window_s": options.window_s, "worker": options.worker,
                    }  # fmt: skip
                    measured = measure(pythons[variant], spec, environment, scratch)
                    measurements.append({"line": line, "loop": loop, "variant": variant, "repeat": repeat, **measured})
                    say(
                        f"{line:10} {loop:6} {variant:32} steps/s ×{measured['speed']:.3f}, p99 ×{measured['p99']:.2f}, "
                        f"longest {measured['longest_ms']:.1f} ms, save() {measured['blocked_s'] * 1000:.1f} ms, "
                        f"stored after {measured['stored_s']:.2f} s"
                    )
    path = write_results("training", machine, measurements, options.results)
    print_table(
        measurements,
        f"{options.size_mib} MiB beside a training loop; {machine_line(machine)}",
        group_by=("line", "loop"),
        quantities=QUANTITIES,
        baseline=None,
        notes=list(notes),
    )
    say(f"every measurement: {path}")


if __name__ == "__main__":
    main()
