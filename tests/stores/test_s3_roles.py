"""Credentials of roles, which expire in the middle of an upload, and encryption with keys of KMS: against moto."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Iterator
from pathlib import Path

import botocore.session
import pytest
from botocore.config import Config

from ckpt_async.stores.contract import Body, CopySource, Part
from ckpt_async.stores.s3.access import S3Credentials
from ckpt_async.stores.s3.store import S3Store
from ckpt_async.words.errors import StoreAccessDenied
from tests.stores.moto_server import BUCKET, MotoServer
from tests.stores.scripted_bucket import told

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("each_library")]
ROLE = "arn:aws:iam::123456789012:role/uploader"
PARTS = 12
LIFETIME = 5


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    with pytest.MonkeyPatch.context() as patch, MotoServer() as server:
        patch.setattr("moto.s3.models.S3_UPLOAD_PART_MIN_SIZE", 1)
        yield server


@pytest.fixture
def temporary_keys(moto: MotoServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MotoServer]:
    """Keys that STS has given out serve five requests; the lasting ones serve none."""
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ROLE_ARN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", moto.endpoint_url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    moto.expire(lambda key: LIFETIME if key.startswith("ASIA") else 0)
    yield moto
    moto.expire(lambda _: None)


async def upload_in_parts(store: S3Store) -> None:
    upload_id = await store.begin_multipart("m")
    parts: list[Part] = []
    for number in range(1, PARTS + 1):
        parts.append(await store.put_part("m", upload_id, number, 0, Body.of(b"part %02d" % number)))
    await store.complete_multipart("m", upload_id, parts)
    assert await store.get("m") == b"".join(b"part %02d" % number for number in range(1, PARTS + 1))


def check_followed(moto: MotoServer) -> None:
    """One upload was begun, no part was sent twice but for what was refused, and each key served for as long as it lived."""
    keys = [key for key, _, _ in moto.requests]
    assert sum(method == "POST" and "uploads" in path for _, method, path in moto.requests) == 1
    lives = [keys.count(key) for key in dict.fromkeys(keys)]
    # Its requests, and the one that was refused; the last one lives still.
    assert lives[:-1] == [LIFETIME + 1] * (len(lives) - 1) and len(lives) == 3
    sent = [path for _, method, path in moto.requests if method == "PUT"]
    assert len(sent) == PARTS + sum(path in sent[:index] for index, path in enumerate(sent))


async def test_a_role_of_a_profile(temporary_keys: MotoServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(f"[profile uploads]\nrole_arn = {ROLE}\nsource_profile = base\n[profile base]\n")
    (tmp_path / "credentials").write_text("[base]\naws_access_key_id = AKIABASE\naws_secret_access_key = secret\n")
    monkeypatch.setenv("AWS_PROFILE", "uploads")
    async with S3Store(BUCKET, uuid.uuid4().hex, temporary_keys.access(credentials=None)) as store:
        await upload_in_parts(store)
    check_followed(temporary_keys)


async def test_a_role_by_web_identity(temporary_keys: MotoServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As pods have it."""
    (tmp_path / "token").write_text("the-token")
    monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    async with S3Store(BUCKET, uuid.uuid4().hex, temporary_keys.access(credentials=None)) as store:
        await upload_in_parts(store)
    check_followed(temporary_keys)


@pytest.mark.parametrize("params", [{}, {"user_agent_extra": "not-known-to-the-direct-path"}], ids=["direct", "botocore"])
async def test_credentials_of_a_function(temporary_keys: MotoServer, params: dict[str, str]) -> None:
    given = 0

    def credentials() -> S3Credentials:
        nonlocal given
        given += 1
        return S3Credentials(f"ASIA{given:016d}", "secret", "token")

    access = temporary_keys.access(credentials=credentials, client_params=params)
    async with S3Store(BUCKET, uuid.uuid4().hex, access) as store:
        await upload_in_parts(store)
    assert given == 3
    check_followed(temporary_keys)


async def test_keys_that_expire_and_are_not_renewed(temporary_keys: MotoServer) -> None:
    access = temporary_keys.access(credentials=lambda: S3Credentials("ASIA", "secret", "token"))
    async with S3Store(BUCKET, uuid.uuid4().hex, access) as store:
        with pytest.raises(StoreAccessDenied, match="ExpiredToken"):
            await upload_in_parts(store)


def heads(moto: MotoServer) -> functools.partial[dict[str, object]]:
    client = botocore.session.get_session().create_client(
        "s3",
        endpoint_url=moto.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        config=Config(s3={"addressing_style": "path"}),
    )
    return functools.partial(client.head_object, Bucket=BUCKET)


@pytest.mark.parametrize("params", [{}, {"user_agent_extra": "not-known-to-the-direct-path"}], ids=["direct", "botocore"])
@pytest.mark.parametrize(
    "encryption",
    [
        {"server_side_encryption": "AES256"},
        {"server_side_encryption": "aws:kms", "sse_kms_key_id": "arn:aws:kms:us-east-1:123456789012:key/k-1", "bucket_key": True},
    ],
    ids=["s3", "kms"],
)
async def test_everything_is_encrypted(moto: MotoServer, params: dict[str, str], encryption: dict[str, object]) -> None:
    prefix = uuid.uuid4().hex
    async with S3Store(BUCKET, prefix, moto.access(client_params=params, **encryption)) as store:
        info = await store.put("whole", Body.of(b"content"))
        await store.copy("copy", CopySource("whole", info.etag, 0, 7, Body.of(b"content").crc32))
        await upload_in_parts(store)
        # It says that it encrypts; of sums it says nothing.
        assert not any("encrypts" in text for text in told(store))
    head = heads(moto)
    for key in ("whole", "copy", "m"):
        found = head(Key=f"{prefix}/{key}")
        assert found["ServerSideEncryption"] == encryption["server_side_encryption"]
        assert found.get("SSEKMSKeyId") == encryption.get("sse_kms_key_id")
    head.func.__self__.close()
