from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given, settings, strategies as st

from ckpt_async.stores.contract import check_key
from ckpt_async.words import keys
from ckpt_async.words.errors import InvalidArgument
from ckpt_async.words.identity import MAX_PART_BYTES, TaskIdentity, identity_outside_flow, json_hash, short_hash
from ckpt_async.words.names import DEFAULT_NAME, MAX_ENCODED_NAME_CHARS, check_name, decode_name, encode_name

FAST = settings(max_examples=60, deadline=None, database=None)
IDENTITY = TaskIdentity("Flow", "17", "train", "3", 2, "aaaaaaaaaaaa", "bbbbbbbbbbbb")
any_name = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@FAST
@given(any_name)
def test_a_name_survives_its_way_through_a_key(name: str) -> None:
    encoded = encode_name(name)
    assert encoded.isascii() and "." not in encoded and "/" not in encoded
    assert decode_name(encoded) == name
    key = keys.data_key(IDENTITY, name, 4)
    parsed = keys.parse_data_key(check_key(key))
    assert (parsed.name, parsed.version, parsed.attempt, parsed.pathspec_hash) == (name, 4, 2, IDENTITY.pathspec_hash)


@FAST
@given(any_name, any_name)
def test_different_names_never_share_a_key(one: str, other: str) -> None:
    assert (encode_name(one) == encode_name(other)) == (one == other)


@pytest.mark.parametrize("name", ["model.v1", "a/b", "../../etc", ".", "..", "~", "~2E", "a b", "größe", "模型", "\n", "\0"])
def test_names_that_look_like_structure_stay_names(name: str) -> None:
    assert keys.parse_data_key(keys.data_key(IDENTITY, check_name(name), 0)).name == name


@pytest.mark.parametrize("name", ["", None, 3, b"x", "\ud800", "x" * (MAX_ENCODED_NAME_CHARS + 1), "." * 61, "é" * 300])
def test_a_name_that_no_key_can_hold_is_refused(name: object) -> None:
    with pytest.raises(InvalidArgument, match="could not save a checkpoint"):
        check_name(name)


def test_the_longest_name_fits_into_a_file_name_of_a_local_store() -> None:
    name = check_name("x" * MAX_ENCODED_NAME_CHARS)
    key = keys.data_key(IDENTITY, name, 10**9)
    for path in (key, keys.record_key(key), keys.manifest_key(key), keys.task_record_key(IDENTITY, name, 10**9)):
        assert len(path.rpartition("/")[2]) <= 255


def test_the_keys_are_those_of_the_layout() -> None:
    hashed = hashlib.sha256(b'"Flow/17/train/3"').hexdigest()[:8]
    root = "mf.checkpoints/checkpoints"
    key = keys.data_key(IDENTITY, DEFAULT_NAME, 0)
    assert key == f"{root}/artifacts/Flow/train/aaaaaaaaaaaa/bbbbbbbbbbbb/{hashed}.2.mfchckpt.0"
    assert keys.record_key(key) == f"{root}/artifact_metadata/Flow/train/aaaaaaaaaaaa/bbbbbbbbbbbb/{hashed}.2.mfchckpt.0.metadata"
    assert keys.scope_latest_key(IDENTITY) == f"{root}/artifact_metadata/Flow/train/aaaaaaaaaaaa/bbbbbbbbbbbb/latest"
    assert keys.task_record_key(IDENTITY, DEFAULT_NAME, 0) == f"{root}/metadata/Flow/17/train/3/2.mfchckpt.0.metadata"
    assert keys.task_latest_key("Flow/17/train/3") == f"{root}/metadata/Flow/17/train/3/latest"
    # Ours lies where no listing of the peer looks.
    assert keys.manifest_key(key) == f"{root}/manifests/Flow/train/aaaaaaaaaaaa/bbbbbbbbbbbb/{hashed}.2.mfchckpt.0.json"


