"""A child process of the task saves for it; other tasks and the whole scope can be listed."""

import subprocess
import sys
from pathlib import Path

from metaflow import FlowSpec, checkpoint, current, step

CHILD = """
import os
from metaflow import Checkpoint
with Checkpoint() as checkpoint:
    with open(os.path.join(checkpoint.directory, "file"), "w") as file:
        file.write("from the child")
    expected = checkpoint.generate_key("child")
    record = checkpoint.save(name="child", metadata={"from": "child"})
    print("child key", record["key"] == expected == checkpoint.generate_key("child", record["version_id"]), flush=True)
    print("child saved", record["name"], sorted(one["name"] for one in checkpoint.list()), flush=True)
"""


class ChildrenFlow(FlowSpec):
    @checkpoint(show_card=False)
    @step
    def start(self):
        with open(f"{current.checkpoint.directory}/file", "w") as file:
            file.write("from the task")
        mine = current.checkpoint.save(name="task")
        subprocess.run([sys.executable, "-c", CHILD], check=True)
        listed = current.checkpoint.list()
        print("listed", sorted(record["name"] for record in listed))
        print("keys", len({record["key"] for record in listed}))
        print("scope", len(current.checkpoint.list(full_namespace=True)))
        print("attempt 3", current.checkpoint.list(attempt=3))
        print("by name", len(current.checkpoint.list(name="task")))
        child = next(record for record in listed if record["name"] == "child")
        current.checkpoint.load(child)
        print("loaded", Path(current.checkpoint.directory, "file").read_text())
        current.checkpoint.load(mine["key"], path="restored")
        print("restored", Path("restored/file").read_text())
        try:
            current.checkpoint.load(mine, path="restored")
        except FileExistsError as error:
            print("refused", type(error).__name__)
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    ChildrenFlow()
