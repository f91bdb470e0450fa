"""What a worker deletes by rules after its commits, and what references, artifacts and local copies say of it."""

from __future__ import annotations

import os
import pickle
import signal
from pathlib import Path

import pytest

from ckpt_async import (
    Checkpointer,
    CheckpointNotFound,
    CheckpointPruned,
    CheckpointRecord,
    EntryCommitted,
    InvalidArgument,
    KeepRules,
    Notice,
    Reader,
    SaveReturned,
    Settings,
    StoreAddress,
    open_for_child,
)
from ckpt_async.words import keys
from tests.engine.conftest import MakeDesk
from tests.engine.desk import DEADLINE_S, Desk, alive, identity_of, read_tree, save_in_killed_child, wait_for
from tests.engine.test_groups import close_all, save_all, shard


def save(desk: Desk, opened: Checkpointer, step: int, **more: object) -> object:
    metadata = {"step": step, "loss": abs(step - 2)}
    return opened.save(desk.tree({"step": b"%d" % step, "base": b"b" * 70_000}), metadata=metadata, **more)


def steps(desk: Desk) -> list[int]:
    return [record.metadata["step"] for record in desk.records()]


def stored_keys(desk: Desk) -> set[str]:
    root = Path(desk.address.url)
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_the_newest_stay_through_a_retry_and_what_went_is_told(desk: Desk) -> None:
    first = desk.open(keep_last=2)
    saved = [save(desk, first, step, storage_format=("files", "tar")[step % 2]) for step in range(4)]
    first.close(timeout_s=DEADLINE_S)
    assert steps(desk) == [3, 2]
    assert [reference.status for reference in saved] == ["deleted", "deleted", "committed", "committed"]
    assert (first.stats.committed, first.stats.deleted, first.stats.saves) == (4, 2, 4)
    # What is gone is in no artifact; to have waited for it is no mistake.
    gone = pickle.loads(pickle.dumps(saved[0]))
    assert (gone["type"], gone["status"], gone["reason"]) == (
        "checkpoint-not-stored",
        "deleted",
        "keep_last=2 does not keep it: it was deleted",
    )
    assert saved[0].wait() is saved[0] and not saved[0].done() and pickle.loads(pickle.dumps(saved[3])) == dict(saved[3])
    with pytest.raises(InvalidArgument, match="is not in the store: keep_last=2"):
        desk.reader().load(gone, str(desk.target()))
    told = [event.key for event in desk.events if isinstance(event, CheckpointPruned)]
    assert told == [saved[0]["key"], saved[1]["key"]]

    retry = desk.open(1, keep_last=2)
    target = desk.target()
    loaded = retry.resume("fresh", str(target))
    assert loaded is not None and read_tree(target)["step"] == b"3"
    save(desk, retry, 4)
    retry.close(timeout_s=DEADLINE_S)
    assert steps(desk) == [4, 3] and desk.content(desk.records()[0])["step"] == b"4"
    assert desk.is_clean() and not [line for line in desk.said if "could not" in line]


def test_several_rules_and_pins(thread_desk: Desk) -> None:
    desk = thread_desk
    opened = desk.open(keep_last=1, keep_best="loss:min:2", keep_every="4")
    references = []
    for step in range(8):
        references.append(save(desk, opened, step))
        if step == 5:
            opened.pin(references[5])
    opened.close(timeout_s=DEADLINE_S)
    # 2 and 1 are the best, 0 and 4 every fourth, 7 the last.
    assert set(steps(desk)) == {0, 1, 2, 4, 5, 7}
    reader, pathspec = desk.reader(), identity_of().pathspec
    assert reader.pinned(desk.records()) == {references[5]["key"]}
    reader.unpin(references[5])
    decision = reader.plan_prune(pathspec, KeepRules.read(keep_last=1, keep_best="loss:min"))
    assert {one.record.metadata["step"]: one.reasons for one in decision.judged} == {
        7: ("latest", "a retry begins with it", "last 1"),
        5: (),
        4: (),
        2: ("best loss:min:1",),
        1: (),
        0: (),
    }
    assert set(steps(desk)) == {0, 1, 2, 4, 5, 7}
    reader.pin(references[4])
    result = reader.prune(decision)
    assert [record.metadata["step"] for record in result.deleted] == [0, 1, 5]
    assert [record.metadata["step"] for record in result.spared] == [4]
    assert reader.plan_prune(pathspec, KeepRules(last=1), name="other").judged == ()
    reader.delete(references[4])
    assert set(steps(desk)) == {2, 7} and not [key for key in stored_keys(desk) if "/pins/" in key]


