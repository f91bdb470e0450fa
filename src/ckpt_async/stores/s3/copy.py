"""Copies inside S3: what a request for one says, and what its answer must say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckpt_async.stores.contract import CopySource
from ckpt_async.stores.crc32 import encode_crc32
from ckpt_async.words.errors import StoreRejected

__all__ = ["copied_etag", "quoted", "source_params", "tells_content"]


def quoted(etag: str) -> str:
    """Return an etag as headers have it: some servers leave the quotes out elsewhere."""
    return etag if etag.startswith(('"', "W/")) else f'"{etag}"'


def source_params(bucket: str, base: str, source: CopySource) -> dict[str, Any]:
    """Return the parameters that name the source.

    Parameters
    ----------
    bucket, base : str
        Of the store; `base` stands in front of every key.
    """
    return {"CopySource": {"Bucket": bucket, "Key": base + source.key}, "CopySourceIfMatch": source.etag}


def copied_etag(answer: Mapping[str, Any] | None, source: CopySource, attempted: str, on: str) -> str:
    """Return the etag of what a copy has made.

    Parameters
    ----------
    answer : mapping
        ``CopyObjectResult`` or ``CopyPartResult``.

    Raises
    ------
    StoreRejected
        The server has not made a copy (one that does not know copies takes the request for an empty object), or not of these
        bytes.
    """
    etag = str((answer or {}).get("ETag") or "")
    if not etag:
        raise StoreRejected(attempted, on=on, cause="the server took the request for another one: it does not know copies")
    found = (answer or {}).get("ChecksumCRC32")
    if found is not None and found != encode_crc32(source.crc32):
        raise StoreRejected(attempted, on=on, cause=f"the copy of {source.key!r} has another checksum than its original had")
    return quoted(etag)


def tells_content(answer: Mapping[str, Any], etag: str, source: CopySource) -> bool:
    """Return whether the answer to a copy of a whole object already says that it is one: by its sum, or by the same etag."""
    return answer.get("ChecksumCRC32") is not None or etag == source.etag
