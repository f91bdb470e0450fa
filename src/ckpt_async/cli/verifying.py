"""What `verify` does: looks at checkpoints one after the other, and tells of each as soon as it is known."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckpt_async.cli.desk import Desk
from ckpt_async.cli.exit_codes import FOUND, OK
from ckpt_async.cli.rendering import plural, record_json, reference_of, size_words
from ckpt_async.words.errors import CheckpointDamaged, InvalidArgument

if TYPE_CHECKING:
    from ckpt_async.stores.contract import Store
    from ckpt_async.words.records import CheckpointRecord

__all__ = ["DAMAGED", "SHAPE", "UNVERIFIABLE", "VERIFIED", "Sample", "choose_sample", "read_sample", "verify_all"]

#: All contents have their checksums.
VERIFIED = "verified"
#: All that it consists of is there; its contents were not read.
SHAPE = "complete"
#: All that it consists of is there; there are no checksums.
UNVERIFIABLE = "no checksums"
DAMAGED = "damaged"

_SHARE = re.compile(r"(0?\.[0-9]+|1\.0*|0\.0*)")


@dataclass(frozen=True)
class Sample:
    """Of how many checkpoints the contents are read: a share of all, or a number."""

    share: float | None = None
    count: int = 0


def read_sample(text: str) -> Sample:
    """Read ``--sample``.

    Raises
    ------
    InvalidArgument
        It is neither a share nor a number.
    """
    text = text.strip()
    if _SHARE.fullmatch(text):
        return Sample(share=float(text))
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return Sample(count=int(text))
    raise InvalidArgument(
        "use an option",
        on=f"--sample {text}",
        cause="the value is not allowed",
        hint="Allowed: a share such as 0.1 (1.0: all), or a number such as 5 (0: none).",
    )


def choose_sample(records: Sequence[CheckpointRecord], sample: Sample) -> frozenset[str]:
    """Return the keys of those whose contents are read: the newest, and of the others as many as are wanted.

    Chosen by their keys: so they are the same ones each time, as long as there are the same.
    """
    count = sample.count if sample.share is None else math.ceil(sample.share * len(records))
    if not count or not records:
        return frozenset()
    others = sorted(records[1:], key=lambda record: hashlib.sha256(record.key.encode()).digest())
    return frozenset(record.key for record in (records[0], *others[: count - 1]))


@dataclass(frozen=True)
class Verdict:
    """What was found of one checkpoint.

    Attributes
    ----------
    record : CheckpointRecord
        Of it.
    status : str
        ``"verified"``, ``"complete"``, ``"no checksums"`` or ``"damaged"``.
    problems : tuple of str
        A sentence each.
    """

    record: CheckpointRecord
    status: str
    problems: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return a line of JSON."""
        return {"checkpoint": record_json(self.record), "status": self.status, "problems": list(self.problems)}

    def to_line(self) -> str:
        """Return a line for people."""
        problems = f": {'; '.join(self.problems[:3])}{'; …' if len(self.problems) > 3 else ''}" if self.problems else ""
        return f"{self.status:<12} {size_words(self.record.size_bytes):>8}  {reference_of(self.record)}{problems}"


async def _look(store: Store, record: CheckpointRecord, *, read: bool, told: Callable[[int, int], None]) -> Verdict:
    from ckpt_async.transfer.shape import check_shape
    from ckpt_async.transfer.verifying import verify_contents

    problems = await check_shape(store, record)
    if problems:
        return Verdict(record, DAMAGED, tuple(problems))
    if not record.manifest:
        return Verdict(record, UNVERIFIABLE)
    if not read:
        return Verdict(record, SHAPE)
    try:
        await verify_contents(store, record, on_fetched=told)
    except CheckpointDamaged as damage:
        return Verdict(record, DAMAGED, (damage.cause,))
    return Verdict(record, VERIFIED)


def verify_all(desk: Desk, above: str, sample_text: str) -> int:
    """Verify what a pathspec or a reference names; returns the exit status."""
    sample = read_sample(sample_text)
    records, unreadable = _named(desk, above)
    chosen = choose_sample(records, sample)
    for damage in unreadable:
        desk.out.event(
            {"checkpoint": None, "record": damage.on, "status": DAMAGED, "problems": [str(damage)]}, f"damaged: {damage}"
        )
    counts = dict.fromkeys((VERIFIED, SHAPE, UNVERIFIABLE, DAMAGED), 0)
    read_bytes = 0
    total_bytes = sum(record.size_bytes for record in records if record.key in chosen and record.manifest)
    with desk.out.progress("Verifying", total_bytes) as told:
        for record in records:
            verdict = desk.run(
                lambda store, record=record: _look(store, record, read=record.key in chosen, told=told)  # type: ignore[misc]
            )
            counts[verdict.status] += 1
            read_bytes += record.size_bytes if record.key in chosen and record.manifest else 0
            desk.out.event(verdict.to_json(), verdict.to_line())
    damaged = counts[DAMAGED] + len(unreadable)
    if not desk.out.as_json:
        words = (
            ", ".join(f"{count:,} {status}" for status, count in {**counts, DAMAGED: damaged}.items() if count)
            or "nothing to verify"
        )
        desk.out.line(f"{plural(len(records) + len(unreadable), 'checkpoint')}: {words}. Store: {desk.url}")
    return FOUND if damaged else OK


def _named(desk: Desk, above: str) -> tuple[tuple[CheckpointRecord, ...], tuple[CheckpointDamaged, ...]]:
    """Return the checkpoints that are meant, newest first, and the records that can't be read."""
    from ckpt_async.cli.naming import read_above
    from ckpt_async.transfer import browsing
    from ckpt_async.words import keys

    if ":" in above or keys.ALL_DATA in above:
        return (desk.find(above),), ()
    below = read_above(above, desk.flow)
    listing = desk.run(lambda store: browsing.list_below(store, below))
    return listing.records, listing.damaged
