"""Joining more objects than Google Cloud Storage joins by one request: level by level."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ckpt_async.stores.groups import plain_task_group

__all__ = ["Sources", "joined_to_few"]

#: Objects, each by key and etag.
Sources = list[tuple[str, str]]


async def joined_to_few(sources: Sources, few: int, join: Callable[[str, Sources], Awaitable[tuple[str, str]]]) -> Sources:
    """Return at most `few` objects that hold what `sources` do, in order.

    Parameters
    ----------
    join : callable
        Joins up to `few` objects to one of the name that it is given, and returns its key and etag. The names are the same each
        time that the same sources are joined, so that a repetition leaves nothing behind.
    """
    level = 0
    while len(sources) > few:
        made: Sources = [("", "")] * -(-len(sources) // few)

        async def join_group(index: int, name: str, members: Sources, made: Sources = made) -> None:
            made[index] = await join(name, members)

        async with plain_task_group() as group:
            for index in range(len(made)):
                group.start_soon(join_group, index, f"joined-{level}-{index:05d}", sources[index * few : (index + 1) * few])
        sources, level = made, level + 1
    return sources
