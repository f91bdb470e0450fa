"""Saves while the store is away: in one step it comes back before the end, in the next one after the attempt."""

import os
import threading

import apart  # noqa: F401
from metaflow import FlowSpec, checkpoint, current, retry, step


class OutageFlow(FlowSpec):
    @checkpoint(async_upload=True, show_card=False, flush_timeout=240)
    @step
    def start(self):
        save("before")
        current.checkpoint.flush()
        wait_until_away()
        save("during")
        save("later")
        self.next(self.lasting)

    @retry(times=1, minutes_between_retries=0)
    @checkpoint(async_upload=True, show_card=False, flush_timeout=2)
    @step
    def lasting(self):
        if current.checkpoint.is_loaded:
            with open(f"{current.checkpoint.directory}/file") as file:
                print(f"attempt {current.retry_count} began with {file.read()}")
            # The end of the step would wait for 2 s, which a busy machine may need for less.
            current.checkpoint.flush(240)
        else:
            wait_until_away()
            save("never stored")
        self.next(self.end)

    @step
    def end(self):
        pass


def save(text):
    with open(f"{current.checkpoint.directory}/file", "w") as file:
        file.write(text)
    current.checkpoint.save()


def wait_until_away():
    print(f"{current.pathspec} goes on when the store is away", flush=True)
    while not os.path.exists(f"away-{current.step_name}"):
        threading.Event().wait(0.02)


if __name__ == "__main__":
    OutageFlow()
