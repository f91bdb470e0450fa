"""What the decorator costs a step that never saves: the time of a whole run, with it and without it, in turns.

python benchmarks/overhead.py --peer-python .venv-peer/bin/python
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import time
from typing import Any

from common import (
    HERE,
    PEER,
    clean_environment,
    describe_machine,
    in_turns,
    machine_line,
    peer_path,
    s3_environment,
    say,
    scratch_folder,
    write_results,
)
from report import Quantity, print_table
from sink import Sink

RUN_TIMEOUT_S = 300
#: Without the decorator; the peer's environment has a start of its own to compare with.
BARE, PEER_BARE = "no decorator", "no decorator, the peer's environment"
QUANTITIES = (
    Quantity("seconds", "whole run, s"),
    Quantity("added_s", "more than without, ms", 1e-3, 0, with_ratio=False),
    Quantity("cpu_s", "CPU, s"),
)


def children_cpu_s() -> float:
    """User and system seconds of all children that have ended; a sidecar is one of its task, which waits for it."""
    use = resource.getrusage(resource.RUSAGE_CHILDREN)
    return use.ru_utime + use.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="Python of an environment with metaflow-checkpoint; left out: without it")
    parser.add_argument("--stores", nargs="+", choices=("local", "s3"), default=["local", "s3"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--scratch", help="where the datastore lies (default: in memory where there is room)")
    parser.add_argument("--results", help="the folder for the JSON (default: benchmarks/results)")
    parser.add_argument("--quick", action="store_true", help="a trial of a minute or so: local, twice")
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.stores = 2, ["local"]
    peer = peer_path(options.peer_python)
    machine = describe_machine(("metaflow",), peer)
    variants: list[tuple[str, str, dict[str, object] | None]] = [
        (BARE, sys.executable, None),
        ("ckpt-async, waiting", sys.executable, {"show_card": False}),
        ("ckpt-async, async_upload", sys.executable, {"show_card": False, "async_upload": True}),
        ("ckpt-async, async_upload, card", sys.executable, {"async_upload": True}),
    ]
    if peer:
        variants += [(PEER_BARE, peer, None), (PEER, peer, {"show_card": False}), (f"{PEER}, card", peer, {})]
    measurements: list[dict[str, Any]] = []
    with scratch_folder(options.scratch) as scratch, contextlib.ExitStack() as owned:
        sink = owned.enter_context(Sink(keep_below_bytes=1 << 30))
        environments = {
            "s3": s3_environment(sink.endpoint_url, "bench", "key", "secret"),
            "local": {"METAFLOW_DEFAULT_DATASTORE": "local", "METAFLOW_DEFAULT_METADATA": "local", "METAFLOW_USER": "bench"},
        }
        for store in options.stores:
            environment = clean_environment(
                METAFLOW_HOME=str(scratch / "config"), METAFLOW_DATASTORE_SYSROOT_LOCAL=str(scratch), **environments[store]
            )
            bare_s: dict[str, float] = {}
            for repeat, (name, python, attributes) in in_turns(variants, options.repeats):
                asked = {} if attributes is None else {"BENCH_ATTRIBUTES": json.dumps(attributes)}
                cpu_before_s, begun_s = children_cpu_s(), time.perf_counter()
                answer = subprocess.run(
                    [python, str(HERE / "overhead_flow.py"), "--no-pylint", "run"],
                    cwd=scratch, env={**environment, **asked}, capture_output=True, text=True, timeout=RUN_TIMEOUT_S,
                )  # fmt: skip
                seconds = time.perf_counter() - begun_s
                if answer.returncode != 0:
                    raise RuntimeError(f"the flow with {name} failed:\n{answer.stdout[-3000:]}\n{answer.stderr[-3000:]}")
                spent = {"seconds": seconds, "cpu_s": children_cpu_s() - cpu_before_s}
                measurements.append({"store": store, "variant": name, "python": python, "repeat": repeat, **spent})
                say(f"{store:6} {name:40} {seconds:6.2f} s")
                if attributes is None:
                    bare_s[f"{python} {repeat}"] = seconds
            for one in measurements:
                if one["store"] == store:
                    one["added_s"] = one["seconds"] - bare_s[f"{one['python']} {one['repeat']}"]
    path = write_results("overhead", machine, measurements, options.results)
    print_table(
        measurements,
        f"a step that never saves; {machine_line(machine)}",
        group_by=("store",),
        quantities=QUANTITIES,
        baseline=BARE,
        notes=["each run is compared with the undecorated one of the same environment and repeat; S3 is a sink"],
    )
    say(f"every measurement: {path}")


if __name__ == "__main__":
    main()
