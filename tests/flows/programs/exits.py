"""Saves two checkpoints and leaves the step in the way that is asked for; a later attempt ends well."""

import os
import signal
import threading

from metaflow import FlowSpec, Parameter, checkpoint, current, step


class ExitsFlow(FlowSpec):
    how = Parameter("how", default="return")

    @checkpoint(async_upload=True, show_card=False)
    @step
    def start(self):
        loaded = current.checkpoint.info["metadata"]["number"] if current.checkpoint.is_loaded else None
        print(f"attempt {current.retry_count} loaded {loaded}")
        print(f"directory {current.checkpoint.directory}")
        if current.retry_count == 0 or self.how.endswith("-always"):
            self.references = []
            for number in range(2):
                with open(os.path.join(current.checkpoint.directory, "data"), "wb") as file:
                    file.write(bytes([number]) * 1000)
                self.references.append(current.checkpoint.save(metadata={"number": number}))
            print("saved both", flush=True)
            leave(self.how.removesuffix("-always"))
        self.next(self.end)

    @step
    def end(self):
        print(f"failure {getattr(self, 'failure', None) is not None}")


def leave(how):
    if how == "raise":
        raise ValueError("left by an exception")
    if how in ("SIGINT", "SIGKILL"):
        os.kill(os.getpid(), getattr(signal, how))
        threading.Event().wait(30)


if __name__ == "__main__":
    ExitsFlow()
