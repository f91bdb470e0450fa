"""What concerns many objects of a bucket at once: listing and deleting them, by whichever requests the server has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import anyio

from ckpt_async.stores.contract import ListPage, ObjectInfo
from ckpt_async.stores.failures import worst
from ckpt_async.stores.s3.copy import quoted
from ckpt_async.stores.s3.dialect import CHECKSUM_MD5, CHECKSUM_OFF, Dialect
from ckpt_async.stores.s3.errors import translate_code
from ckpt_async.stores.s3.requests import Requests
from ckpt_async.words.errors import StoreError, StoreObjectMissing, StoreRejected

__all__ = ["delete_objects", "list_objects", "list_some", "list_uploads"]

DELETE_AT_ONCE = 1000
#: Where there are no batches: so many requests at once.
DELETERS = 8


async def list_objects(requests: Requests, prefix: str) -> list[ObjectInfo]:
    """Return all objects below a prefix, sorted by key."""
    found, token = await list_some(requests, prefix)
    while token:
        more, token = await list_some(requests, prefix, token)
        found += more
    return sorted(found, key=lambda info: info.key)


async def list_some(requests: Requests, prefix: str, token: str = "") -> ListPage:
    """Return a page of the objects below a prefix, and the token of the next: how that is asked for, and with what."""
    how, _, value = token.partition(":")
    answer = await _page(requests, prefix, {how: value} if token else {})
    found = []
    for item in answer.get("Contents", ()):
        key = requests.short(item["Key"])
        # Some tools make empty objects that stand for folders; their names are no keys.
        if not key.endswith("/") and key:
            stored = item.get("LastModified")
            found.append(ObjectInfo(key, item["Size"], quoted(item["ETag"]), None if stored is None else stored.timestamp()))
    if not answer.get("IsTruncated"):
        return found, ""
    if following := answer.get("NextContinuationToken"):
        return found, f"ContinuationToken:{following}"
    # A server that knows the first version alone may not have noticed that it was asked for the second.
    return found, f"Marker:{answer.get('NextMarker') or answer['Contents'][-1]['Key']}"


async def list_uploads(requests: Requests, prefix: str) -> list[tuple[str, str, float]]:
    """Return the key, the id and the time of each unfinished upload below a prefix."""
    found = []
    after: dict[str, Any] = {}
    while True:
        params = {"Prefix": requests.full(prefix)} | after
        answer = await requests.send("list unfinished uploads", prefix, "list_multipart_uploads", lambda _, params=params: params)  # type: ignore[misc]
        for item in answer.get("Uploads", ()):
            found.append((requests.short(item["Key"]), str(item["UploadId"]), item["Initiated"].timestamp()))
        if not answer.get("IsTruncated"):
            return found
        after = {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}


async def _page(requests: Requests, prefix: str, after: dict[str, Any]) -> Any:
    params = {"Prefix": requests.full(prefix)} | after
    if "Marker" not in after and (await requests.dialect()).list_v2:
        try:
            return await requests.send(
                "list objects", prefix, "list_objects_v2", lambda dialect: params if dialect.list_v2 else None
            )
        except StoreRejected:
            if (await requests.dialect()).list_v2:
                raise
    return await requests.send("list objects", prefix, "list_objects", lambda _: params)


async def delete_objects(requests: Requests, keys: Sequence[str]) -> None:
    """Delete objects; a missing one counts as deleted."""
    for start in range(0, len(keys), DELETE_AT_ONCE):
        batch = keys[start : start + DELETE_AT_ONCE]
        failures = await _delete_together(requests, batch)
        if failures is None:
            failures = await _delete_each(requests, batch)
        if failures:
            raise worst(failures)


async def _delete_together(requests: Requests, keys: Sequence[str]) -> list[StoreError] | None:
    """Delete with one request; returns what failed, or None where the server has no such request."""
    params = {"Delete": {"Objects": [{"Key": requests.full(key)} for key in keys], "Quiet": True}}

    def compose(dialect: Dialect) -> dict[str, Any] | None:
        if dialect.batch == CHECKSUM_OFF:
            return None
        return params | ({"ContentMD5": ""} if dialect.batch == CHECKSUM_MD5 else {})

    if (await requests.dialect()).batch == CHECKSUM_OFF:
        return None
    try:
        answer = await requests.send("delete objects", "", "delete_objects", compose)
    except StoreRejected:
        if (await requests.dialect()).batch == CHECKSUM_OFF:
            return None
        raise
    failures = [_refused(requests, item) for item in answer.get("Errors", ())]
    return [failure for failure in failures if not isinstance(failure, StoreObjectMissing)]


def _refused(requests: Requests, item: Mapping[str, str]) -> StoreError:
    on = requests.on(requests.short(item.get("Key", "")))
    return translate_code(item.get("Code", ""), 0, item.get("Message", ""), "delete an object", on)


async def _delete_each(requests: Requests, keys: Sequence[str]) -> list[StoreError]:
    """Delete with a request for each; stops at a failure, and returns what failed."""
    failures: list[StoreError] = []
    waiting = iter(keys)

    async def work() -> None:
        for key in waiting:
            params = {"Key": requests.full(key)}
            try:
                await requests.send("delete an object", key, "delete_object", lambda _, params=params: params)  # type: ignore[misc]
            except StoreObjectMissing:
                continue
            except StoreError as error:
                failures.append(error)
            if failures:
                return

    async with anyio.create_task_group() as group:
        for _ in range(min(DELETERS, len(keys))):
            group.start_soon(work)
    return failures
