"""Saves while the store is away, and says in which order all is stored once a spot notice has come."""

import os
import threading

import apart  # noqa: F401
from metaflow import FlowSpec, checkpoint, current, step

from ckpt_async import EntryCommitted, EntryStarted

# As the decorators of Kubernetes and Batch do where a task of theirs begins.
current._update_env({"spot_termination_notice": os.path.abspath("notice")})


def show(event):
    if isinstance(event, (EntryStarted, EntryCommitted)):
        print(f"{type(event).__name__} {int(event.entry)}", flush=True)


class SpotFlow(FlowSpec):
    @checkpoint(async_upload=True, show_card=False, flush_timeout=240)
    @step
    def start(self):
        current.checkpoint._checkpointer.add_listener(show)
        for number in range(3):
            with open(f"{current.checkpoint.directory}/file", "w") as file:
                file.write(str(number))
            current.checkpoint.save()
        print("saved 3", flush=True)
        while current.checkpoint.pending.saves:
            threading.Event().wait(0.02)
        threads = [thread.name for thread in threading.enumerate()]
        print(f"watching {threads.count('ckpt-async-spot')}")
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    SpotFlow()
