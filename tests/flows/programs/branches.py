"""Every branch of a foreach fails once, and goes on from its own checkpoint."""

import os

from metaflow import FlowSpec, checkpoint, current, retry, step


class BranchesFlow(FlowSpec):
    @step
    def start(self):
        self.letters = ["a", "b", "c"]
        self.next(self.work, foreach="letters")

    @retry(times=1, minutes_between_retries=0)
    @checkpoint(async_upload=True, show_card=False)
    @step
    def work(self):
        path = os.path.join(current.checkpoint.directory, "letter")
        if current.checkpoint.is_loaded:
            with open(path) as file:
                self.letter = file.read()
        else:
            with open(path, "w") as file:
                file.write(self.input)
            self.reference = current.checkpoint.save(name=f"of-{self.input}")
            raise RuntimeError("once")
        self.identifier = current.checkpoint.task_identifier
        self.next(self.join)

    @step
    def join(self, inputs):
        print("letters", "".join(sorted(one.letter for one in inputs)))
        print("identifiers", len({one.identifier for one in inputs}))
        self.merge_artifacts(inputs, exclude=["letter", "identifier", "reference"])
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    BranchesFlow()
