"""Attempts that never were, for the card: their saves, and what the engine would tell of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ckpt_async import AdoptedSave, CheckpointRecord, CheckpointReference, Pending, SaveState, Stats, TaskIdentity, Wait
from metaflow_extensions.ckpt_async.plugins.checkpoint.card_model import Facts, Origin

PATHSPEC = "TrainFlow/1764400000123456/train/12"
NOW = 1_790_000_000.0
SIZE = 1_500_000_000


def identity(attempt: int) -> TaskIdentity:
    return TaskIdentity("TrainFlow", "1764400000123456", "train", "12", attempt, "0" * 12, "1" * 12)


def save(
    number: int,
    ago_s: float,
    status: str = "committed",
    *,
    name: str = "mfchckpt",
    attempt: int = 1,
    blocked_s: float = 0.012,
    upload_s: float = 14.0,
    **more: Any,
) -> CheckpointReference:
    """A save that was called so long ago, and whose upload began at once."""
    record = CheckpointRecord.of_save(
        identity(attempt), name=name, version=number, size_bytes=SIZE, metadata={}, storage_format="files", store_url="s3://bucket"
    )
    state = SaveState(f"{number:010d}", SIZE, status, total_bytes=SIZE, methods={"link": 3, "packed": 12}, blocked_s=blocked_s)
    state.saved_unix_s = NOW - ago_s
    if status in ("committed", "incomplete", "uploading"):
        state.started_unix_s = state.saved_unix_s
    if status in ("committed", "incomplete"):
        state.ended_unix_s, state.upload_s, state.sent_bytes, state.done_bytes = state.saved_unix_s + upload_s, upload_s, SIZE, SIZE
    for field, value in more.items():
        setattr(state, field, value)
    return CheckpointReference(record, state)


def adopted(number: int, status: str, done_bytes: int = 0) -> AdoptedSave:
    """A save of attempt 0 that this one uploads."""
    state = SaveState(f"0000/{number:010d}", SIZE, status, total_bytes=SIZE, done_bytes=done_bytes, upload_s=20.0)
    state.started_unix_s = NOW - 100
    state.ended_unix_s = NOW - 80 if status == "committed" else 0.0
    return AdoptedSave("mfchckpt", 0, number, state)


def facts(references: Sequence[CheckpointReference] = (), took_s: float = 600.0, **more: Any) -> Facts:
    """What the card is told of an attempt that began so long ago."""
    states = [reference.state for reference in references]
    open_states = [state for state in states if not state.stored and state.status != "dropped"]
    waits: Sequence[Wait] = more.get("waits", ())
    stats = Stats(
        saves=len(states),
        committed=sum(state.status == "committed" for state in states),
        dropped=sum(state.status == "dropped" for state in states),
        failed=sum(state.status == "failed" for state in states),
        saved_bytes=sum(state.size_bytes for state in states),
        copied_bytes=sum(state.copied_bytes for state in states),
        blocked_s=sum(state.blocked_s for state in states),
        waited_s=more.pop("waited_s", 0.0),
        flush_s=sum(wait.seconds for wait in waits),
        upload_s=sum(state.upload_s for state in states),
    )
    pending = Pending(len(open_states), sum(state.total_bytes - state.done_bytes for state in open_states))
    given = {"origin": Origin(None, "fresh"), **more}
    return Facts(PATHSPEC, given.pop("attempt", 1), NOW, NOW - took_s, references=references, stats=stats, pending=pending, **given)


def many_saves(count: int, took_s: float = 36_000.0) -> list[CheckpointReference]:
    """Saves over ten hours; each hundred of them ends with a jam, and the last four are not stored."""
    step_s = took_s / count
    stored = [
        save(number, took_s - number * step_s, started_unix_s=0.0, upload_s=step_s * (0.6 + 0.05 * max(0, number % 100 - 60)))
        for number in range(count - 4)
    ]
    waiting = [save(number, took_s - number * step_s, "queued") for number in range(count - 3, count)]
    return [*stored, save(count - 4, 4 * step_s, "uploading", done_bytes=SIZE // 2), *waiting]
