"""Metaflow's own settings decide how S3 is reached. Each case in a process of its own, since Metaflow reads its settings once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from ckpt_async import StoreAccessDenied, StoreAddress
from ckpt_async.stores.access import load_access
from ckpt_async.stores.s3.access import S3Access
from metaflow_extensions.ckpt_async.plugins.checkpoint.artifact_store import ACCESS, ArtifactStore, metadata_fields
from metaflow_extensions.ckpt_async.plugins.checkpoint.errors import CheckpointNotPossible
from metaflow_extensions.ckpt_async.plugins.checkpoint.store import (
    S3_ACCESS,
    address_of_datastore,
    artifact_store_of,
    configured_address,
    store_address,
)
from tests.stores.moto_server import MotoServer

CODE = """
import json
from ckpt_async.stores.access import load_access
from ckpt_async.stores.s3.access import S3Access
from metaflow_extensions.ckpt_async.plugins.checkpoint.store import store_address
access = load_access(store_address("s3", "s3://bucket/root").access, S3Access)
credentials = [access.credentials() for _ in range(2)]
print(json.dumps({
    "endpoint_url": access.endpoint_url, "region": access.region, "verify": access.verify, "anonymous": access.anonymous,
    "addressing_style": access.addressing_style, "server_side_encryption": access.server_side_encryption,
    "more": [access.checksums, access.requester_pays, access.conditional_writes, access.sse_kms_key_id],
    "client_params": dict(access.client_params), "keys": [one and one.access_key for one in credentials],
    "token": credentials[0] and credentials[0].token, "repr": repr(access) + repr(credentials),
}))
"""


def ask(folder: Path, **variables: str) -> dict[str, object]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("METAFLOW_", "AWS_", "REQUESTS_"))}
    environment = {**kept, "HOME": str(folder), "AWS_EC2_METADATA_DISABLED": "true", **variables}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "the-secret", "AWS_SESSION_TOKEN": "the-token"}


def test_aws_itself(tmp_path: Path) -> None:
    found = ask(tmp_path, **KEYS, AWS_DEFAULT_REGION="eu-central-1")
    assert (found["endpoint_url"], found["region"], found["verify"]) == (None, "eu-central-1", True)
    assert (found["server_side_encryption"], found["anonymous"], found["addressing_style"]) == (None, False, "auto")
    assert (found["keys"], found["token"], found["client_params"]) == (["key", "key"], "the-token", {})
    assert "secret" not in str(found["repr"]) and "the-token" not in str(found["repr"])


def test_settings_of_metaflow(tmp_path: Path) -> None:
    bundle = tmp_path / "authorities.pem"
    bundle.write_text("")
    found = ask(
        tmp_path,
        **KEYS,
        METAFLOW_S3_ENDPOINT_URL="http://127.0.0.1:1",
        METAFLOW_S3_VERIFY_CERTIFICATE=str(bundle),
        METAFLOW_S3_SERVER_SIDE_ENCRYPTION="aws:kms",
        METAFLOW_DATATOOLS_CLIENT_PARAMS=json.dumps(
            {
                "endpoint_url": "http://127.0.0.1:2",
                "region_name": "eu-west-1",
                "config": {
                    "proxies": {"http": "http://proxy:3"},
                    "s3": {"addressing_style": "path"},
                    "retries": {"max_attempts": 3},
                },
            }
        ),
    )
    assert found["endpoint_url"] == "http://127.0.0.1:2"
    assert (found["region"], found["verify"], found["addressing_style"]) == ("eu-west-1", str(bundle), "path")
    assert found["server_side_encryption"] == "aws:kms"
    assert found["client_params"] == {"proxies": {"http": "http://proxy:3"}, "s3": {"addressing_style": "path"}}


def test_options_of_the_decorator_beat_the_settings_of_metaflow(tmp_path: Path) -> None:
    more: dict[str, str] = {"METAFLOW_S3_SERVER_SIDE_ENCRYPTION": "AES256"}
    found = ask(tmp_path, **KEYS, **more)
    assert (found["server_side_encryption"], found["more"]) == ("AES256", ["crc32", False, None, None])
    more["METAFLOW_CHECKPOINT_S3_OPTIONS"] = (
        "checksums:off,requester_pays:true,conditional_writes:false,server_side_encryption:aws:kms,sse_kms_key_id:k:1"
    )
    found = ask(tmp_path, **KEYS, **more)
    assert (found["server_side_encryption"], found["more"]) == ("aws:kms", ["off", True, False, "k:1"])


@pytest.mark.parametrize("name", ["AWS_CA_BUNDLE"])
def test_bundle_of_the_environment(tmp_path: Path, name: str) -> None:
    assert ask(tmp_path, **KEYS, **{name: "/bundle.pem"})["verify"] == "/bundle.pem"


def test_no_credentials(tmp_path: Path) -> None:
    assert ask(tmp_path)["keys"] == [None, None]


ELSEWHERE = "METAFLOW_CHECKPOINT_ARTIFACT_STORE_CONFIG"


@pytest.mark.parametrize("kind", ["s3", "s3-compatible", "coreweave"])
def test_the_store_of_with_artifact_store(tmp_path: Path, kind: str) -> None:
    client = {
        "endpoint_url": "http://127.0.0.1:3",
        "region_name": "eu-west-3",
        "aws_access_key_id": "another",
        "aws_secret_access_key": "the-secret",
        "aws_session_token": "the-token",
        "config": {"s3": {"addressing_style": "virtual"}},
    }
    config = json.dumps({"type": kind, "config": {"root": "s3://bucket/root", "client_params": client}})
    found = ask(tmp_path, **KEYS, METAFLOW_S3_ENDPOINT_URL="http://127.0.0.1:1", **{ELSEWHERE: config})
    assert (found["endpoint_url"], found["region"], found["addressing_style"]) == ("http://127.0.0.1:3", "eu-west-3", "virtual")
    assert (found["keys"], found["token"]) == (["another", "another"], "the-token")
    assert "secret" not in str(found["repr"]) and "the-token" not in str(found["repr"])


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    with MotoServer() as server:
        yield server


def test_a_role_of_with_artifact_store(tmp_path: Path, moto: MotoServer) -> None:
    how = {"root": "s3://bucket/root", "role_arn": "arn:aws:iam::123456789012:role/uploader"}
    variables = {ELSEWHERE: json.dumps({"type": "s3", "config": how}), "AWS_ENDPOINT_URL_STS": moto.endpoint_url}
    found = ask(tmp_path, **KEYS, AWS_DEFAULT_REGION="us-east-1", **variables)
    # Those that STS has given out, and they are renewed by themselves: they are asked for once.
    assert [str(key)[:4] for key in found["keys"]] == ["ASIA"] * 2 and len(set(found["keys"])) == 1  # type: ignore[attr-defined, call-overload]
    assert found["token"] != KEYS["AWS_SESSION_TOKEN"]


def test_without_params_of_its_own_it_is_reached_as_the_datastore_is(tmp_path: Path) -> None:
    config = json.dumps({"type": "s3", "config": {"root": "s3://bucket/root"}})
    found = ask(tmp_path, **KEYS, METAFLOW_S3_ENDPOINT_URL="http://127.0.0.1:1", **{ELSEWHERE: config})
    assert (found["endpoint_url"], found["keys"]) == ("http://127.0.0.1:1", ["key", "key"])


class TestArtifactStore:
    def test_it_is_where_checkpoints_go(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(ELSEWHERE, json.dumps({"type": "local", "config": {"root": "/elsewhere"}}))
        datastore = SimpleNamespace(TYPE="azure", datastore_root="x")
        assert address_of_datastore(datastore) == configured_address() == StoreAddress("/elsewhere")
        # Whoever reads it later stands in another folder.
        assert set(metadata_fields(ArtifactStore("local", "here")).values()) == {"local", os.path.abspath("here")}
        assert "s3://b/r" in metadata_fields(ArtifactStore("s3", "s3://b/r")).values()
        spin = SimpleNamespace(TYPE="spin", datastore_root="/apart")
        assert address_of_datastore(spin) == StoreAddress("/apart") and artifact_store_of(spin) is None
        monkeypatch.setenv(ELSEWHERE, json.dumps({"type": "ceph", "config": {"root": "ceph://x"}}))
        with pytest.raises(CheckpointNotPossible) as caught:
            configured_address()
        assert "'ceph'" in caught.value.message

    def test_another_datastore_is_not_reached_with_its_keys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(ELSEWHERE, json.dumps({"type": "s3", "config": {"root": "s3://bucket/root/"}}))
        assert configured_address() == StoreAddress("s3://bucket/root", ACCESS)
        assert store_address("s3", "s3://bucket/other") == StoreAddress("s3://bucket/other", S3_ACCESS)
        monkeypatch.delenv(ELSEWHERE)
        with pytest.raises(StoreAccessDenied, match="lacks the variable"):
            load_access(ACCESS, S3Access)

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"type": "s3"}', '{"type": "s3", "config": {}}', '{"secret": "secret"'])
    def test_what_can_not_be_read_is_refused_and_not_told(self, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        monkeypatch.setenv(ELSEWHERE, text)
        with pytest.raises(CheckpointNotPossible) as caught:
            configured_address()
        assert "can't be read" in caught.value.message and "secret" not in caught.value.message
