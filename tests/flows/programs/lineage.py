"""A step that goes on from what any run has saved; each attempt saves three, deletes the last, and those that are to fail do so."""

import os
import threading
from pathlib import Path

from metaflow import FlowSpec, checkpoint, current, retry, step

ATTEMPTS = int(os.environ.get("ATTEMPTS", "1"))
FAILURES = int(os.environ.get("FAILURES", "0"))
#: Where it is set, the last attempt waits for this file before it ends.
WAIT_FOR = os.environ.get("WAIT_FOR")


class LineageFlow(FlowSpec):
    @step
    def start(self):
        self.next(self.train)

    @retry(times=ATTEMPTS - 1, minutes_between_retries=0)
    @checkpoint(load_policy="eager", async_upload=True, show_card=False, keep_local=1)
    @step
    def train(self):
        for name in ("first", "second", "third"):
            Path(current.checkpoint.directory, "said").write_text(f"{name} of {current.pathspec} {current.retry_count}")
            newest = current.checkpoint.save(name=name, metadata={"named": name})
        # It is on its way; and a retry would begin with it.
        current.checkpoint.delete(newest)
        print("saved as", f"{current.pathspec}:{current.retry_count}", flush=True)
        if current.retry_count < FAILURES:
            raise ValueError("as it was told")
        while WAIT_FOR is not None and not os.path.exists(WAIT_FOR):
            threading.Event().wait(0.05)
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    LineageFlow()
