"""Options of S3 as text."""

from __future__ import annotations

import pytest

from ckpt_async.stores.s3.access import S3Access
from ckpt_async.words.errors import InvalidArgument

KEY = "arn:aws:kms:eu-west-1:123456789012:key/1-2"


@pytest.mark.parametrize(
    "value",
    [
        f"checksums:md5, requester_pays:True,sse_kms_key_id:{KEY},conditional_writes:0",
        f'{{"checksums": "md5", "requester_pays": true, "sse_kms_key_id": "{KEY}", "conditional_writes": false}}',
        {"checksums": "md5", "requester_pays": 1, "sse_kms_key_id": KEY, "conditional_writes": "false"},
    ],
)
def test_every_form_says_the_same(value: object) -> None:
    access = S3Access(endpoint_url="http://x").with_options(value)  # type: ignore[arg-type]
    assert access == S3Access(
        endpoint_url="http://x", checksums="md5", requester_pays=True, sse_kms_key_id=KEY, conditional_writes=False
    )
    text = S3Access.check_options(value)  # type: ignore[arg-type]
    assert S3Access(endpoint_url="http://x").with_options(text) == access
    assert text == f"checksums:md5,requester_pays:true,sse_kms_key_id:{KEY},conditional_writes:false"


@pytest.mark.parametrize("value", [True, False, "CRC32"])
def test_a_wrong_value_is_not_taken_for_no_checksums(value: object) -> None:
    with pytest.raises(InvalidArgument, match="Allowed: 'crc32' or 'md5' or 'off'"):
        S3Access(checksums=value)  # type: ignore[arg-type]


def test_nothing_said_is_nothing_changed() -> None:
    assert S3Access().with_options("") == S3Access().with_options({}) == S3Access()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("checksums", "NAME:VALUE"),
        ("{checksums", "no JSON"),
        ("checksums:sha256", "checksums:sha256.*'crc32' or 'md5' or 'off'"),
        ("requester_pays:perhaps", "true or false"),
        ("sse_kms_key_id:", "the name of a key"),
        ("endpoint_url:http://x", "There are: addressing_style, bucket_key"),
        ({"sse_kms_key_id": "a,b"}, "the name of a key"),
    ],
)
def test_what_is_wrong_is_named(value: object, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        S3Access().with_options(value)  # type: ignore[arg-type]
