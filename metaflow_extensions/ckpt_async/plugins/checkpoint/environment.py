"""What a task tells its child processes through the environment, so that `Checkpoint()` in one of them saves for the task."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

from ckpt_async import InvalidArgument, StoreAddress, TaskIdentity

__all__ = ["TaskEnvironment", "TaskPlace", "export_task", "read_task"]

IDENTIFIER = "METAFLOW_CHECKPOINT_TASK_IDENTIFIER"
UID = "METAFLOW_CHECKPOINT_UID"

#: Ours: where the checkpoints go and where spools stand. Without it, what Metaflow is configured for.
STORE = "METAFLOW_CHECKPOINT_STORE"


@dataclass(frozen=True)
class TaskPlace:
    """Where a task's checkpoints go, and by which way.

    Attributes
    ----------
    address : StoreAddress
        Where they go.
    scratch_root : str
        The folder under which spools stand.
    node_index, num_nodes : int
        Of the gang that shares the identity.
    """

    address: StoreAddress
    scratch_root: str
    node_index: int = 0
    num_nodes: int = 1


@dataclass(frozen=True)
class TaskEnvironment:
    """What a child process knows of its task. `place` is None where another program set the environment."""

    identity: TaskIdentity
    place: TaskPlace | None


def export_task(identity: TaskIdentity, place: TaskPlace) -> None:
    """Put the task into the environment of this process and of its children to come. No credentials are among it."""
    parts = (identity.pathspec, identity.task_identifier, identity.scope, str(identity.attempt))
    os.environ[IDENTIFIER] = identity.task_identifier
    os.environ[UID] = "/".join(parts)
    os.environ[STORE] = json.dumps(dataclasses.asdict(place))


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
        return TaskEnvironment(identity, None)
    try:
        data = json.loads(text)
        address = StoreAddress(str(data["address"]["url"]), access=str(data["address"]["access"]))
        place = TaskPlace(address, str(data["scratch_root"]), int(data["node_index"]), int(data["num_nodes"]))
        return TaskEnvironment(identity, place)
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidArgument("read the task of this process", on=STORE, cause=f"{type(error).__name__}: {error}") from error
