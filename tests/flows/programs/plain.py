"""A flow without the decorator: it comes by --with."""

from metaflow import FlowSpec, current, step


class PlainFlow(FlowSpec):
    @step
    def start(self):
        loaded = None
        if current.checkpoint.is_loaded:
            with open(f"{current.checkpoint.directory}/file") as file:
                loaded = file.read()
        print("began with", loaded)
        with open(f"{current.checkpoint.directory}/file", "w") as file:
            file.write("content")
        self.reference = current.checkpoint.save()
        settings = current.checkpoint._checkpointer.settings
        print(f"settings {settings.async_upload} {settings.max_pending} {settings.max_pending_bytes}")
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    PlainFlow()
