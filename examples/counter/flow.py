"""A flow that counts, fails now and then, and never counts again what it had saved.

    python flow.py run                                   # fails by chance, retries, resumes
    COUNTER_ASYNC_UPLOAD=False python flow.py run        # the same with saves that wait for the datastore
    python flow.py run --kill-at 6                       # SIGKILL instead of an exception

Needs no server: without other configuration Metaflow keeps everything in a local folder.
"""

from __future__ import annotations

import json
import os
import random
import signal
import tempfile
import time
from pathlib import Path

from metaflow import FlowSpec, Parameter, checkpoint, current, retry, step

#: The most that Metaflow allows.
RETRIES = 4


class Journal:
    """What happened, one JSON object a line, in a file that outlives the attempts of the task (on one machine).

    A program would not need it: it is the witness by which this example proves that nothing is counted twice.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def events(self) -> list[dict]:
        """All that was noted, the oldest first."""
        return [json.loads(line) for line in self._path.read_text().splitlines()] if self._path.exists() else []

    def note(self, event: str, count: int, **more: object) -> None:
        """Add an event. It is handed to the kernel at once, so that it survives the death of this process."""
        line = {"event": event, "count": count, "attempt": current.retry_count, "time_s": time.time(), **more}
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def highest(self, event: str) -> int:
        """The highest count that was noted with `event`; 0 where there is none."""
        return max((line["count"] for line in self.events() if line["event"] == event), default=0)


class CounterFlow(FlowSpec):
    """Counts to a target in one task, saving every few counts."""

    target = Parameter("target", type=int, default=10, help="Where counting ends.")
    every = Parameter("every", type=int, default=2, help="Save after so many counts.")
    fail_rate = Parameter("fail-rate", type=float, default=0.2, help="The chance of an exception at each count, 0 to 1.")
    kill_at = Parameter("kill-at", type=int, default=0, help="Kill the first attempt (SIGKILL) at this count; 0: never.")
    ballast_mb = Parameter("ballast-mb", type=float, default=0.0, help="Size of a second file in each checkpoint, in MB.")
    pause = Parameter("pause", type=float, default=0.0, help="Seconds of work for each count.")
    journal = Parameter("journal", type=str, default="", help="The journal's file; default: a temporary one of the run.")

    @step
    def start(self):
        self.counter = 0
        self.next(self.count)

    # Text such as "False" is understood, as it comes from the environment or from --with checkpoint:async_upload=False.
    @checkpoint(async_upload=os.environ.get("COUNTER_ASYNC_UPLOAD", "True"))
    @retry(times=RETRIES, minutes_between_retries=0)
    @step
    def count(self):
        journal = Journal(self.journal or os.path.join(tempfile.gettempdir(), f"counter-{current.run_id}.jsonl"))
        progress = Path(current.checkpoint.directory) / "progress.json"

        if current.checkpoint.is_loaded:
            self.counter = json.loads(progress.read_text())["counter"]
            print(f"Attempt {current.retry_count}: resumed at {self.counter}")
        else:
            print(f"Attempt {current.retry_count}: nothing to resume from, counting from {self.counter}")
        saved = journal.highest("saved")
        journal.note("resumed" if current.checkpoint.is_loaded else "fresh", self.counter)
        assert self.counter >= saved, f"{saved} had been saved, but the task resumed at {self.counter}"

        while self.counter < self.target:
            self.counter += 1
            assert self.counter > saved, f"{self.counter} was saved before and is counted again"
            print(f"Count {self.counter}")
            journal.note("counted", self.counter)
            time.sleep(self.pause)

            if self.counter % self.every == 0 or self.counter == self.target:
                self.save(journal, progress)

            if self.kill_at == self.counter and current.retry_count == 0:
                journal.note("killed", self.counter)
                os.kill(os.getpid(), signal.SIGKILL)
            # Not in the last attempt: bad luck may delay this example, not end it.
            if current.retry_count < RETRIES and random.random() < self.fail_rate:
                journal.note("failed", self.counter)
                raise RuntimeError(f"bad luck at {self.counter}")

        self.next(self.end)

    def save(self, journal: Journal, progress: Path) -> None:
        """Overwrite the files in the checkpoint directory and save them."""
        if self.ballast_mb:
            (progress.parent / "ballast.bin").write_bytes(os.urandom(int(self.ballast_mb * 1_000_000)))
        progress.write_text(json.dumps({"counter": self.counter}))
        begun = time.time()
        self.latest_checkpoint = current.checkpoint.save(metadata={"counter": self.counter})
        held_up_s = time.time() - begun
        print(f"Saved {self.counter}: save() took {held_up_s * 1000:.0f} ms")
        journal.note("saved", self.counter, begun_s=begun, held_up_s=held_up_s, key=self.latest_checkpoint["key"])

    @step
    def end(self):
        print(f"The final count is {self.counter}")


if __name__ == "__main__":
    CounterFlow()
