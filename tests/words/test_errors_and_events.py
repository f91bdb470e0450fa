from __future__ import annotations

import json
import pickle
from collections.abc import Iterator

import pytest

from ckpt_async.words import errors, events
from ckpt_async.words.errors import CheckpointError, FlushTimeout, LoadTargetNotEmpty, StoreUnavailable, from_wire


def kinds(base: type[CheckpointError] = CheckpointError) -> Iterator[type[CheckpointError]]:
    yield base
    for child in base.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from kinds(child)


def shape(error: CheckpointError) -> tuple[object, ...]:
    return type(error), error.attempted, error.on, error.cause, error.hint, str(error), error.transient


@pytest.mark.parametrize("kind", list(kinds()), ids=lambda kind: kind.__name__)
def test_every_error_keeps_its_type_and_words_on_every_way(kind: type[CheckpointError]) -> None:
    error = kind("save 'größe'", on="s3://b/k", cause="it rains", hint="Wait.")
    assert str(error) == "could not save 'größe' (s3://b/k): it rains. Wait."
    assert error.args == (str(error),)
    assert shape(pickle.loads(pickle.dumps(error))) == shape(error)
    assert shape(from_wire(json.loads(json.dumps(error.to_wire())))) == shape(error)
    assert shape(from_wire(kind("do it").to_wire())) == shape(kind("do it"))
    assert kind.__name__ in errors.__all__


def test_errors_are_also_what_python_programs_catch() -> None:
    assert isinstance(FlushTimeout("flush", on="x"), TimeoutError)
    assert isinstance(LoadTargetNotEmpty("load", cause="full"), FileExistsError)
    assert isinstance(errors.InvalidArgument("x", hint="y"), ValueError)
    assert isinstance(errors.CheckpointNotFound("x"), LookupError)
    assert FlushTimeout("flush", on="x").errno is None


def test_only_an_unavailable_store_is_worth_a_repetition() -> None:
    assert all(kind.transient == issubclass(kind, StoreUnavailable) for kind in kinds())


def test_an_error_of_a_later_version_is_still_an_error() -> None:
    assert shape(from_wire({"error": "Unheard", "attempted": "x"})) == shape(CheckpointError("x"))
    assert type(from_wire({})) is CheckpointError


MESSAGES: list[events.Event | events.Command] = [
    events.WorkerReady(7),
    events.EntrySaved("0001", 5),
    events.SaveReturned("0001", 0.5),
    events.EntryDropped("0001", "full"),
    events.CheckpointPruned("a/b", "keep_last=3"),
    events.EntryDurable("0001"),
    events.EntryStarted("0001", 5),
    events.EntryProgress("0000/0001", 3),
    events.EntryCommitted("0001", 5, 0.25),
    events.EntryFailed("0001", StoreUnavailable("x", cause="line\nbreak").to_wire()),
    events.Trouble(3, StoreUnavailable("x").to_wire()),
    events.Trouble(0),
    events.LinksGuarded("0000"),
    events.AdoptionEnded("0000", 2, {"error": "x"}),
    events.Adopt(("00000000000001",)),
    events.Notice("a sentence"),
    events.Wake(),
    events.Retry(),
    events.Press(),
    events.Close(1.5),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_message_is_one_line_and_comes_back(message: events.Event | events.Command) -> None:
    line = events.encode(message)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    decode, other = events.decode_event, events.decode_command
    if isinstance(message, (events.Wake, events.Retry, events.Adopt, events.Press, events.Close)):
        decode, other = events.decode_command, events.decode_event  # type: ignore[assignment]
    decoded = decode(line)
    assert type(decoded) is type(message)
    assert events.encode(decoded) == line
    with pytest.raises(ValueError, match="not a message"):
        other(line)


def test_the_list_of_messages_above_is_complete() -> None:
    named = {name for name in events.__all__ if isinstance(getattr(events, name), type)} - {"Event", "Command"}
    assert {type(message).__name__ for message in MESSAGES} == named


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"x",
        b"[]",
        b"3",
        b"{}",
        b'{"kind": "Nothing"}',
        b'{"kind": "Close"}',
        b'{"kind": []}',
        b'{"kind": "Wake", "x": 1}',
        b"\xff",
        b"[" * 100_000,
    ],
    ids=lambda line: repr(line[:20]),
)
def test_a_line_that_is_no_message_is_a_value_error(line: bytes) -> None:
    for decode in (events.decode_command, events.decode_event):
        with pytest.raises(ValueError):
            decode(line)