def test_hashes_are_those_of_the_layout() -> None:
    assert json_hash("start") == hashlib.sha256(b'"start"').hexdigest()
    assert json_hash({"b": 1, "a": 2}) == hashlib.sha256(json.dumps({"a": 2, "b": 1}).encode()).hexdigest()
    assert short_hash("user:me") == hashlib.sha256(b"user:me").hexdigest()[:12]
    assert IDENTITY.pathspec == "Flow/17/train/3"


@pytest.mark.parametrize("name", ["model.v1", "a.b.c", "...", "model.7"])
def test_a_key_of_the_peer_whose_name_holds_dots_is_read_right(name: str) -> None:
    parsed = keys.parse_data_key(f"mf.checkpoints/checkpoints/artifacts/F/s/scope/task/12345678.1.{name}.5")
    assert (parsed.name, parsed.attempt, parsed.version) == (name, 1, 5)


@pytest.mark.parametrize(
    "leaf", ["h.0.n", "h.x.n.0", "h.0.n.x", "h.-1.n.0", "h.٣.n.0", "h.0.n.²", "h.0.n." + "9" * 5000, "h.0.~FF.0", "latest", ""]
)
def test_what_is_no_data_key_is_refused(leaf: str) -> None:
    with pytest.raises(InvalidArgument):
        keys.parse_data_key(f"mf.checkpoints/checkpoints/artifacts/F/s/scope/task/{leaf}")


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "s3://bucket/mf.checkpoints/checkpoints/artifacts/F/s/a/b/h.0.n.0",
        "/mf.checkpoints/checkpoints/artifacts/F/s/a/b/h.0.n.0",
        "mf.checkpoints/checkpoints/artifacts/F/s/a/h.0.n.0",
        "mf.checkpoints/checkpoints/artifacts/F/s/../b/h.0.n.0",
        "mf.checkpoints/checkpoints/artifacts/F/s//b/h.0.n.0",
        "mf.checkpoints/checkpoints/artifacts/F/s/a/b/h.0.n.0/model.pt",
        "mf.checkpoints/checkpoints/metadata/F/s/a/b/h.0.n.0",
    ],
)
def test_a_path_elsewhere_is_no_data_key(key: str) -> None:
    with pytest.raises(InvalidArgument, match="form"):
        keys.parse_data_key(key)


def test_what_is_saved_outside_of_a_flow_lies_where_a_step_would_look() -> None:
    identity = identity_outside_flow("Flow/imported/train/7", attempt=3, namespace="user:ada")
    assert (identity.pathspec, identity.attempt) == ("Flow/imported/train/7", 3)
    # As the extension has it for a step outside of any foreach (metaflow_extensions/.../scope.py).
    assert (identity.scope, identity.task_identifier) == (short_hash("user:ada"), json_hash("train")[:12])
    alone = identity_outside_flow("Flow/imported/train/7")
    assert alone.attempt == 0 and alone.scope != identity.scope
    assert keys.parse_data_key(keys.data_key(alone, DEFAULT_NAME, 0)).pathspec_hash == alone.pathspec_hash


@pytest.mark.parametrize(
    "pathspec",
    [
        *("", "Flow", "Flow/1/train", "Flow/1/train/7/8", "Flow//train/7", "Flow/../train/7", "Flow/1/./7", "Flow/1/train/7\n"),
        *("Flow/1/ train/7", "Flow/1/tr\0ain/7", "Flow/1/\ud800/7", f"Flow/1/train/{'x' * (MAX_PART_BYTES + 1)}", None, 7),
    ],
)
def test_a_pathspec_that_is_none_names_nobody(pathspec: str) -> None:
    with pytest.raises(InvalidArgument):
        identity_outside_flow(pathspec)


@pytest.mark.parametrize("attempt", [-1, True, "1", 1.0, 10_000])
def test_an_attempt_that_is_none_names_nobody(attempt: int) -> None:
    with pytest.raises(InvalidArgument):
        identity_outside_flow("Flow/1/train/7", attempt=attempt)


@pytest.mark.parametrize("namespace", ["", 7])
def test_a_namespace_that_is_none_names_nobody(namespace: str) -> None:
    with pytest.raises(InvalidArgument):
        identity_outside_flow("Flow/1/train/7", namespace=namespace)
