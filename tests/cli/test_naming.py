"""How checkpoints are named on the command line."""

from __future__ import annotations

import pytest

from ckpt_async import CheckpointRecord, InvalidArgument
from ckpt_async.cli.naming import Named, match, parse_reference, read_above
from ckpt_async.words import keys
from tests.cli.conftest import PATHSPEC, Run
from tests.transfer.parts import record_of

KEY = f"{keys.ALL_DATA}TrainFlow/train/0123456789ab/ba9876543210/01234567.0.best.3"


@pytest.mark.parametrize(
    ("text", "flow", "named"),
    [
        (KEY, "", Named(key=KEY)),
        (f"s3://bucket/root/{KEY}", "", Named(key=KEY)),
        (PATHSPEC, "", Named(above=PATHSPEC)),
        (f"{PATHSPEC}:latest", "", Named(above=PATHSPEC, latest=True)),
        (f"{PATHSPEC}:0", "", Named(above=PATHSPEC, attempt=0)),
        (f"{PATHSPEC}:1:best", "", Named(above=PATHSPEC, attempt=1, rest="best")),
        (f"{PATHSPEC}:1:a:b:3", "", Named(above=PATHSPEC, attempt=1, rest="a:b:3")),
        (f"{PATHSPEC}::best", "", Named(above=PATHSPEC, rest="best")),
        ("TrainFlow/12:latest", "", Named(above="TrainFlow/12", latest=True)),
        # The command of a flow.
        ("12/train/34:latest", "TrainFlow", Named(above=PATHSPEC, latest=True)),
        ("TrainFlow/12", "TrainFlow", Named(above="TrainFlow/12")),
        ("12", "TrainFlow", Named(above="TrainFlow/12")),
    ],
)
def test_forms(text: str, flow: str, named: Named) -> None:
    assert parse_reference(text, flow) == named


@pytest.mark.parametrize(
    ("text", "flow", "words"),
    [
        ("", "", "names no task"),
        (":latest", "", "names no task"),
        ("a/b/c/d/e", "", "has not the form"),
        ("a//c", "", "has not the form"),
        ("a/../c", "", "has not the form"),
        (f"{PATHSPEC}:newest", "", "neither a number, of an attempt, nor 'latest'"),
        (f"{PATHSPEC}:٣", "", "neither a number"),
        (f"{keys.ALL_DATA}TrainFlow/train", "", "has not the form of one"),
        ("OtherFlow/12/train/34", "TrainFlow", "this is the command of the flow TrainFlow"),
    ],
)
def test_what_is_no_reference(text: str, flow: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        parse_reference(text, flow)


def test_above() -> None:
    assert read_above("", "") == ""
    assert read_above("", "TrainFlow") == "TrainFlow"
    assert read_above("/TrainFlow/12/", "") == "TrainFlow/12"


def test_names_with_colons_are_compared_and_not_taken_apart() -> None:
    records = [record_of(0, name="a"), record_of(3, name="a"), record_of(1, name="a:3"), record_of(2, name="b", attempt=1)]

    def found(text: str) -> list[CheckpointRecord]:
        return list(match(records, parse_reference(f"{PATHSPEC}:{text}")))

    assert found("0:a") == records[:2]
    assert found("0:a:3") == records[1:3]  # which of them, the number tells
    assert found("0:a:3:1") == [records[2]]
    assert found("0::1") == [records[2]]
    assert found("1") == [records[3]]
    assert found(":b") == [records[3]]
    assert found("7") == []


def test_what_is_ambiguous_or_missing_says_what_there_is(run: Run, saved: list[CheckpointRecord]) -> None:
    answer = run("show", f"{PATHSPEC}:0")
    assert answer.code == 2
    assert "it may be any of 3 checkpoints" in answer.err
    assert f"{PATHSPEC}:0:best:1" in answer.err
    assert f"{PATHSPEC}:latest" in answer.err
    answer = run("show", f"{PATHSPEC}:3")
    assert (answer.code, f"there are {PATHSPEC}:0:mfchckpt:2" in answer.err) == (4, True)
    answer = run("show", "TrainFlow/12/evaluate/1:latest")
    assert (answer.code, f"there are {PATHSPEC}" in answer.err) == (4, True)
    answer = run("show", "OtherFlow")
    assert (answer.code, f"there are {PATHSPEC}" in answer.err) == (4, True)
    answer = run("show", saved[0].key + "9")
    assert (answer.code, "has no record of it" in answer.err) == (4, True)
    for answer in (run("show", "TrainFlow:latest"), run("show", f"{PATHSPEC}:0:mfchckpt:2"), run("show", f"/x/{saved[2].key}")):
        assert (answer.code, answer.err) == (0, "")
        assert f"key: {saved[2].key}" in answer.out


def test_an_empty_store_says_so(run: Run) -> None:
    answer = run("show", PATHSPEC)
    assert answer.code == 4
    assert "there are none at all in" in answer.err
    assert "--store" in answer.err
