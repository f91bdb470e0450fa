"""Whose checkpoint it is: the task's address and the hashes that stand in keys."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from ckpt_async.words.errors import InvalidArgument

__all__ = ["TaskIdentity", "check_pathspec", "identity_outside_flow", "json_hash", "short_hash"]

HASH_CHARS = 12

#: A local store keeps each part of a pathspec as the name of a folder.
MAX_PART_BYTES = 200

#: The names of spools have room for four digits of it.
MAX_ATTEMPT = 9999

#: The scope of what was saved outside of any flow: that of no namespace of Metaflow's, which begin with ``user:`` or are chosen.
OUTSIDE = "outside of any flow"


def json_hash(value: Any) -> str:
    """Return the SHA-256, in hexadecimal, of `value` written as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def short_hash(text: str) -> str:
    """Return the first 12 characters of the SHA-256 of `text`: the form of scopes in keys."""
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_CHARS]


@dataclass(frozen=True)
class TaskIdentity:
    """The address of one attempt of a task.

    Attributes
    ----------
    flow, run, step, task : str
        The parts of the task's pathspec.
    attempt : int
        Counted from 0.
    scope : str
        12 hexadecimal characters: the hash of the namespace, or of a tag. Checkpoints of one scope may be shared between runs.
    task_identifier : str
        12 hexadecimal characters that are the same for the same task of another run.
    """

    flow: str
    run: str
    step: str
    task: str
    attempt: int
    scope: str
    task_identifier: str

    @property
    def pathspec(self) -> str:
        """``flow/run/step/task``."""
        return f"{self.flow}/{self.run}/{self.step}/{self.task}"

    @property
    def pathspec_hash(self) -> str:
        """The first 8 characters of the pathspec's hash."""
        return json_hash(self.pathspec)[:8]


def check_pathspec(pathspec: str) -> str:
    """Return `pathspec` where it is one of a task.

    Raises
    ------
    InvalidArgument
        It is not ``FLOW/RUN/STEP/TASK``.
    """
    parts = pathspec.split("/")
    if len(parts) != 4 or not all(parts) or {".", ".."} & set(parts) or "\0" in pathspec:
        raise InvalidArgument("read a task's pathspec", on=repr(pathspec), cause="it has not the form FLOW/RUN/STEP/TASK")
    return pathspec


def identity_outside_flow(pathspec: str, *, attempt: int = 0, namespace: str | None = None) -> TaskIdentity:
    """Return the identity under which checkpoints are kept that no task of a flow saves: a program beside it, a command.

    They lie where those of a step outside of any foreach would lie. Metaflow need not know of the run.

    Parameters
    ----------
    pathspec : str
        ``FLOW/RUN/STEP/TASK``.
    attempt : int
        From 0. Of two, what the later one has saved is the newer, whenever that was.
    namespace : str, optional
        Of Metaflow, for example ``"user:ada"``: a task of that flow and step, run in this namespace with ``load_policy="eager"``,
        begins with the newest of these checkpoints, or of its other runs. By default no task does.

    Raises
    ------
    InvalidArgument
        `pathspec`, `attempt` or `namespace` can't be one.
    """
    attempted = "name a task"
    if not isinstance(pathspec, str):
        raise InvalidArgument(attempted, on=repr(pathspec), cause="a pathspec is a str, FLOW/RUN/STEP/TASK")
    flow, run, step, task = check_pathspec(pathspec).split("/")
    for part in (flow, run, step, task):
        if not part.isprintable() or part != part.strip() or len(part.encode("utf-8", "surrogatepass")) > MAX_PART_BYTES:
            raise InvalidArgument(
                attempted,
                on=repr(pathspec),
                cause=f"{part[:40]!r} can't be a part of it",
                hint=f"A part is printable, has no space at its ends, and takes {MAX_PART_BYTES} bytes at most.",
            )
    if isinstance(attempt, bool) or not isinstance(attempt, int) or not 0 <= attempt <= MAX_ATTEMPT:
        raise InvalidArgument(attempted, on=f"attempt={attempt!r}", cause=f"attempts are whole numbers from 0 to {MAX_ATTEMPT}")
    if namespace is not None and (not isinstance(namespace, str) or not namespace):
        raise InvalidArgument(
            attempted, on=f"namespace={namespace!r}", cause="it is no namespace", hint="Pass text such as 'user:ada'."
        )
    scope = short_hash(OUTSIDE if namespace is None else namespace)
    return TaskIdentity(flow, run, step, task, attempt, scope=scope, task_identifier=json_hash(step)[:HASH_CHARS])
