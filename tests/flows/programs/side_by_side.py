"""One step saves with metaflow-checkpoint, one with ours; each reads what the other has stored, by every way that it has."""

import os
from functools import partial
from pathlib import Path

import metaflow
from metaflow import FlowSpec, checkpoint, current, load_model, model, step
from metaflow.decorators import _base_step_decorator
from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.checkpoints import decorator as theirs
from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.checkpoints.final_api import Checkpoint as TheirCheckpoint

FILES = {"weights": "w" * 300_000, "more/text": "some", "empty": ""}

their_checkpoint = partial(_base_step_decorator, theirs.CheckpointDecorator)


def write_files(folder, mark):
    for path, text in FILES.items():
        os.makedirs(os.path.dirname(os.path.join(folder, path)), exist_ok=True)
        Path(folder, path).write_text(mark + text)


def check_files(folder, mark):
    assert {str(p.relative_to(folder)): p.read_text() for p in Path(folder).rglob("*") if p.is_file()} == {
        path: mark + text for path, text in FILES.items()
    }, folder
    print("same files:", mark)


class SideBySideFlow(FlowSpec):
    @their_checkpoint
    @step
    def start(self):
        assert type(current.checkpoint).__module__.startswith("metaflow_extensions.obcheckpoint"), type(current.checkpoint)
        write_files(current.checkpoint.directory, "theirs")
        self.their_files = current.checkpoint.save(name="files", metadata={"by": "them"})
        self.their_tar = current.checkpoint.save(name="model.v1", storage_format="tar")
        self.theirs = current.pathspec
        self.next(self.ours)

    @model(load=["their_files"])
    @checkpoint(async_upload=True)
    @step
    def ours(self):
        for name in ("checkpoint", "Checkpoint"):
            print("owner of", name, getattr(metaflow, name).__module__)
        print("owner of current.checkpoint", type(current.checkpoint).__module__)
        for number, reference in enumerate([self.their_files, self.their_files["key"], self.their_tar, self.their_tar["key"]]):
            current.checkpoint.load(reference, f"loaded-{number}")
            check_files(f"loaded-{number}", "theirs")
        found = current.checkpoint.list(task=self.theirs)
        assert [(one["name"], one["version_id"]) for one in found] == [("model.v1", 1), ("files", 0)], found
        assert [one["key"] for one in current.checkpoint.list(task=self.theirs, name="files")] == [self.their_files["key"]]
        write_files(current.checkpoint.directory, "ours")
        self.our_files = current.checkpoint.save(name="files", metadata={"by": "us"})
        self.our_tar = current.checkpoint.save(name="archive", storage_format="tar")
        current.checkpoint.flush()
        check_files(current.model.load(dict(self.our_files)), "ours")
        check_files(current.model.load(self.our_tar["key"]), "ours")
        self.ours_at = current.pathspec
        self.next(self.models)

    @model(load=["our_files", ("our_tar", "unpacked")])
    @step
    def models(self):
        for path in (current.model.loaded["our_files"], "unpacked"):
            check_files(path, "ours")
        self.stored_model = current.model.save(current.model.loaded["our_files"], label="a-model")
        load_model(self.our_files, "by-load-model")
        load_model(self.our_tar["key"], "by-load-model-and-key")
        for path in ("by-load-model", "by-load-model-and-key"):
            check_files(path, "ours")
        listed = TheirCheckpoint().list(task=self.ours_at)
        assert [one["name"] for one in listed] == ["archive", "files"], listed
        for number, one in enumerate([*listed, listed[0]["key"]]):
            TheirCheckpoint().load(one, f"theirs-{number}")
            check_files(f"theirs-{number}", "ours")
        self.next(self.end)

    @step
    def end(self):
        load_model(self.stored_model, "stored-model")
        check_files("stored-model", "ours")


if __name__ == "__main__":
    SideBySideFlow()
