"""Saves and is killed in its first attempt; later ones go on from what the datastore has. Says where the engine comes from."""

import os
import signal
import sys

import typing_extensions  # noqa: F401  # an image's own, which may be older than what the engine needs
from metaflow import FlowSpec, checkpoint, current, retry, step


class RemoteFlow(FlowSpec):
    @checkpoint(async_upload=True, show_card=False)
    @retry(times=2, minutes_between_retries=0)
    @step
    def start(self):
        import ckpt_async

        print("engine from", os.path.dirname(ckpt_async.__file__))
        path = os.path.join(current.checkpoint.directory, "model")
        self.count = 0
        if current.checkpoint.is_loaded:
            with open(path, "rb") as file:
                self.count = int(file.read(8))
            print(f"resumed at {self.count} from attempt {current.checkpoint.info.attempt}")
        while self.count < 4:
            self.count += 1
            with open(path, "wb") as file:
                file.write(f"{self.count:08}".encode() + os.urandom(7 << 20))
            self.newest = current.checkpoint.save(metadata={"count": self.count})
            if self.count == 2 and current.retry_count == 0:
                sys.stdout.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        self.next(self.end)

    @step
    def end(self):
        print(f"ended at {self.count}")


if __name__ == "__main__":
    RemoteFlow()
