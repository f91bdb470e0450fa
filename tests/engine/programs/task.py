"""A task: opens a checkpointer, then does what it reads from stdin, one JSON object a line, and answers on stdout."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import threading
import warnings
from typing import Any

from ckpt_async import CheckpointError, InvalidArgument, StoreAddress, TaskIdentity, open_checkpointer
from ckpt_async.words.events import WorkerReady
from ckpt_async.words.settings import settings_from_dict

# Newer Pythons warn of forks beside threads; that children are forked all the same is what is tested.
warnings.filterwarnings("ignore", category=DeprecationWarning)
FORK = multiprocessing.get_context("fork")


class Task:
    def __init__(self, spec: dict[str, Any]) -> None:
        self.said: list[str] = []
        self.sidecars: list[int] = []
        self.changed = threading.Condition()
        self.checkpointer = open_checkpointer(
            TaskIdentity(**spec["identity"]),
            StoreAddress(**spec["address"]),
            settings_from_dict(spec["settings"]),
            scratch_root=spec["scratch"],
            say=self.said.append,
        )
        self.checkpointer.add_listener(self.listen)
        self.children: list[Any] = []

    def listen(self, event: object) -> None:
        if isinstance(event, WorkerReady):
            with self.changed:
                self.sidecars.append(event.pid)
                self.changed.notify_all()

    def sidecar(self, number: int = 1) -> int:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.sidecars) >= number, 30)
            return self.sidecars[number - 1]

    def save(self, path: str, **more: Any) -> dict[str, Any]:
        return dict(self.checkpointer.save(path, **more))

    def resume(self, policy: str, target: str) -> dict[str, Any] | None:
        record = self.checkpointer.resume(policy, target)
        return record.to_dict() if record is not None else None

    def flush(self, timeout_s: float = 30) -> None:
        self.checkpointer.flush(timeout_s)

    def close(self, timeout_s: float = 30) -> None:
        self.checkpointer.close(timeout_s=timeout_s)

    def lines(self) -> list[str]:
        return self.said

    def fork_that_saves(self, path: str) -> int | None:
        child = FORK.Process(target=self.save_in_child, args=(path,))
        child.start()
        child.join(30)
        return child.exitcode

    def save_in_child(self, path: str) -> None:
        try:
            self.checkpointer.save(path)
        except InvalidArgument as error:
            assert "forked" in str(error)
            sys.exit(7)

    def fork_that_stays(self) -> int | None:
        ours, theirs = FORK.Pipe()
        child = FORK.Process(target=stay, args=(theirs,))
        child.start()
        self.children.append((child, ours))
        return child.pid


def stay(pipe: Any) -> None:
    """Live until somebody kills this process: its own end of the pipe is open here too."""
    with open(os.devnull, "w") as null:
        for number in (1, 2):
            os.dup2(null.fileno(), number)
    pipe.recv()


def main() -> None:
    task = Task(json.loads(sys.argv[1]))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"result": getattr(task, request.pop("do"))(**request)}
        except CheckpointError as error:
            answer = {"error": error.to_wire()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
