"""One save in one task, measured. Runs with ckpt-async and with metaflow-checkpoint: whichever is installed."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from metaflow import FlowSpec, Parameter, checkpoint, current, step

#: The decorator's attributes, as JSON. From the environment, because Metaflow evaluates decorators before parameters.
ATTRIBUTES = {"show_card": False, **json.loads(os.environ.get("BENCH_ATTRIBUTES", "{}"))}


class BenchFlow(FlowSpec):
    """Saves a folder and writes what it took into a file."""

    folder = Parameter("folder", type=str, required=True, help="What is saved.")
    out = Parameter("out", type=str, required=True, help="Where the measurements go, as JSON.")

    @checkpoint(**ATTRIBUTES)
    @step
    def start(self):
        from tree_meter import MeterProcess

        meter = MeterProcess()
        begun = time.perf_counter()
        current.checkpoint.save(self.folder)
        blocked_s = time.perf_counter() - begun
        if hasattr(current.checkpoint, "flush"):
            current.checkpoint.flush()
        stored_s = time.perf_counter() - begun
        use = meter.stop()
        # Not part of what is measured: the proof that it is there.
        found = len(list(current.checkpoint.list()))
        Path(self.out).write_text(json.dumps({"blocked_s": blocked_s, "stored_s": stored_s, "found": found, **use}))
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    BenchFlow()
