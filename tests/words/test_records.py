from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from ckpt_async.words.errors import CheckpointDamaged, InvalidArgument
from ckpt_async.words.identity import TaskIdentity
from ckpt_async.words.records import CheckpointRecord, freeze_metadata, supersedes

FAST = settings(max_examples=60, deadline=None, database=None)

#: As metaflow-checkpoint 0.2.14 writes it, on a local datastore.
PEER = {
    "size": 12,
    "pathspec": "PF/17/start/1",
    "pathspec_hash": "9e9ad1b1",
    "attempt": 0,
    "key": "mf.checkpoints/checkpoints/artifacts/PF/start/bfa8ee162568/a92ae9615600/9e9ad1b1.0.mfchckpt.0",
    "type": "checkpoint",
    "url": "/data/.metaflow/mf.checkpoints/checkpoints/artifacts/PF/start/bfa8ee162568/a92ae9615600/9e9ad1b1.0.mfchckpt.0",
    "name": "mfchckpt",
    "created_on": "2026-11-23T13:20:02.973592",
    "metadata": {"e": 1},
    "storage_format": "files",
    "creation_context": "task",
    "version_id": 0,
}


def saved(run: str = "1", attempt: int = 0, version: int = 0, time_ns: int = 10**18, name: str = "best.v1") -> CheckpointRecord:
    identity = TaskIdentity("F", run, "s", "t", attempt, "a" * 12, "b" * 12)
    return CheckpointRecord.of_save(
        identity,
        name=name,
        version=version,
        size_bytes=5,
        metadata={"epoch": 3},
        storage_format="files",
        store_url="s3://bucket/root/",
        now_unix_ns=time_ns,
    )


def test_the_fields_of_the_peer_come_first_with_its_types() -> None:
    ours = saved().to_dict()
    assert list(ours)[: len(PEER)] == list(PEER)
    assert [type(ours[field]) for field in PEER] == [type(value) for value in PEER.values()]
    assert ours["url"] == "s3://bucket/root/" + ours["key"]
    assert ours["name"] == "best.v1" and ".best~2Ev1." in ours["key"]
    assert (ours["type"], ours["creation_context"], ours["version_id"]) == ("checkpoint", "task", ours["save_number"])


def test_a_record_of_the_peer_is_read_and_written_back_the_same() -> None:
    record = CheckpointRecord.from_json(json.dumps(PEER).encode(), source="here")
    assert record.to_dict() == PEER
    assert record.manifest == "" and record.saved_at_unix_ns > 10**18


def test_numbers_that_a_child_process_of_the_peer_wrote_as_text_are_read() -> None:
    key = str(PEER["key"]).replace(".0.mfchckpt.0", ".2.mfchckpt.10")
    record = CheckpointRecord.from_dict({**PEER, "key": key, "attempt": "2", "version_id": "10"}, source="here")
    assert record.order == (2, 10)
    for text in ("", "-1", "1.0", "1 ", "٣", "1" * 5000):
        with pytest.raises(CheckpointDamaged, match="attempt"):
            CheckpointRecord.from_dict({**PEER, "attempt": text}, source="here")


@pytest.mark.parametrize(
    "change",
    [
        {"size": -1},
        {"size": 10**400},
        {"attempt": -1},
        {"version_id": 2**63},
        {"attempt": 1},
        {"version_id": 1},
        {"name": "other"},
        {"pathspec": "PF/17/start"},
        {"pathspec": "../../../.."},
        {"pathspec": "PF/17//1"},
    ],
    ids=str,
)
def test_what_can_not_be_is_damage(change: dict[str, object]) -> None:
    with pytest.raises(CheckpointDamaged, match="here"):
        CheckpointRecord.from_dict({**PEER, **change}, source="here")


@pytest.fixture(params=["Asia/Tokyo", "America/Lima"])
def zone(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("zone")
def test_times_that_can_not_be_are_not_used() -> None:
    for text in ("", "x", "0001-01-01T00:00:00", "9999-12-31T23:59:59.999999"):
        assert CheckpointRecord.from_dict({**PEER, "created_on": text}, source="").created_on == text
    for number in (-1, True, 10**400, "1"):
        assert CheckpointRecord.from_dict({**PEER, "saved_at_unix_ns": number}, source="").saved_at_unix_ns > 10**18


def test_a_record_survives_the_store() -> None:
    record = saved()
    assert CheckpointRecord.from_json(record.to_json(), source="here") == record
    more = {**record.to_dict(), "a later field": 1}
    assert CheckpointRecord.from_dict(more, source="here") == record


@pytest.mark.parametrize(
    "field", ["size", "pathspec", "pathspec_hash", "attempt", "key", "name", "created_on", "storage_format", "version_id"]
)
@pytest.mark.parametrize("value", [None, True, [], {}])
def test_a_field_of_the_wrong_kind_is_named(field: str, value: object) -> None:
    with pytest.raises(CheckpointDamaged, match=f"(?s)the/key.*{field}"):
        CheckpointRecord.from_dict({**PEER, field: value}, source="the/key")
    lacking = {name: kept for name, kept in PEER.items() if name != field}
    with pytest.raises(CheckpointDamaged, match=field):
        CheckpointRecord.from_dict(lacking, source="the/key")


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'"latest"', saved().to_json()[:-1], b"[" * 100_000, b"9" * 5000],
    ids=["empty", "cut", "list", "null", "binary", "text", "one byte short", "deep", "long number"],
)
def test_damage_is_damage(text: bytes) -> None:
    with pytest.raises(CheckpointDamaged, match="the/key"):
        CheckpointRecord.from_json(text, source="the/key")


