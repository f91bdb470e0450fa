"""A flow without the decorator: it comes by --with."""

from metaflow import FlowSpec, current, step


class PlainFlow(FlowSpec):
    @step
    def start(self):
        with open(f"{current.checkpoint.directory}/file", "w") as file:
            file.write("content")
        self.reference = current.checkpoint.save()
        print(f"pending {current.checkpoint.pending.saves >= 0}")
        print(
            f"settings {current.checkpoint._checkpointer.settings.async_upload} {current.checkpoint._checkpointer.settings.max_pending}"
        )
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    PlainFlow()
