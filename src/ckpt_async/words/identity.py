"""Whose checkpoint it is: the task's address and the hashes that stand in keys."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

__all__ = ["TaskIdentity", "json_hash", "short_hash"]

HASH_CHARS = 12


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
