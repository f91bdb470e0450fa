"""Checkpoints go where `@with_artifact_store` says: ours, which that package loads, and one of that package's, which ours loads."""

import json
import os
from pathlib import Path

from metaflow import Checkpoint, FlowSpec, checkpoint, current, load_model, step, with_artifact_store
from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.checkpoints.final_api import Checkpoint as TheirCheckpoint

STORE = json.loads(os.environ["ELSEWHERE"])


@with_artifact_store(type="s3", config=lambda: STORE)
class ElsewhereFlow(FlowSpec):
    @checkpoint(async_upload=True, show_card=False)
    @step
    def start(self):
        Path(current.checkpoint.directory, "weights").write_text("ours")
        self.files = current.checkpoint.save(name="files")
        self.tar = current.checkpoint.save(name="tar", storage_format="tar")
        Path(current.checkpoint.directory, "weights").write_text("theirs")
        theirs = TheirCheckpoint().save(current.checkpoint.directory, name="theirs", storage_format="tar")
        current.checkpoint.load(theirs, "loaded-theirs")
        print("theirs is", Path("loaded-theirs", "weights").read_text())
        Checkpoint().delete(theirs)
        print("saved by", current.pathspec)
        self.next(self.end)

    @step
    def end(self):
        for name in ("files", "tar"):
            load_model(getattr(self, name), name)
            print(name, "is", Path(name, "weights").read_text())


if __name__ == "__main__":
    ElsewhereFlow()
