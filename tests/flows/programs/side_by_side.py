"""One step saves with metaflow-checkpoint, one with ours; each reads what the other has stored, by every way that it has."""

import os
from functools import partial
from pathlib import Path

import metaflow
from metaflow import Checkpoint, FlowSpec, checkpoint, current, load_model, model, step
from metaflow.decorators import _base_step_decorator
from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.checkpoints import decorator as theirs
from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.checkpoints.final_api import Checkpoint as TheirCheckpoint
from metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.modeling_utils import decorator as their_models

# Its cards take many seconds, and are not what is tried here.
for module in (theirs, their_models):
    module.CardDecoratorInjector.attach_card_decorator = lambda *_, **__: None
for collector in (theirs.CheckpointsCollector, their_models.ModelsCollector):
    collector.start = collector.stop = lambda _: None

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


class SideBySideFlow(FlowSpec):
    @their_checkpoint
    @step
    def start(self):
        assert type(current.checkpoint).__module__.startswith("metaflow_extensions.obcheckpoint"), type(current.checkpoint)
        write_files(current.checkpoint.directory, "theirs")
        self.their_files = current.checkpoint.save(name="files", metadata={"by": "them"})
        self.their_tar = current.checkpoint.save(name="model.v1", storage_format="tar")
        self.theirs = current.pathspec
        print("theirs at", self.theirs)
        self.next(self.ours)

    @checkpoint(async_upload=True, show_card=False)
    @step
    def ours(self):
        owners = [metaflow.Checkpoint, type(current.checkpoint), metaflow.checkpoint.args[0], metaflow.huggingface_hub.args[0]]
        print("owners", *(owner.__module__.split(".")[1] for owner in owners))
        for number, reference in enumerate([self.their_files, self.their_files["key"], self.their_tar, self.their_tar["key"]]):
            current.checkpoint.load(reference, f"loaded-{number}")
            check_files(f"loaded-{number}", "theirs")
        found = current.checkpoint.list(task=self.theirs)
        assert [(one["name"], one["version_id"]) for one in found] == [("model.v1", 1), ("files", 0)], found
        assert [one["key"] for one in current.checkpoint.list(task=self.theirs, name="files")] == [self.their_files["key"]]
        write_files(current.checkpoint.directory, "ours")
        self.our_files = current.checkpoint.save(name="files", metadata={"by": "us"})
        self.our_tar = current.checkpoint.save(name="archive", storage_format="tar")
        self.doomed = [current.checkpoint.save(name="doomed", storage_format=form) for form in ("files", "tar")]
        # On its way: loaded as soon as it is stored.
        current.checkpoint.load(self.our_tar, "loaded-ours")
        check_files("loaded-ours", "ours")
        self.ours_at = current.pathspec
        print("ours at", self.ours_at)
        self.next(self.models)

    @model(load=["their_tar", "our_files", ("our_tar", "unpacked")])
    @step
    def models(self):
        check_files(current.model.loaded["their_tar"], "theirs")
        check_files(current.model.load(self.our_tar["key"]), "ours")
        for path in (current.model.loaded["our_files"], "unpacked"):
            check_files(path, "ours")
        self.stored_model = current.model.save(current.model.loaded["our_files"], label="a-model")
        load_model(self.our_files, "by-load-model")
        load_model(self.our_tar["key"], "by-load-model-and-key")
        for path in ("by-load-model", "by-load-model-and-key"):
            check_files(path, "ours")
        listed = TheirCheckpoint().list(task=self.ours_at)
        assert [one["name"] for one in listed] == ["doomed", "doomed", "archive", "files"], listed
        for number, one in enumerate([*listed[2:], listed[2]["key"]]):
            TheirCheckpoint().load(one, f"theirs-{number}")
            check_files(f"theirs-{number}", "ours")
        for reference in (*self.doomed, self.their_tar):
            Checkpoint().delete(reference)
        # Theirs has no list of its own of a task's checkpoints: it takes what the artifacts say.
        assert [one["name"] for one in Checkpoint().list(task=self.ours_at)] == ["archive", "files"]
        assert [one["name"] for one in Checkpoint().list(task=self.theirs)] == ["files"]
        self.next(self.end)

    @step
    def end(self):
        load_model(self.stored_model, "stored-model")
        check_files("stored-model", "ours")


if __name__ == "__main__":
    SideBySideFlow()
