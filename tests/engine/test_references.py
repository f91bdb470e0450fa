"""References: what they tell, what they become in an artifact, and saves of many threads."""

from __future__ import annotations

import copy
import json
import pickle
import threading

from ckpt_async import CheckpointReference
from ckpt_async.testing.seaweed import SeaweedServer
from tests.engine.desk import DEADLINE_S, Desk, identity_of, paused


def test_a_reference_in_an_artifact(s3_desk: Desk, seaweed: SeaweedServer) -> None:
    checkpointer = s3_desk.open()
    with paused(seaweed):
        reference = checkpointer.save(s3_desk.tree(), metadata={"epoch": 1})
        assert reference.status in ("queued", "uploading") and not reference.done()
        early = pickle.loads(pickle.dumps({"kept": reference}))["kept"]
        assert type(early) is dict and early["type"] == "checkpoint-not-stored" and "key" not in early
        assert early["status"] == reference.status and early["version_id"] == 0 and early["reason"]
    assert reference.wait(DEADLINE_S) is reference
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        late = pickle.loads(pickle.dumps(reference, protocol))
        assert type(late) is dict and late == dict(reference)
    assert b"ckpt_async" not in pickle.dumps(reference)
    assert json.loads(json.dumps(reference)) == dict(reference)
    assert reference.record.to_dict() == dict(reference)
    assert s3_desk.content(pickle.loads(pickle.dumps(reference))) == {"model.bin": b"weights"}


def test_a_copy_of_a_reference_is_one(s3_desk: Desk, seaweed: SeaweedServer) -> None:
    checkpointer = s3_desk.open()
    with paused(seaweed):
        reference = checkpointer.save(s3_desk.tree(), metadata={"epoch": 1})
        copies = [copy.copy(reference), copy.deepcopy(reference), reference.copy(), copy.deepcopy({"kept": [reference]})["kept"][0]]
        for one in copies:
            assert isinstance(one, CheckpointReference) and one == reference
            assert "key" not in pickle.loads(pickle.dumps(one)), "no copy carries the key of what is not stored"
        copies[1]["metadata"]["epoch"] = 2
        copies[0]["mine"] = 1
    checkpointer.close(timeout_s=DEADLINE_S)
    assert reference["metadata"] == reference.record.metadata == {"epoch": 1} and "mine" not in reference
    for one in copies:
        assert one.wait() is one and pickle.loads(pickle.dumps(one))["key"] == reference["key"]


def test_many_threads_save_at_once(local_desk: Desk) -> None:
    checkpointer = local_desk.open(max_pending=4)
    taken: list[CheckpointReference] = []
    together = threading.Barrier(8)

    def save(number: int) -> None:
        tree = local_desk.tree({"number": str(number).encode()}, f"thread-{number}")
        together.wait(DEADLINE_S)
        for _ in range(3):
            taken.append(checkpointer.save(tree, name=f"thread {number}", metadata={"number": number}))

    threads = [threading.Thread(target=save, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    checkpointer.close(timeout_s=DEADLINE_S)
    assert sorted(reference["version_id"] for reference in taken) == list(range(24))
    assert all(reference.done() for reference in taken)
    assert [reference["version_id"] for reference in checkpointer.references()] == list(range(24))
    latest = local_desk.reader().latest(identity_of().pathspec)
    assert latest is not None and latest.version_id == 23
    for record in (latest, local_desk.records()[-1]):
        assert local_desk.content(record) == {"number": str(record.metadata["number"]).encode()}
    assert local_desk.is_clean()
