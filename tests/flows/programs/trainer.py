"""A trainer that knows nothing of checkpoints: it writes into a folder that is built in, and goes on from what it finds there.

Each of its steps ends when somebody has made the file ``go-N``. In the first attempt it hangs in the middle of the third.
"""

import os
import time

from metaflow import FlowSpec, current, retry, step

OUT = os.path.join(os.getcwd(), "fixed", "out")


class TrainerFlow(FlowSpec):
    @retry(times=1, minutes_between_retries=0)
    @step
    def start(self):
        print("task", current.pathspec, "pid", os.getpid())
        print("found", len(os.listdir(OUT)), *sorted(os.listdir(OUT)))
        for number in range(len(os.listdir(OUT)), 3):
            os.mkdir(f"{OUT}/checkpoint-{number}")
            with open(f"{OUT}/checkpoint-{number}/model", "wb") as file:
                file.write(b"first half ")
                file.flush()
                if number == 2 and current.retry_count == 0:
                    print("in the middle")
                    self.wait_for("never")
                file.write(b"second half")
            if number < 2:
                self.wait_for(f"go-{number}")
        self.next(self.end)

    def wait_for(self, name):
        while not os.path.exists(name):
            time.sleep(0.02)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    TrainerFlow()
