"""Prints, as JSON, what the Client API finds of a run: for each task and attempt the artifacts, and the listed checkpoints."""

import json
import sys
import tempfile

from metaflow import Checkpoint, Flow, Task, namespace


def plain(value):
    return value if isinstance(value, (str, int, float, bool, type(None))) or type(value) in (list, dict) else repr(type(value))


def artifacts_of(task):
    found = {}
    for artifact in task:
        value = artifact.data
        found[artifact.id] = json.loads(json.dumps(value, default=plain)) if type(value) in (list, dict) else plain(value)
        found[f"type of {artifact.id}"] = type(value).__name__
    for name in ("_task_checkpoints", "_task_latest_checkpoint"):
        try:
            found[name] = task[name].data
        except KeyError:
            continue  # an attempt that was killed has none
    return found


def main():
    namespace(None)
    run = Flow(sys.argv[1]).latest_run
    tasks = {}
    for step in run:
        for task in step:
            name = f"{step.id}/{len([key for key in tasks if key.startswith(step.id + '/')])}"
            attempts = []
            for attempt in range(task.current_attempt + 1):
                attempts.append(artifacts_of(Task(task.pathspec, attempt=attempt)))
            records = Checkpoint().list(task=task.pathspec) if "_task_checkpoints" in attempts[-1] else []
            loaded = []
            for record in attempts[-1].get("_task_checkpoints", []):
                with tempfile.TemporaryDirectory() as folder:
                    Checkpoint().load(record, f"{folder}/loaded")
                    loaded.append(record["version_id"])
            tasks[name] = {
                "attempts": attempts,
                "listed": records,
                "loaded": loaded,
                "metadata": {key: value for key, value in task.metadata_dict.items() if key.startswith("checkpoint-load")},
                "finished": task.successful,
            }
    print(json.dumps(tasks))


if __name__ == "__main__":
    main()
