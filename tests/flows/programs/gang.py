"""A gang of three nodes that save together and alone, and lose one of them once."""

import os

import apart  # noqa: F401
from metaflow import Checkpoint, FlowSpec, Task, checkpoint, current, parallel, retry, step
from metaflow.cards import get_cards
from metaflow.plugins.cards.exception import CardNotPresentException


def work(flow):
    """Node 1 fails in the first attempt, after one save of all: what the others save together after that never becomes whole."""
    node = current.parallel.node_index
    path = os.path.join(current.checkpoint.directory, "shard")
    began_with = "nothing"
    if current.checkpoint.is_loaded:
        with open(path) as file:
            began_with = file.read()
        began_with += f" {current.checkpoint.info.metadata['step']} {sorted(os.listdir(current.checkpoint.directory))}"
    print(f"{current.retry_count} node {node} began with {began_with}")

    def save(number, **more):
        with open(path, "w") as file:
            file.write(f"{node} of {number}")
        return current.checkpoint.save(metadata={"step": number}, **more)

    first = 2 * current.retry_count
    save(first, name="alone")
    save(first, name="alone")
    flow.saved = save(first + 1, group=True)
    flow.saved.wait(60)
    if node == 1 and current.retry_count == 0:
        raise RuntimeError("once")
    if current.retry_count == 0:
        save(first + 2, group=True)
    flow.node = node
    flow.identifier = current.checkpoint.task_identifier


def look(inputs):
    """What is left of a gang, for whoever comes after it."""
    control = next(one for one in inputs if one.node == 0)
    print(f"identifiers {len({one.identifier for one in inputs})}")
    print(f"control {control.saved['type']} {control._task_latest_checkpoint['group']}")
    pathspec = control._task_latest_checkpoint["pathspec"]
    for attempt in (0, 1):
        listed = Checkpoint().list(task=pathspec, attempt=attempt)
        groups = [one for one in listed if one["group"]]
        alone = [one for one in listed if not one["group"]]
        print(f"attempt {attempt} groups {[one['metadata']['step'] for one in groups]}")
        print(f"attempt {attempt} alone {len({one['key'] for one in alone})} {sorted(one['node_index'] for one in alone)}")
    Checkpoint().load(groups[0], "whole")
    for node in range(3):
        with open(f"whole/node-{node}/shard") as file:
            print(f"whole {node} {file.read()}")
    Checkpoint().load(groups[0]["key"], "part", node=2)
    with open("part/shard") as file:
        print(f"part {file.read()}")
    # Whichever node a reader comes by: what the gang saved lies in one place.
    tasks = list(Task(pathspec).parent)
    print(f"nodes {len(tasks)} {[Checkpoint().list(task=task) == listed for task in tasks]}")
    print(f"cards {[task.pathspec == pathspec for task in tasks if has_card(task)]}")


def has_card(task):
    try:
        return len(get_cards(task, id="task_checkpoints")) > 0
    except CardNotPresentException:
        return False


def in_order(function):
    """`@checkpoint` is the outer one of the two, or the inner one."""
    if os.environ["GANG_CHECKPOINT"] == "above":
        return checkpoint(async_upload=True)(parallel(function))
    return parallel(checkpoint(async_upload=True, show_card=False)(function))


class GangFlow(FlowSpec):
    @step
    def start(self):
        self.next(self.train, num_parallel=3)

    @retry(times=1, minutes_between_retries=0)
    @in_order
    @step
    def train(self):
        work(self)
        self.next(self.join)

    @step
    def join(self, inputs):
        look(inputs)
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    GangFlow()