def test_without_rules_nothing_is_asked_and_nothing_goes(thread_desk: Desk) -> None:
    opened = thread_desk.open()
    for step in range(3):
        save(thread_desk, opened, step)
    opened.close(timeout_s=DEADLINE_S)
    assert steps(thread_desk) == [2, 1, 0] and opened.stats.deleted == 0


def test_what_another_process_pruned_is_learnt_from_the_list(thread_desk: Desk) -> None:
    opened = thread_desk.open()
    saved = [save(thread_desk, opened, step) for step in range(3)]
    opened.flush()
    reader = thread_desk.reader()
    reader.prune(reader.plan_prune(identity_of().pathspec, KeepRules(last=1)))
    opened.settle_missing({record.key for record in thread_desk.records()}, "deleted by somebody")
    assert [reference.status for reference in saved] == ["deleted", "deleted", "committed"]
    opened.delete(saved[2])
    assert saved[2].status == "deleted" and saved[2].reason == "delete() has deleted it"
    with pytest.raises(CheckpointNotFound):
        opened.delete(saved[2])


def test_local_copies_go_with_the_checkpoint(local_desk: Desk) -> None:
    opened = local_desk.open(keep_last=1, keep_local=3)
    for step in range(3):
        save(local_desk, opened, step, storage_format="files")
    opened.flush()
    wait_for(lambda: len([e for e in local_desk.events if isinstance(e, CheckpointPruned)]) == 2, "two are pruned")

    def kept() -> list[str]:
        return sorted(path.name for path in local_desk.scratch.glob("*/0000/kept/*"))

    wait_for(lambda: kept() in ([], ["0000000002"]), f"what is kept is what is stored: {kept()}")
    opened.close(timeout_s=DEADLINE_S)
    assert steps(local_desk) == [2]


def test_the_best_name_is_judged_by_itself_and_one_that_is_no_latest_may_go_at_once(thread_desk: Desk) -> None:
    opened = thread_desk.open(keep_best="loss:min")
    for step in (2, 3, 4):
        save(thread_desk, opened, step, name="best", latest=False)
        save(thread_desk, opened, step)
    opened.close(timeout_s=DEADLINE_S)
    found = sorted((record.name, record.metadata["step"]) for record in thread_desk.records())
    assert found == [("best", 2), ("mfchckpt", 2), ("mfchckpt", 4)]


def test_children_keep_the_rules_of_their_task(thread_desk: Desk) -> None:
    desk = thread_desk
    task = desk.open(keep_last=2)
    for step in range(3):
        child = open_for_child(identity_of(), desk.address, scratch_root=str(desk.scratch))
        save(desk, child, step)
        child.close(timeout_s=DEADLINE_S)
    assert steps(desk) == [2, 1]
    save(desk, task, 3)
    task.close(timeout_s=DEADLINE_S)
    assert steps(desk) == [3, 2]


def test_nodes_of_a_gang_keep_their_own_and_groups_are_kept_whole(thread_desk: Desk) -> None:
    desk = thread_desk
    nodes = [desk.open(node=node, num_nodes=2, keep_last=1) for node in range(2)]
    for step in range(3):
        for node in nodes:
            save(desk, node, step)
        parts = [save(desk, node, step, group=True) for node in nodes]
        for part in parts:
            part.wait(DEADLINE_S)
    for node in nodes:
        node.close(timeout_s=DEADLINE_S)
    found = [(record.node_index, record.metadata["step"]) for record in desk.records()]
    assert sorted(found) == [(-1, 2), (0, 2), (1, 2)]
    whole = next(record for record in desk.records() if record.group)
    assert sorted(desk.content(whole)) == ["node-0/base", "node-0/step", "node-1/base", "node-1/step"]
    left = {key for key in stored_keys(desk) if "/groups/" in key and not key.endswith("verdict")}
    assert len(left) == 2, left


