"""Saves eight times under `keep_last`, is killed in the middle and retried; what its events are goes into a file."""

import os
import signal

from metaflow import FlowSpec, checkpoint, current, retry, step


def hear(event):
    with open(os.environ["EVENTS"], "a") as file:
        file.write(type(event).__name__ + "\n")


class RetentionFlow(FlowSpec):
    @checkpoint(async_upload=True, keep_last=2, keep_best="loss:min", show_card=False, on_event=hear)
    @retry(times=1, minutes_between_retries=0)
    @step
    def start(self):
        path = os.path.join(current.checkpoint.directory, "step")
        first = 0
        if current.checkpoint.is_loaded:
            with open(path) as file:
                first = int(file.read()) + 1
        self.first, self.heard = first, []
        current.checkpoint.add_listener(lambda event: self.heard.append(type(event).__name__))
        self.saved = []
        for number in range(first, 8):
            with open(path, "w") as file:
                file.write(str(number))
            self.saved.append(current.checkpoint.save(metadata={"number": number, "loss": abs(number - 1)}))
            if number == first and current.retry_count == 1:
                current.checkpoint.pin(self.saved[-1])
            if number == 3 and current.retry_count == 0:
                self.saved[-1].wait(60)
                os.kill(os.getpid(), signal.SIGKILL)
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    RetentionFlow()
