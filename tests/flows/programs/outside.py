"""What a script, or a notebook, does with the checkpoints of a task that is still running."""

import asyncio
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

from metaflow import Checkpoint, Task, namespace


def said(folder):
    return Path(folder, "said").read_text()


def gone(folder):
    return not os.path.exists(folder)


def names(records):
    return [(record["attempt"], record["name"]) for record in records]


async def main(pathspec):
    """With a loop that runs, as in a notebook, in another namespace, and not where the datastore is."""
    namespace("user:somebody-else")
    task = Task(pathspec, _namespace_check=False)
    newest = Checkpoint().list(task=task)
    assert names(newest) == [(1, "second"), (1, "first")], newest
    assert newest == Checkpoint().list(task=pathspec) == Checkpoint().list(task=pathspec, attempt="1")
    assert names(Checkpoint().list(task=task, attempt=0)) == [(0, "second"), (0, "first")]
    assert names(Checkpoint().list(name="first", task=task)) == [(1, "first")]
    assert Checkpoint().list(name="third", task=task) == Checkpoint().list(task=task, attempt=3) == []
    assert Checkpoint().list(task=pathspec.replace("/train/2", "/start/1")) == [], "a step without @checkpoint"
    with Checkpoint() as cp:
        for reference in (newest[0], newest[0]["key"], SimpleNamespace(**newest[0])):
            cp.load(reference)
            assert said(cp.directory) == f"second of {pathspec} 1"
        cp.load(newest[1], "by-path")
        assert said("by-path") == f"first of {pathspec} 1"
        kept = cp.directory
    assert gone(kept) and cp.directory is None
    made = Checkpoint(temp_dir_root="roots", init_dir=True)
    made.load(newest[1])
    assert said(made.directory) == f"first of {pathspec} 1" and Path(made.directory).parent.samefile("roots")
    made.close()
    Checkpoint().delete(newest[1])
    assert names(Checkpoint().list(task=task)) == [(1, "second")]
    print("lineage", [(one["pathspec"], one["attempt"], one["name"]) for one in Checkpoint().lineage(task)])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as elsewhere:
        asyncio.run(main(sys.argv[1]))
