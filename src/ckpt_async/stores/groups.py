"""Task groups whose failure is the plain error of the task that failed, so that callers can name its type."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.abc

from ckpt_async.words.errors import CheckpointError

__all__ = ["plain_task_group"]


@asynccontextmanager
async def plain_task_group() -> AsyncIterator[anyio.abc.TaskGroup]:
    """Run tasks together. When one fails the others are cancelled, and its error is raised as it is, not inside a group.

    Of several failures the first permanent `CheckpointError` is raised, which is one that the user can act on; else the first that
    no repetition will cure.
    """
    try:
        async with anyio.create_task_group() as group:
            yield group
    except BaseException as error:
        failures = _leaves(error)
        if failures == [error]:
            raise
        raise min(failures, key=_rank) from None


def _leaves(error: BaseException) -> list[BaseException]:
    # The group's type is a backport on Python 3.10, so it is known by what it has.
    inner = getattr(error, "exceptions", None)
    if inner is None:
        return [error]
    return [leaf for child in inner for leaf in _leaves(child)]


def _rank(error: BaseException) -> int:
    # An unforeseen error goes before one that is retried: hidden behind that, it would not be seen.
    if not isinstance(error, CheckpointError):
        return 1
    return 2 if error.transient else 0
