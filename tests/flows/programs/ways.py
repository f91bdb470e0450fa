"""Each attempt of a branch saves two checkpoints and leaves the step in a way of its own; the one after the last way ends well."""

import os
import signal
import sys
import threading

import apart  # noqa: F401
from metaflow import FlowSpec, Parameter, Step, Task, catch, checkpoint, current, retry, step, timeout


class WaysFlow(FlowSpec):
    ways = Parameter("ways", help="Of a branch joined by '+', those of branches by commas")

    @step
    def start(self):
        self.branches = self.ways.split(",")
        self.next(self.leave, foreach="branches")

    @catch(var="failure")
    @retry(times=1, minutes_between_retries=0)
    @timeout(minutes=4)
    @checkpoint(async_upload=True, show_card=False, flush_timeout=240)
    @step
    def leave(self):
        number = current.checkpoint.info["metadata"]["number"] if current.checkpoint.is_loaded else None
        print(f"{self.input} attempt {current.retry_count} began with {number}", flush=True)
        ways = self.input.split("+")
        if current.retry_count < len(ways):
            save_twice(self.input)
            leave_by(ways[current.retry_count])
        self.next(self.join)

    @checkpoint(async_upload=True, show_card=False, flush_timeout=240)
    @step
    def join(self, inputs):
        for one in inputs:
            print(f"{one.input} was left by {type(getattr(one, 'failure', None)).__name__}")
        for task in Step(f"{current.flow_name}/{current.run_id}/leave"):
            for attempt in range(2):
                print(f"{task.pathspec} attempt {attempt} lists {numbers_of(Task(task.pathspec, attempt=attempt))}")
        save_twice("join")
        leave_by("wait")
        self.next(self.end)

    @step
    def end(self):
        pass


def numbers_of(task):
    """The saves that the artifacts of an attempt name, and the attempt of the latest checkpoint."""
    try:
        records, latest = task["_task_checkpoints"].data, task["_task_latest_checkpoint"].data
    except KeyError:
        return "nothing"  # killed
    return [record["metadata"]["number"] for record in records], latest and latest["attempt"]


def save_twice(name):
    for number in range(2):
        with open(os.path.join(current.checkpoint.directory, "data"), "wb") as file:
            file.write(bytes([number]) * 300_000)
        current.checkpoint.save(name=name.partition("+")[0], metadata={"number": number})
    pending = current.checkpoint.pending.saves
    print(f"{current.pathspec}: {name} attempt {current.retry_count} saved twice, {pending} pending", flush=True)


def leave_by(way):
    sidecar = current.checkpoint._checkpointer._worker._worker.pid
    if way == "raise":
        raise ValueError("left by an exception")
    if way == "alarm":
        signal.raise_signal(signal.SIGALRM)
    if way == "sys_exit":
        sys.exit(7)
    if way == "os_exit":
        os._exit(7)
    if way in ("kill_sidecar", "kill_both"):
        os.kill(sidecar, signal.SIGKILL)
    if way in ("kill_task", "kill_both"):
        os.kill(os.getpid(), signal.SIGKILL)
    if way == "kill_sidecar":
        # And as if the time of @timeout were over as soon as the step is.
        signal.setitimer(signal.ITIMER_REAL, 0.5)
    if way in ("grace", "impatience", "wait"):
        threading.Event().wait(240)


if __name__ == "__main__":
    WaysFlow()
