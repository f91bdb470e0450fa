"""How a checkpoint is named on the command line: by its key, by a pathspec with what tells it from the others, or as the latest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckpt_async.cli.rendering import reference_of
from ckpt_async.words import keys
from ckpt_async.words.errors import CheckpointDamaged, CheckpointNotFound, InvalidArgument
from ckpt_async.words.records import CheckpointRecord

if TYPE_CHECKING:
    from ckpt_async.stores.contract import Store

__all__ = ["Named", "match", "parse_reference", "read_above", "resolve_reference"]

_FIND = "find a checkpoint"
_FORMS = (
    "Name it FLOW/RUN/STEP/TASK:ATTEMPT:NAME:NUMBER (from the right, what is not needed may be left out), "
    "FLOW/RUN/STEP/TASK:latest, or by its key."
)
LATEST = "latest"
#: Names in an error.
SHOWN = 8


@dataclass(frozen=True)
class Named:
    """What a text names.

    Attributes
    ----------
    key : str
        The data key; else empty.
    above : str
        The pathspec, or the beginning of one.
    attempt : int or None
        None: any.
    rest : str
        The name, and perhaps a number behind it.
    latest : bool
        Whether the newest is meant.
    """

    key: str = ""
    above: str = ""
    attempt: int | None = None
    rest: str = ""
    latest: bool = False


def read_above(text: str, flow: str) -> str:
    """Return the pathspec, or its beginning, that a text stands for.

    Parameters
    ----------
    flow : str
        The flow whose command this is: what does not begin with it is taken as below it. Empty: there is none.

    Raises
    ------
    InvalidArgument
        It is none.
    """
    parts = text.strip("/").split("/") if text.strip("/") else []
    if flow and parts[:1] != [flow]:
        if len(parts) > 3:
            raise InvalidArgument(
                "read a pathspec",
                on=repr(text),
                cause=f"this is the command of the flow {flow}",
                hint=f"Name what is in {flow}, such as RUN/STEP/TASK; ckpt-async has the checkpoints of every flow.",
            )
        parts = [flow, *parts]
    if len(parts) > 4 or not all(parts) or {".", ".."} & set(parts) or "\0" in text:
        raise InvalidArgument(
            "read a pathspec", on=repr(text), cause="it has not the form FLOW/RUN/STEP/TASK, or the beginning of it"
        )
    return "/".join(parts)


def parse_reference(text: str, flow: str = "") -> Named:
    """Read a reference.

    Raises
    ------
    InvalidArgument
        It has no form of one.
    """
    start = text.find(keys.ALL_DATA)
    if start >= 0:
        key = text[start:].rstrip("/")
        keys.parse_data_key(key)
        return Named(key=key)
    pathspec, _, selector = text.partition(":")
    above = read_above(pathspec, flow)
    if not above:
        raise InvalidArgument(_FIND, on=repr(text), cause="it names no task", hint=_FORMS)
    if selector == LATEST:
        return Named(above=above, latest=True)
    attempt, _, rest = selector.partition(":")
    if attempt and not (attempt.isascii() and attempt.isdecimal()):
        raise InvalidArgument(
            _FIND, on=repr(text), cause=f"{attempt!r} is neither a number, of an attempt, nor {LATEST!r}", hint=_FORMS
        )
    return Named(above=above, attempt=int(attempt) if attempt else None, rest=rest)


def match(records: Iterable[CheckpointRecord], named: Named) -> tuple[CheckpointRecord, ...]:
    """Return those of a task's checkpoints that a reference may mean."""
    return tuple(record for record in records if named.attempt in (None, record.attempt) and _has_name(record, named.rest))


def _has_name(record: CheckpointRecord, rest: str) -> bool:
    # A name may hold colons: so it is compared, and not taken apart.
    return rest in ("", record.name, f"{record.name}:{record.version_id}", f":{record.version_id}")


async def resolve_reference(store: Store, text: str, flow: str = "") -> CheckpointRecord:
    """Return the record of the checkpoint that a text names.

    Raises
    ------
    InvalidArgument
        It has no form of a reference, or names several checkpoints: they are named.
    CheckpointNotFound
        There is none: what there is instead is named.
    CheckpointDamaged
        Its record, or the pointer to it, can't be read.
    """
    from ckpt_async.transfer import catalog

    named = parse_reference(text, flow)
    if named.key:
        return await catalog.resolve(store, named.key)
    pathspec = await _one_task(store, text, named.above)
    if named.latest:
        record = await catalog.latest_of(store, keys.task_latest_key(pathspec))
        if record is not None:
            return record
    listing = await catalog.list_task(store, pathspec)
    found = () if named.latest else match(listing.records, named)
    if len(found) == 1:
        return found[0]
    if found:
        raise InvalidArgument(
            _FIND,
            on=text,
            cause=f"it may be any of {len(found)} checkpoints: {_some([reference_of(record) for record in found])}",
            hint=f"Name one of them, or the newest: {pathspec}:{LATEST}.",
        )
    for damage in listing.damaged:
        raise CheckpointDamaged(_FIND, on=text, cause=f"a record of its task can't be read: {damage}")
    what = "has no latest one; there are" if named.latest else "has no such checkpoint; there are"
    raise CheckpointNotFound(
        _FIND,
        on=text,
        cause=f"the task {pathspec} {what} {_some([reference_of(record) for record in listing.records])}",
    )


async def _one_task(store: Store, text: str, above: str) -> str:
    """Return the pathspec of the task that is meant: also where only one task lies below what is named."""
    from ckpt_async.transfer import browsing

    tasks = await browsing.tasks_below(store, above, most=SHOWN + 1)
    if len(tasks) == 1:
        return tasks[0]
    if tasks:
        raise InvalidArgument(_FIND, on=text, cause=f"below {above} there are several tasks: {_some(tasks)}", hint=_FORMS)
    upwards = above
    while upwards and not tasks:
        upwards = upwards.rpartition("/")[0]
        tasks = await browsing.tasks_below(store, upwards, most=SHOWN + 1)
    there = f"there are {_some(tasks)}" if tasks else f"there are none at all in {store.traits.url}"
    raise CheckpointNotFound(
        _FIND,
        on=text,
        cause=f"{above} has stored no checkpoints; {there}",
        hint="" if tasks else "Is it the right store? Name it with --store.",
    )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN]) or "none"
    return f"{shown}, and more" if len(names) > SHOWN else shown