@pytest.fixture
def seldom_pruned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Deletions are begun, and stay where they are: a mark and nothing more, as after a kill."""
    begun: list[str] = []

    async def begin(store: object, record: object, begin: object = None) -> bool:
        from ckpt_async.stores.contract import Body

        await store.put(keys.deletion_key(record.key), Body.of(record.to_json()))  # type: ignore[attr-defined]
        await store.delete([keys.task_record_key_of(record.key, record.pathspec)])  # type: ignore[attr-defined]
        begun.append(record.key)  # type: ignore[attr-defined]
        return False

    monkeypatch.setattr("ckpt_async.transfer.pruning.delete_unless_wanted", begin)
    return begun


def test_what_a_killed_worker_was_deleting_the_next_one_finishes(
    thread_desk: Desk, seldom_pruned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = thread_desk
    opened = desk.open(keep_last=1)
    for step in range(2):
        save(desk, opened, step).wait(DEADLINE_S)
    opened.close(timeout_s=DEADLINE_S)
    assert seldom_pruned and steps(desk) == [1]
    left = {key for key in stored_keys(desk) if os.path.basename(seldom_pruned[0]) in key}
    assert any("/deletions/" in key for key in left) and any("/artifacts/" in key for key in left)
    monkeypatch.undo()
    retry = desk.open(1, keep_last=1)
    save(desk, retry, 2)
    retry.close(timeout_s=DEADLINE_S)
    assert steps(desk) == [2]
    assert not [key for key in stored_keys(desk) if os.path.basename(seldom_pruned[0]) in key or "/deletions/" in key]


def test_a_killed_sidecar_leaves_nothing_half(local_address: StoreAddress, make_desk: MakeDesk) -> None:
    desk = make_desk(local_address, "process")
    opened = desk.open(keep_last=1)
    [sidecar] = desk.sidecars()
    for step in range(6):
        save(desk, opened, step)
    # In the middle of what it is doing, deletions among it.
    wait_for(desk.happened(CheckpointPruned), "a deletion has begun")
    os.kill(sidecar, signal.SIGKILL)
    wait_for(lambda: not alive(sidecar), "the sidecar is gone")
    for record in desk.records():
        assert desk.reader().check_shape(record) == []
    last = save(desk, opened, 6)
    opened.close(timeout_s=DEADLINE_S)
    assert steps(desk) == [6] and last.done()
    assert not [key for key in stored_keys(desk) if "/deletions/" in key] and desk.is_clean()
    assert len([key for key in stored_keys(desk) if "/artifacts/" in key]) == 2


def test_a_store_that_lets_nothing_be_deleted_fails_no_save(thread_desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from ckpt_async.stores.local.store import LocalStore
    from ckpt_async.words.errors import StoreAccessDenied

    async def refuse(self: object, keys_to_delete: list[str]) -> None:
        raise StoreAccessDenied("delete objects", on=keys_to_delete[0], cause="not allowed")

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "delete", refuse)
        opened = thread_desk.open(keep_last=1)
        saved = [save(thread_desk, opened, step) for step in range(3)]
        for reference in saved:
            reference.wait(DEADLINE_S)
        opened.flush()
        wait_for(lambda: any("could not be deleted" in line for line in thread_desk.said), "it is told")
        opened.close(timeout_s=DEADLINE_S)
    told = [line for line in thread_desk.said if "could not be deleted" in line]
    assert len(told) == 1 and "not allowed" in told[0] and len(steps(thread_desk)) == 3
    assert [event.text for event in thread_desk.events if isinstance(event, Notice)] == told
    # Nothing of it is gone, and that is what the references say.
    assert [reference.status for reference in saved] == ["committed"] * 3
    retry = thread_desk.open(1, keep_last=1)
    save(thread_desk, retry, 3)
    retry.close(timeout_s=DEADLINE_S)
    assert steps(thread_desk) == [3] and not [key for key in stored_keys(thread_desk) if "/deletions/" in key]


def test_rules_that_another_version_wrote_keep_no_save_from_its_upload(thread_desk: Desk) -> None:
    opened = thread_desk.open(async_upload=False, keep_last=1)  # Its worker has not been started yet.
    path = Path(opened.spool_folder, "spool.json")
    text = path.read_text()
    assert '"keep_last": 1' in text
    path.write_text(text.replace('"keep_last": 1', '"keep_last": "since monday"'))
    for step in range(2):
        assert save(thread_desk, opened, step).done()
    opened.close(timeout_s=DEADLINE_S)
    assert steps(thread_desk) == [1, 0]
    assert [line for line in thread_desk.said if "Nothing is deleted by rules" in line and "since monday" in line]


def test_an_event_tells_how_long_a_save_held_training_up(thread_desk: Desk) -> None:
    opened = thread_desk.open()
    reference = save(thread_desk, opened, 0)
    opened.close(timeout_s=DEADLINE_S)
    [returned] = [event for event in thread_desk.events if isinstance(event, SaveReturned)]
    assert returned.entry == reference.state.entry and returned.blocked_s == reference.state.blocked_s
    assert thread_desk.happened(EntryCommitted)()


def test_wrong_rules_are_refused_before_anything_starts(thread_desk: Desk) -> None:
    with pytest.raises(InvalidArgument, match="keep_best='loss'"):
        thread_desk.open(keep_best="loss")
    assert Settings(keep_last=3).keep_rules == KeepRules(last=3)


def test_a_checkpoint_that_goes_while_a_retry_reads_it_gives_way_to_the_newer_one(
    thread_desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = thread_desk.open(keep_last=1)
    save(thread_desk, first, 0).wait(DEADLINE_S)
    stale = thread_desk.reader().latest(identity_of().pathspec)
    save(thread_desk, first, 1)
    first.close(timeout_s=DEADLINE_S)
    assert stale is not None and steps(thread_desk) == [1]
    # The retry, on another machine, has read the pointer before it moved on.
    monkeypatch.setattr(Reader, "latest", lambda self, pathspec: stale)
    target = thread_desk.target()
    retry = thread_desk.open(1, scratch=thread_desk.folder / "elsewhere")
    loaded = retry.resume("fresh", str(target))
    assert loaded is not None and read_tree(target)["step"] == b"1"
    retry.close(timeout_s=DEADLINE_S)


def test_a_retry_takes_the_newest_of_what_came_while_it_read_what_went(thread_desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    # An earlier attempt that is still alive goes on saving; the first of each thousand stays besides the last.
    first = thread_desk.open(keep_last=1, keep_every=1000)
    for step in range(3):
        save(thread_desk, first, step).wait(DEADLINE_S)
    wait_for(lambda: steps(thread_desk) == [2, 0], "one is pruned")
    load, newer = Reader.load_record, iter((3, 4))

    def load_slowly(reader: Reader, record: CheckpointRecord, target: str) -> None:
        if (step := next(newer, None)) is not None:
            save(thread_desk, first, step).wait(DEADLINE_S)
            wait_for(lambda: not any(record.key in key for key in stored_keys(thread_desk)), "what is being loaded has gone")
        load(reader, record, target)

    monkeypatch.setattr(Reader, "load_record", load_slowly)
    retry = thread_desk.open(1, scratch=thread_desk.folder / "elsewhere")
    target = thread_desk.target()
    assert retry.resume("fresh", str(target)) is not None
    assert read_tree(target)["step"] == b"4" and steps(thread_desk) == [4, 0]
    for opened in (first, retry):
        opened.close(timeout_s=DEADLINE_S)


def test_what_the_nodes_of_an_attempt_have_agreed_to_begin_with_stays_until_all_have(thread_desk: Desk) -> None:
    desk = thread_desk

    def gang(attempt: int) -> list[Checkpointer]:
        return [desk.open(attempt, node=node, num_nodes=2, keep_last=1) for node in range(2)]

    nodes = gang(0)
    first = save_all(desk, nodes, 1)
    # The part of node 1 in the next one is stored only when that attempt is being retried.
    nodes[0].save(shard(desk, 0, 2), metadata={"step": 2}, group=True).wait(DEADLINE_S)
    save_in_killed_child(identity_of(), desk.address, str(desk.scratch), shard(desk, 1, 2), "mfchckpt", node=1, num_nodes=2)
    retried = gang(1)
    assert retried[0].resume("fresh", str(desk.target())) is not None
    close_all(nodes)
    retried[1].flush()
    assert steps(desk) == [2, 1] and desk.reader().check_shape(desk.records()[1]) == []
    target = desk.target()
    loaded = retried[1].resume("fresh", str(target))
    assert loaded is not None and loaded.key == first and read_tree(target) == {"shard": b"1 of step 1"}
    save_all(desk, retried, 3)
    close_all(retried)
    assert steps(desk) == [3]