def test_a_record_does_not_lead_elsewhere() -> None:
    for change in (
        {"key": "mf.checkpoints/checkpoints/artifacts/../../x"},
        {"key": "/etc"},
        {"manifest": "mf.checkpoints/checkpoints/manifests/of/another.json"},
        {"manifest": 7},
        {"storage_format": "zip"},
    ):
        with pytest.raises(CheckpointDamaged):
            CheckpointRecord.from_dict({**saved().to_dict(), **change}, source="here")


@pytest.mark.parametrize("when", ["", "yesterday", "0001-01-01T00:00:00", "9999-12-31T23:59:59"])
def test_a_time_that_nothing_can_be_made_of_is_no_damage(when: str) -> None:
    assert CheckpointRecord.from_dict({**PEER, "created_on": when}, source="here").saved_at_unix_ns >= 0


# supersedes: which of two a `latest` pointer names

orders = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 4))


@FAST
@given(st.lists(orders, min_size=1, max_size=4, unique_by=lambda order: order[:2]))
def test_within_a_task_the_pointer_ends_at_the_same_save_in_every_order_of_arrival(found: list[tuple[int, int, int]]) -> None:
    records = [saved("1", attempt, version, 10**18 + when) for attempt, version, when in found]
    ends = set()
    for arrival in itertools.permutations(records):
        pointer = arrival[0]
        for record in arrival[1:]:
            if supersedes(record, pointer):
                assert record.order > pointer.order
                pointer = record
        ends.add(pointer.key)
    assert ends == {max(records, key=lambda record: record.order).key}


@FAST
@given(orders, orders)
def test_of_two_at_most_one_supersedes_the_other(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    for runs in (("1", "1"), ("1", "2")):
        first, second = (saved(run, a, v, 10**18 + when) for run, (a, v, when) in zip(runs, (one, other), strict=True))
        assert not (supersedes(first, second) and supersedes(second, first))
        assert not supersedes(first, first)


def test_between_runs_the_later_save_wins() -> None:
    assert supersedes(saved("2", 0, 0, 10**18 + 1), saved("1", 3, 9, 10**18))
    assert not supersedes(saved("2", 3, 9, 10**18), saved("1", 0, 0, 10**18 + 1))


def test_an_older_attempt_that_lives_on_does_not_come_back() -> None:
    assert not supersedes(saved("1", 0, 100, 10**18 + 5), saved("1", 1, 0, 10**18))


# freeze_metadata


def test_metadata_is_copied_at_the_call() -> None:
    given_: dict[str, Any] = {"losses": [1.0], "deep": {"a": {"b": [1]}}}
    frozen = freeze_metadata(given_)
    given_["losses"].append(2.0)
    given_["deep"]["a"]["b"].append(2)
    given_["new"] = 1
    assert frozen == {"losses": [1.0], "deep": {"a": {"b": [1]}}}


class Thing:
    def __str__(self) -> str:
        return "<thing>"


def test_what_json_cannot_hold_becomes_text() -> None:
    frozen = freeze_metadata(
        {
            "thing": Thing(),
            "bytes": b"x",
            "set": {1},
            "float64": np.float64(0.5),
            "float32": np.float32(0.5),
            "int64": np.int64(7),
            "array": np.arange(3),
            "tuple": (1, (2,)),
            "surrogate": "\ud800",
            5: "number",
            (1, 2): "tuple",
            None: {True: 1},
        }
    )
    assert frozen == {
        "thing": "<thing>",
        "bytes": "b'x'",
        "set": "{1}",
        "float64": 0.5,
        "float32": "0.5",
        "int64": "7",
        "array": "[0 1 2]",
        "tuple": [1, [2]],
        "surrogate": "\ud800",
        "5": "number",
        "(1, 2)": "tuple",
        "None": {"True": 1},
    }
    record = saved()
    assert CheckpointRecord.from_dict({**record.to_dict(), "metadata": frozen}, source="").metadata == frozen


def test_a_loss_that_is_no_number_stays_one() -> None:
    frozen = freeze_metadata({"loss": math.nan, "best": math.inf})
    assert math.isnan(frozen["loss"]) and frozen["best"] == math.inf
    again = CheckpointRecord.from_json(json.dumps({**saved().to_dict(), "metadata": frozen}).encode(), source="")
    assert math.isnan(again.metadata["loss"])


def test_metadata_that_holds_itself_or_is_no_dict_is_refused() -> None:
    loop: dict[str, Any] = {}
    loop["self"] = [loop]
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    for bad in (loop, deep, {"n": 10**5000}):
        with pytest.raises(InvalidArgument, match="metadata"):
            freeze_metadata(bad)
    for wrong in ([], "x", 3, {1}, object()):
        with pytest.raises(InvalidArgument, match="not a dict"):
            freeze_metadata(wrong)
    assert freeze_metadata(None) == {} == freeze_metadata({})
