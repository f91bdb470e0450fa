"""What a task tells its child processes through the environment, so that `Checkpoint()` in one of them saves for the task."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

from ckpt_async import InvalidArgument, StoreAddress, TaskIdentity

__all__ = ["TaskEnvironment", "export_task", "read_task"]

IDENTIFIER = "METAFLOW_CHECKPOINT_TASK_IDENTIFIER"
UID = "METAFLOW_CHECKPOINT_UID"

#: Ours: where the checkpoints go and where spools stand. Without it, what Metaflow is configured for.
STORE = "METAFLOW_CHECKPOINT_STORE"


@dataclass(frozen=True)
class TaskEnvironment:
    """What a child process knows of its task. `address` and `scratch_root` are None where another program set the environment."""

    identity: TaskIdentity
    address: StoreAddress | None
    scratch_root: str | None


def export_task(identity: TaskIdentity, address: StoreAddress, scratch_root: str) -> None:
    """Put the task into the environment of this process and of its children to come. No credentials are among it."""
    parts = (identity.pathspec, identity.task_identifier, identity.scope, str(identity.attempt))
    os.environ[IDENTIFIER] = identity.task_identifier
    os.environ[UID] = "/".join(parts)
    os.environ[STORE] = json.dumps({"url": address.url, "access": address.access, "scratch_root": scratch_root})


def read_task(environment: Mapping[str, str]) -> TaskEnvironment | None:
    """Read the environment; None outside a task with `@checkpoint`.

    Raises
    ------
    InvalidArgument
        What is there can't be read.
    """
    uid = environment.get(UID)
    if uid is None:
        return None
    parts = uid.split("/")
    if len(parts) != 7 or not all(parts) or not parts[6].isdecimal():
        raise InvalidArgument(
            "read the task of this process",
            on=f"{UID}={uid!r}",
            cause="it should be FLOW/RUN/STEP/TASK/IDENTIFIER/SCOPE/ATTEMPT",
            hint="Pass the variable on as the task has it.",
        )
    flow, run, step, task, identifier, scope, attempt = parts
    identity = TaskIdentity(flow, run, step, task, int(attempt), scope, identifier)
    text = environment.get(STORE)
    if text is None:
        return TaskEnvironment(identity, None, None)
    try:
        data = json.loads(text)
        return TaskEnvironment(identity, StoreAddress(str(data["url"]), access=str(data["access"])), str(data["scratch_root"]))
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidArgument("read the task of this process", on=STORE, cause=f"{type(error).__name__}: {error}") from error
