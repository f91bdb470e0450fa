"""How long a GPU stands still for each checkpoint, with `async_upload` and waiting for each upload.

    python benchmarks/gpu.py --line-mb-per-s 200

Trains a model in PyTorch and saves it now and then: `torch.save` into the same file, then `save()`. The GPU stands still from the
end of the last step before it until the next one begins. Says so and ends where there is no GPU; `--device cpu` tries the code.
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time
from pathlib import Path
from typing import Any

from common import clean_environment, describe_machine, in_turns, machine_line, s3_environment, say, scratch_folder, write_results
from report import Quantity, print_table
from sink import Sink

from ckpt_async import Settings, StoreAddress, TaskIdentity, open_checkpointer, short_hash
from ckpt_async.testing.access import ACCESS_SPEC, access_variables
from ckpt_async.words.events import WorkerReady

WAITING, ASYNC = "waiting for the upload", "async_upload"
OPEN_TIMEOUT_S = 60.0
QUANTITIES = (
    Quantity("still_s", "GPU still per checkpoint, s", digits=3),
    Quantity("write_s", "of that: torch.save, s", digits=3),
    Quantity("save_s", "of that: save(), s", digits=3),
    Quantity("steps_per_s", "steps/s between", digits=1),
    Quantity("flush_s", "flush at the end, s"),
)


def train(torch: Any, options: argparse.Namespace, variant: str, run: int, scratch: Path, endpoint_url: str) -> dict[str, Any]:
    """Train with one way of saving; returns what was measured."""
    device = torch.device(options.device)

    def finished() -> float:
        """Wait for the GPU; returns the time."""
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    os.environ.update(access_variables(endpoint_url, "key", "secret"))
    identity = TaskIdentity("Bench", str(run), "train", "1", 0, short_hash("bench"), short_hash("train"))
    ready = threading.Event()
    opened = open_checkpointer(
        identity,
        StoreAddress("s3://bench/metaflow", ACCESS_SPEC),
        Settings(async_upload=variant == ASYNC),
        scratch_root=str(scratch / "spool"),
        say=say,
    )
    opened.add_listener(lambda event: ready.set() if isinstance(event, WorkerReady) else None)
    if variant == ASYNC and not ready.wait(OPEN_TIMEOUT_S):
        raise RuntimeError("the sidecar does not start")
    torch.manual_seed(7)
    layers = [torch.nn.Linear(options.width, options.width) for _ in range(options.layers)]
    model = torch.nn.Sequential(*layers).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    samples = torch.randn(options.batch, options.width, device=device)
    folder = scratch / f"run-{run}"
    folder.mkdir()
    still_s, write_s, save_s, step_s = [], [], [], []
    for _ in range(options.saves + 1):
        begun_s = finished()
        for _ in range(options.every):
            loss = model(samples).square().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        idle_from_s = finished()
        step_s.append((idle_from_s - begun_s) / options.every)
        if len(still_s) < options.saves:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, folder / "training.pt")
            written_s = time.perf_counter()
            opened.save(folder)
            saved_s = time.perf_counter()
            write_s.append(written_s - idle_from_s)
            save_s.append(saved_s - written_s)
            still_s.append(saved_s - idle_from_s)
    begun_s = time.perf_counter()
    opened.close(timeout_s=600.0)
    flush_s = time.perf_counter() - begun_s
    size_bytes = (folder / "training.pt").stat().st_size
    (folder / "training.pt").unlink()
    return {
        "still_s": statistics.mean(still_s),
        "write_s": statistics.mean(write_s),
        "save_s": statistics.mean(save_s),
        "steps_per_s": 1 / statistics.median(step_s[1:]),  # the first ones warm up
        "flush_s": flush_s,
        "size_bytes": size_bytes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--width", type=int, default=4096, help="of the layers; the state has 12 bytes for each weight")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--every", type=int, default=200, help="steps between two saves")
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--line-mb-per-s", type=float, default=None, help="the rate of the line (default: as fast as it goes)")
    parser.add_argument("--scratch", help="where files and spool lie (default: in memory where there is room)")
    parser.add_argument("--results", help="the folder for the JSON (default: benchmarks/results)")
    parser.add_argument("--quick", action="store_true", help="a trial of a minute or so: a small model, once")
    options = parser.parse_args()
    if options.quick:
        options.width, options.layers, options.batch, options.every, options.saves, options.repeats = 512, 2, 32, 10, 2, 1
    try:
        import torch
    except ImportError:
        say("torch is not installed here: nothing measured")
        return
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        say("there is no GPU here: nothing measured")
        return
    machine = describe_machine(("torch", "numpy"))
    machine["gpu"] = torch.cuda.get_device_name() if options.device.startswith("cuda") else "none"
    measurements: list[dict[str, Any]] = []
    rate = options.line_mb_per_s * 1e6 if options.line_mb_per_s else None
    with scratch_folder(options.scratch) as scratch, Sink(bytes_per_s=rate) as sink:
        server = s3_environment(sink.endpoint_url, "bench", "key", "secret")
        os.environ.update(clean_environment(**server))
        for run, (repeat, variant) in enumerate(in_turns((WAITING, ASYNC), options.repeats)):
            measured = train(torch, options, variant, run, scratch, sink.endpoint_url)
            measurements.append({"variant": variant, "repeat": repeat, **measured})
            say(f"{variant:25} still {measured['still_s']:.3f} s per checkpoint of {measured['size_bytes'] / 1e6:.0f} MB")
    path = write_results("gpu", machine, measurements, options.results)
    size = f"{measurements[0]['size_bytes'] / 1e6:.0f} MB"
    line = f"{options.line_mb_per_s:g} MB/s" if rate else "a line without limit"
    print_table(
        [{**one, "checkpoint": size} for one in measurements],
        f"{machine['gpu']}, {line}; {machine_line(machine)}",
        group_by=("checkpoint",),
        quantities=QUANTITIES,
        baseline=WAITING,
    )
    say(f"every measurement: {path}")


if __name__ == "__main__":
    main()
