from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from ckpt_async.stores.budget import Budget
from ckpt_async.stores.contract import Part
from ckpt_async.stores.groups import plain_task_group
from ckpt_async.transfer.notes import UploadNotes
from ckpt_async.transfer.plan import PlannedObject, PlannedPart, Segment, UploadPlan
from ckpt_async.transfer.reading import FilePiece
from ckpt_async.words.errors import SpoolDamaged, StoreAccessDenied, StoreUnavailable
from tests.transfer.parts import ListLog

pytestmark = pytest.mark.anyio
DEADLINE_S = 30.0


def plan_of(objects: int = 2, part_bytes: int = 10) -> UploadPlan:
    parts = (PlannedPart(1, 0, 10), PlannedPart(2, 10, 10))
    one = PlannedObject("k", (Segment(20, 0),), parts, (0,))
    return UploadPlan((one,) * objects, (-1,) * objects, part_bytes)


def state(notes: UploadNotes) -> tuple[object, ...]:
    return (
        notes.upload_ids,
        notes.parts,
        notes.complete,
        notes.all_pieces(),
        notes.noted_bytes,
        notes.etags,
        notes.md5s,
        notes.copied,
    )


def test_a_replayed_log_is_the_state_that_was_written() -> None:
    log = ListLog()
    notes = UploadNotes(log, plan_of(), "s3://b")
    notes.began(0, "up", "k")
    notes.stored(0, Part(1, "e1", 10, 1), [FilePiece(0, 0, 10, 1)])
    notes.stored(0, Part(2, "e2", 10, 2), [FilePiece(0, 10, 10, 2)])
    notes.stored(0, Part(2, "e3", 10, 3), [FilePiece(0, 10, 10, 3)], md5="m", copied=True)
    notes.stored(1, Part(1, "e", 10, 1), [FilePiece(1, 0, 10, 1)], complete=True)
    again = UploadNotes(log, plan_of(), "s3://b")
    assert state(again) == state(notes)
    assert notes.noted_bytes == 30 and notes.parts[0][2].etag == "e3"
    assert sorted(notes.all_pieces()[0], key=lambda piece: piece.offset)[1].crc32 == 3
    notes.forget(0)
    assert not notes.copied and not notes.md5s
    assert notes.noted_bytes == 10 and 0 not in notes.upload_ids and 0 not in notes.all_pieces()
    notes.began(0, "up2", "k")
    notes.completed(0, "whole")
    assert state(UploadNotes(log, plan_of(), "s3://b")) == state(notes)


@pytest.mark.parametrize("keep", range(7))
def test_any_beginning_of_a_log_is_a_state(keep: int) -> None:
    log = ListLog()
    notes = UploadNotes(log, plan_of(), "s3://b")
    notes.began(0, "up", "k")
    for number in (1, 2):
        notes.stored(0, Part(number, "e", 10, 1), [FilePiece(0, 10 * number - 10, 10, 1)])
    notes.completed(0, "whole")
    notes.stored(1, Part(1, "e", 10, 1), [], complete=True)
    del log.lines[keep:]
    begun = UploadNotes(log, plan_of(), "s3://b")
    assert begun.parts.keys() <= begun.upload_ids.keys() | begun.complete
    assert log.lines, "the head is there again"


@pytest.mark.parametrize(("plan", "url"), [(plan_of(part_bytes=20), "s3://b"), (plan_of(), "s3://other"), (plan_of(1), "s3://b")])
def test_notes_of_another_plan_are_not_used_and_their_uploads_are_given_up(plan: UploadPlan, url: str) -> None:
    log = ListLog()
    notes = UploadNotes(log, plan_of(), "s3://b")
    notes.began(0, "up", "k")
    notes.stored(0, Part(1, "e", 10, 1), [])
    changed = UploadNotes(log, plan, url)
    assert changed.abandoned == [(0, "up")]
    assert (changed.upload_ids, changed.parts, changed.noted_bytes) == ({}, {}, 0)
    assert UploadNotes(log, plan, url).abandoned == []


