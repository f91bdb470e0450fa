"""Saves a large and a small file, is killed in the middle, and resumes; a second step saves and waits."""

import os
import signal

from metaflow import Checkpoint, FlowSpec, checkpoint, current, retry, step

LARGE_BYTES = 20_000_001


def content_of(number):
    return (b"%08d" % number) * (LARGE_BYTES // 8) + b"end"


class CloudsFlow(FlowSpec):
    @checkpoint(async_upload=True, show_card=False)
    @retry(times=2, minutes_between_retries=0)
    @step
    def start(self):
        first = 0
        if current.checkpoint.is_loaded:
            first = current.checkpoint.info.metadata["number"] + 1
            with open(os.path.join(current.checkpoint.directory, "large"), "rb") as file:
                assert file.read() == content_of(first - 1)
            print(f"resumed at {first} from attempt {current.checkpoint.info.attempt}")
        for number in range(first, 4):
            for name, content in (("large", content_of(number)), ("small", b"%d" % number)):
                with open(os.path.join(current.checkpoint.directory, name), "wb") as file:
                    file.write(content)
            self.newest = current.checkpoint.save(metadata={"number": number})
            if current.retry_count == 0 and number == 1:
                os.kill(os.getpid(), signal.SIGKILL)
        self.next(self.end)

    @checkpoint(async_upload=False, show_card=False)
    @step
    def end(self):
        with open(os.path.join(current.checkpoint.directory, "said"), "w") as file:
            file.write("the end")
        reference = current.checkpoint.save(name="last")
        with Checkpoint() as found:
            found.load(self.newest)
            with open(os.path.join(found.directory, "large"), "rb") as file:
                assert file.read() == content_of(3)
            found.load(reference)
            assert os.listdir(found.directory) == ["said"]
        for attempt in (None, 0):
            listed = Checkpoint().list(task=f"{current.flow_name}/{current.run_id}/start/1", attempt=attempt)
            print("listed", [(one["attempt"], one["metadata"]["number"]) for one in listed])


if __name__ == "__main__":
    CloudsFlow()
