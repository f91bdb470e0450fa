"""Counts to ten, saves every second count, and fails after some: an attempt goes on from what the one before has saved."""

import os

from metaflow import FlowSpec, Parameter, checkpoint, current, retry, step


class CounterFlow(FlowSpec):
    fail_at = Parameter("fail_at", default="3,7", help="The counts at which the attempts 0, 1, ... fail")

    # What the test wants to vary: a decorator's attributes are read when the file is.
    @checkpoint(async_upload=os.environ["COUNTER_ASYNC"], show_card=os.environ["COUNTER_CARD"])
    @retry(times=3, minutes_between_retries=0)
    @step
    def start(self):
        self.counter = 0
        path = os.path.join(current.checkpoint.directory, "counter")
        if current.checkpoint.is_loaded:
            with open(path) as file:
                self.counter = int(file.read())
            print(f"resumed at {self.counter} from attempt {current.checkpoint.info.attempt}")
        failures = [int(number) for number in self.fail_at.split(",") if number]
        while self.counter < 10:
            self.counter += 1
            print(f"counted {self.counter}")
            if self.counter % 2 == 0:
                with open(path, "w") as file:
                    file.write(str(self.counter))
                self.newest = current.checkpoint.save(metadata={"counter": self.counter})
            if current.retry_count < len(failures) and self.counter == failures[current.retry_count]:
                raise RuntimeError(f"failing at {self.counter}")
        self.next(self.end)

    @step
    def end(self):
        print(f"ended at {self.counter}")


if __name__ == "__main__":
    CounterFlow()
