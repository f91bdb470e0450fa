"""Every branch of a nested foreach, over values that JSON can't hold, fails once and goes on from its own checkpoint."""

import os

from metaflow import FlowSpec, checkpoint, current, retry, step


class BranchesFlow(FlowSpec):
    @step
    def start(self):
        self.letters = [b"a", {"b"}]
        self.next(self.spread, foreach="letters")

    @step
    def spread(self):
        self.letter = "".join(char if isinstance(char, str) else chr(char) for char in self.input)
        self.numbers = [1, complex(2)]
        self.next(self.work, foreach="numbers")

    @retry(times=1, minutes_between_retries=0)
    @checkpoint(async_upload=True, show_card=False)
    @step
    def work(self):
        path = os.path.join(current.checkpoint.directory, "branch")
        if current.checkpoint.is_loaded:
            with open(path) as file:
                self.branch = file.read()
        else:
            with open(path, "w") as file:
                file.write(f"{self.letter}{int(abs(self.input))}")
            self.reference = current.checkpoint.save(name=f"of-{self.input}")
            raise RuntimeError("once")
        self.identifier = current.checkpoint.task_identifier
        self.next(self.gather)

    @step
    def gather(self, inputs):
        self.branches = [(one.branch, one.identifier) for one in inputs]
        self.next(self.join)

    @step
    def join(self, inputs):
        branches = [branch for one in inputs for branch in one.branches]
        print("branches", " ".join(sorted(branch for branch, _ in branches)))
        print("identifiers", len({identifier for _, identifier in branches}))
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    BranchesFlow()
