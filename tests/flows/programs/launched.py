"""Runs the counter through Metaflow's Runner, then one step of it again with `spin`, and tells which checkpoints there are."""

import sys

from metaflow import Checkpoint, Runner

with Runner(sys.argv[1], pylint=False).run(fail_at="") as running:
    task = running.run["start"].task
    saved = Checkpoint().list(task=task)
    print("run saved", [record["metadata"]["counter"] for record in saved], flush=True)

with Runner(sys.argv[1], pylint=False).spin(task.pathspec) as spinning:
    spun = Checkpoint().list(task=spinning.task)
    print("spin saved", [record["metadata"]["counter"] for record in spun], flush=True)
    print("apart", not {record["url"] for record in saved} & {record["url"] for record in spun}, flush=True)
    print("still there", Checkpoint().list(task=task) == saved, flush=True)
