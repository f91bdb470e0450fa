"""Steps that have the decorator: two that never save, and one that does."""

import sys

from metaflow import FlowSpec, Task, checkpoint, current, step

#: What only saving, loading, or an upload in this process needs.
NOT_NEEDED = (
    "anyio",
    "ckpt_async.disk.snapshot",
    "ckpt_async.recovery",
    "ckpt_async.stores.local.store",
    "ckpt_async.transfer.upload",
)


def tell_imported():
    print("imported", [name for name in NOT_NEEDED if name in sys.modules])


def has_card(task):
    from metaflow.cards import get_cards
    from metaflow.plugins.cards.exception import CardNotPresentException

    try:
        return len(get_cards(task, id="task_checkpoints")) == 1
    except CardNotPresentException:
        return False


class IdleFlow(FlowSpec):
    @checkpoint
    @step
    def start(self):
        tell_imported()
        self.tasks = [current.pathspec]
        self.next(self.beside)

    @checkpoint(async_upload=True)
    @step
    def beside(self):
        tell_imported()
        self.tasks += [current.pathspec]
        self.next(self.saves)

    @checkpoint
    @step
    def saves(self):
        with open(f"{current.checkpoint.directory}/file", "w") as file:
            file.write("content")
        current.checkpoint.save()
        self.tasks += [current.pathspec]
        self.next(self.end)

    @step
    def end(self):
        print("cards", [has_card(Task(pathspec)) for pathspec in self.tasks])


if __name__ == "__main__":
    IdleFlow()
