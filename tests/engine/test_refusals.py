"""A store that refuses for good: every call says so, with its type, and nothing is lost or given away."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckpt_async import CheckpointNotStored, StoreAccessDenied, StoreAddress, StoreError, StoreMissing, StoreRejected, data_key
from ckpt_async.testing.access import KEY, SECRET
from ckpt_async.testing.seaweed import SeaweedServer
from tests.engine.conftest import MakeDesk
from tests.engine.desk import DEADLINE_S, Desk, identity_of, wait_for


def refused_everywhere(desk: Desk, kind: type[StoreError], *words: str) -> list[str]:
    """Save into a store that refuses; returns the texts of the errors."""
    checkpointer = desk.open()
    reference = checkpointer.save(desk.tree())
    with pytest.raises(CheckpointNotStored) as from_wait:
        reference.wait(DEADLINE_S)
    assert reference.status == "failed" and not reference.done()
    with pytest.raises(kind) as from_save:
        checkpointer.save(desk.tree())
    with pytest.raises(kind) as from_flush:
        checkpointer.flush()
    with pytest.raises(kind) as from_close:
        checkpointer.close(timeout_s=DEADLINE_S)
    texts = [str(caught.value) for caught in (from_save, from_flush, from_close)]
    for text in texts:
        assert checkpointer.spool_folder in text, "where the data lies"
        for word in words:
            assert word in text
    stats = checkpointer.stats
    assert (stats.saves, stats.failed, stats.committed) == (1, 1, 0)
    assert not any("in the store" in line for line in desk.said)
    return [*texts, str(from_wait.value), repr(from_flush.value), *desk.said]


def everything_written(desk: Desk) -> bytes:
    return b"\0".join(path.read_bytes() for path in desk.scratch.rglob("*") if path.is_file())


@pytest.mark.parametrize("worker", ["process", "thread"])
def test_a_bucket_that_does_not_exist(make_desk: MakeDesk, s3_address: StoreAddress, worker: str) -> None:
    desk = make_desk(StoreAddress("s3://no-such-bucket/root", s3_address.access), worker)
    refused_everywhere(desk, StoreMissing, "no-such-bucket", "NoSuchBucket", "Make the bucket")
    assert desk.spools() == ["0000"]


@pytest.mark.parametrize(("worker", "who"), [("process", "wrong"), ("thread", "reader")])
def test_an_identity_that_may_not_write(
    make_desk: MakeDesk, s3_address: StoreAddress, seaweed: SeaweedServer, monkeypatch: pytest.MonkeyPatch, worker: str, who: str
) -> None:
    key, secret = (seaweed.reader.access_key, seaweed.reader.secret_key) if who == "reader" else ("AKIAWRONG", "wr0ng-s3cret-value")
    monkeypatch.setenv(KEY, key)
    monkeypatch.setenv(SECRET, secret)
    desk = make_desk(s3_address, worker)
    texts = refused_everywhere(desk, StoreAccessDenied, s3_address.url.split("/")[2], "Check the credentials")
    for given_away in (secret, key):
        assert not any(given_away in text for text in texts)
        assert given_away.encode() not in everything_written(desk)

    # The next attempt may: nothing was lost.
    monkeypatch.setenv(KEY, seaweed.admin.access_key)
    monkeypatch.setenv(SECRET, seaweed.admin.secret_key)
    desk.open(1).close(timeout_s=DEADLINE_S)
    assert [desk.content(record) for record in desk.records()] == [{"model.bin": b"weights"}]
    wait_for(desk.is_clean, "the scratch folder is empty")


def test_what_lies_in_the_spool_is_private_and_holds_no_secret(s3_desk: Desk, seaweed: SeaweedServer) -> None:
    checkpointer = s3_desk.open()
    checkpointer.save(s3_desk.tree())
    checkpointer.flush()
    assert all(path.stat().st_mode & 0o077 == 0 for path in s3_desk.scratch.rglob("*"))
    for secret in (seaweed.admin.access_key, seaweed.admin.secret_key):
        assert secret.encode() not in everything_written(s3_desk)


@pytest.mark.parametrize("worker", ["process", "thread"])
def test_flush_goes_on_once_the_cause_is_mended(make_desk: MakeDesk, tmp_path: Path, worker: str) -> None:
    desk = make_desk(StoreAddress(str(tmp_path / "missing")), worker)
    checkpointer = desk.open()
    reference = checkpointer.save(desk.tree())
    with pytest.raises(StoreMissing):
        checkpointer.flush()
    (tmp_path / "missing").mkdir()
    checkpointer.flush()
    assert reference.done() and reference.wait() is reference
    checkpointer.save(desk.tree())
    checkpointer.close(timeout_s=DEADLINE_S)
    assert len(desk.records()) == 2
    assert desk.is_clean()


def test_flush_goes_on_once_the_bucket_is_made(make_desk: MakeDesk, s3_address: StoreAddress, seaweed: SeaweedServer) -> None:
    desk = make_desk(StoreAddress("s3://made-later/root", s3_address.access))
    checkpointer = desk.open()
    reference = checkpointer.save(desk.tree())
    with pytest.raises(StoreMissing):
        checkpointer.flush()
    seaweed.make_bucket("made-later")
    checkpointer.flush()
    assert reference.done()


@pytest.mark.parametrize("worker", ["process", "thread"])
def test_a_synchronous_save_raises_by_itself_and_keeps_nothing(make_desk: MakeDesk, tmp_path: Path, worker: str) -> None:
    desk = make_desk(StoreAddress(str(tmp_path / "missing")), worker)
    checkpointer = desk.open(async_upload=False)
    for _ in range(2):
        with pytest.raises(StoreMissing, match="there is no folder"):
            checkpointer.save(desk.tree())
    (tmp_path / "missing").mkdir()
    reference = checkpointer.save(desk.tree())
    checkpointer.close(timeout_s=DEADLINE_S)
    assert [record.key for record in desk.records()] == [reference["key"]]
    assert desk.is_clean()


@pytest.mark.parametrize("worker", ["process", "thread"])
def test_what_an_earlier_attempt_left_is_tried_again_too(make_desk: MakeDesk, tmp_path: Path, worker: str) -> None:
    desk = make_desk(StoreAddress(str(tmp_path / "missing")), worker)
    first = desk.open()
    first.save(desk.tree())
    with pytest.raises(StoreMissing):
        first.close(timeout_s=DEADLINE_S)
    later = desk.open(1)
    with pytest.raises(StoreMissing, match=r"what attempt 0 left is not in the store, and nothing newer") as raised:
        later.flush()
    assert first.spool_folder in str(raised.value), "where the data lies"
    later.save(desk.tree())
    with pytest.raises(StoreMissing, match="1 save is not in the store"):
        later.flush()
    (tmp_path / "missing").mkdir()
    later.flush()
    later.close(timeout_s=DEADLINE_S)
    assert [(record.attempt, record.version_id) for record in desk.records()] == [(1, 0), (0, 0)]
    assert desk.is_clean()


def test_what_an_earlier_attempt_left_is_only_told_once_a_newer_save_is_stored(thread_desk: Desk) -> None:
    desk = thread_desk
    checkpointer = desk.open()
    blocked = Path(desk.address.url, data_key(identity_of(), "mfchckpt", 0))
    blocked.parent.mkdir(parents=True)
    blocked.write_bytes(b"a file where a folder should be")
    reference = checkpointer.save(desk.tree())
    assert blocked.name == Path(reference["key"]).name
    with pytest.raises(StoreRejected):
        checkpointer.close(timeout_s=DEADLINE_S)

    later = desk.open(1)
    later.save(desk.tree(), latest=False)
    with pytest.raises(StoreRejected, match="what attempt 0 left"):
        later.flush()
    later.save(desk.tree())
    later.flush()
    assert sum("attempt 0 left could not be stored" in line for line in desk.said) == 1

    # No new try cures damage: that is told, and fails nobody.
    Path(checkpointer.spool_folder, "ready", "0000000000", "pack").unlink()
    last = desk.open(2)
    last.close(timeout_s=DEADLINE_S)
    assert any("attempt 0 left could not be stored" in line and "pack" in line for line in desk.said)