def test_an_archive_of_many_files_is_noted_in_linear_time() -> None:
    # 50,000 pieces of one object: searching a list for each of them took minutes.
    log = ListLog()
    notes = UploadNotes(log, plan_of(1), "s3://b")
    notes.stored(0, Part(1, "e", 10, 1), [FilePiece(index, 0, 1, 0) for index in range(50_000)])
    assert len(notes.all_pieces()) == 50_000


# Budget


async def test_never_more_is_held_than_allowed_and_everybody_gets_a_turn() -> None:
    budget = Budget(100)
    most = 0
    done: list[int] = []

    async def worker(size_bytes: int) -> None:
        nonlocal most
        async with budget.hold(size_bytes):
            most = max(most, budget.held)
            await anyio.lowlevel.checkpoint()
        done.append(size_bytes)

    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as group:
            for number in range(200):
                group.start_soon(worker, number % 131)
    assert most <= 100 and len(done) == 200 and budget.held == 0


async def test_first_come_first_served_so_that_a_large_one_does_not_starve() -> None:
    budget = Budget(10)
    order: list[str] = []

    async def worker(name: str, size_bytes: int, *, begun: anyio.Event) -> None:
        begun.set()
        async with budget.hold(size_bytes):
            order.append(name)

    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as group:
            async with budget.hold(5):
                for name, size_bytes in (("large", 10), ("small", 1), ("larger", 99), ("nothing", 0)):
                    begun = anyio.Event()
                    group.start_soon(lambda n=name, s=size_bytes, b=begun: worker(n, s, begun=b))
                    await begun.wait()
                await anyio.lowlevel.checkpoint()
                assert order == []
    assert order == ["large", "small", "larger", "nothing"] and budget.held == 0


@pytest.mark.parametrize("granted_first", [False, True])
async def test_whoever_is_cancelled_while_waiting_holds_nothing_and_blocks_nobody(granted_first: bool) -> None:
    budget = Budget(10)
    served = anyio.Event()
    scope = anyio.CancelScope()

    async def cancelled(begun: anyio.Event) -> None:
        with scope:
            begun.set()
            async with budget.hold(10):
                await anyio.sleep_forever()

    async def behind() -> None:
        async with budget.hold(10):
            served.set()

    with anyio.fail_after(DEADLINE_S):
        async with anyio.create_task_group() as group:
            async with budget.hold(3):
                begun = anyio.Event()
                group.start_soon(cancelled, begun)
                await begun.wait()
                group.start_soon(behind)
                await anyio.lowlevel.checkpoint()
                if not granted_first:
                    scope.cancel()
                    await anyio.lowlevel.checkpoint()
            # With granted_first the bytes were granted in this moment, to a task that is cancelled before it runs.
            scope.cancel()
            await served.wait()
    assert budget.held == 0


async def test_an_error_inside_gives_the_bytes_back() -> None:
    budget = Budget(10)
    with pytest.raises(ZeroDivisionError):
        async with budget.hold(10):
            raise ZeroDivisionError
    assert budget.held == 0


# plain_task_group


async def test_of_several_failures_the_one_that_a_user_can_act_on_is_raised() -> None:
    async def fail(error: Exception) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise error

    for errors in (
        [StoreUnavailable("a"), StoreAccessDenied("b"), KeyError("c")],
        [KeyError("c"), StoreAccessDenied("b")],
        [KeyError("c"), SpoolDamaged("b"), StoreUnavailable("a")],
    ):
        with pytest.raises((StoreAccessDenied, SpoolDamaged)) as caught:
            async with plain_task_group() as group:
                for error in errors:
                    group.start_soon(fail, error)
                await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
        assert caught.value in errors


async def test_one_failure_is_raised_as_it_is_and_cancellation_passes() -> None:
    with pytest.raises(ZeroDivisionError):
        async with plain_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            raise ZeroDivisionError
    with anyio.CancelScope() as scope:
        async with plain_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            scope.cancel()
    assert scope.cancelled_caught
