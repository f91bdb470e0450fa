"""What S3 answers to a request, over objects of which only the small ones have content: the part of the sink without sockets."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import quote, unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from sink_messages import (
    DATE,
    ISO_DATE,
    Answer,
    Content,
    Request,
    S3Problem,
    Stored,
    checksums,
    copied,
    kept_headers,
    read_range,
    texts,
    xml,
)

PAGE_KEYS = 1000


@dataclass
class Upload:
    """A multipart upload under way."""

    name: str
    headers: tuple[tuple[str, str], ...]
    parts: dict[int, Stored] = field(default_factory=dict)


class Objects:
    """All objects of all buckets; every bucket exists.

    Parameters
    ----------
    keep_below_bytes : int
        Bodies below this are kept.

    Attributes
    ----------
    counted : Counter
        Requests by kind, and the bytes of their bodies.
    """

    def __init__(self, keep_below_bytes: int) -> None:
        self.counted: Counter[str] = Counter()
        self.keep_below_bytes = keep_below_bytes
        self._objects: dict[str, Stored] = {}
        self._sorted: list[str] | None = []
        self._uploads: dict[str, Upload] = {}
        self._numbers = itertools.count(1)

    def answer(self, request: Request) -> Answer:
        kind, act = self._route(request)
        self.counted[kind] += 1
        self.counted["body_bytes"] += request.size_bytes
        try:
            return act(request, request.path.lstrip("/"))
        except S3Problem as problem:
            inner = f"<Error><Code>{problem.code}</Code><Message>{problem.code}</Message></Error>"
            return Answer(problem.status, inner.encode(), (("Content-Type", "application/xml"),))

    def _route(self, request: Request) -> tuple[str, Callable[[Request, str], Answer]]:
        query, method = request.query, request.method
        _, _, key = request.path.lstrip("/").partition("/")
        if method == "POST":
            if "delete" in query:
                return "delete_many", self._delete_many
            return ("create_upload", self._create) if "uploads" in query else ("complete_upload", self._complete)
        if "uploadId" in query:
            if method == "PUT":
                return "put_part", self._put_part
            return ("abort_upload", self._abort) if method == "DELETE" else ("list_parts", self._list_parts)
        if not key:
            if method == "GET":
                return ("location", self._location) if "location" in query else ("list", self._list)
            return "bucket", lambda request, name: Answer(200)
        if method == "PUT":
            return ("copy", self._copy) if "x-amz-copy-source" in request.headers else ("put", self._put)
        if method == "DELETE":
            return "delete", self._delete
        return ("head" if method == "HEAD" else "get"), self._get

    # One object

    def _find(self, name: str) -> Stored:
        if name not in self._objects:
            raise S3Problem(404, "NoSuchKey")
        return self._objects[name]

    def _set(self, name: str, stored: Stored) -> None:
        if name not in self._objects:
            self._sorted = None
        self._objects[name] = stored

    def _store(self, request: Request) -> Stored:
        content = request.content()
        if content.kept is None:
            etag = f'"{next(self._numbers):032x}"'
        else:
            etag = f'"{hashlib.md5(content.kept, usedforsecurity=False).hexdigest()}"'
        return Stored(content, etag, kept_headers(request))

    def _put(self, request: Request, name: str) -> Answer:
        self._check_conditions(request, name)
        stored = self._store(request)
        self._set(name, stored)
        return Answer(200, b"", (("ETag", stored.etag), *checksums(request)))

    def _check_conditions(self, request: Request, name: str) -> None:
        found = self._objects.get(name)
        if "if-none-match" in request.headers and found is not None:
            raise S3Problem(412, "PreconditionFailed")
        wanted = request.headers.get("if-match")
        if wanted is not None and found is None:
            raise S3Problem(404, "NoSuchKey")
        if wanted is not None and found is not None and wanted.strip('"') != found.etag.strip('"'):
            raise S3Problem(412, "PreconditionFailed")

    def _source(self, request: Request) -> Stored:
        return self._find(unquote(request.headers["x-amz-copy-source"]).lstrip("/").partition("?versionId=")[0])

    def _copy(self, request: Request, name: str) -> Answer:
        self._check_conditions(request, name)
        source = self._source(request)
        replaced = request.headers.get("x-amz-metadata-directive") == "REPLACE"
        stored = Stored(source.content, source.etag, kept_headers(request) if replaced else source.headers)
        self._set(name, stored)
        return Answer(200, copied("CopyObjectResult", stored))

    def _get(self, request: Request, name: str) -> Answer:
        stored = self._find(name)
        wanted = request.headers.get("if-match")
        if wanted is not None and wanted.strip('"') != stored.etag.strip('"'):
            raise S3Problem(412, "PreconditionFailed")
        headers = [("ETag", stored.etag), ("Last-Modified", DATE), ("Accept-Ranges", "bytes"), *stored.headers]
        content, status = stored.content, 200
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
        if asked:
            start, stop = read_range(asked[1], asked[2], content.size_bytes)
            headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{content.size_bytes}"))
            content, status = content.cut(start, stop), 206
        if content.kept is None:
            return Answer(status, b"", tuple(headers), content.size_bytes)
        return Answer(status, content.kept, tuple(headers))

    def _delete(self, request: Request, name: str) -> Answer:
        if self._objects.pop(name, None) is not None:
            self._sorted = None
        return Answer(204)

    # Uploads in parts

    def _create(self, request: Request, name: str) -> Answer:
        upload_id = f"upload-{next(self._numbers)}"
        self._uploads[upload_id] = Upload(name, kept_headers(request))
        bucket, _, key = name.partition("/")
        inner = f"<Bucket>{bucket}</Bucket><Key>{escape(key)}</Key><UploadId>{upload_id}</UploadId>"
        return Answer(200, xml("InitiateMultipartUploadResult", inner), checksums(request))

    def _upload(self, request: Request, name: str) -> Upload:
        upload = self._uploads.get(request.query.get("uploadId", ""))
        if upload is None or upload.name != name:
            raise S3Problem(404, "NoSuchUpload")
        return upload

    def _put_part(self, request: Request, name: str) -> Answer:
        upload, number = self._upload(request, name), int(request.query["partNumber"])
        if "x-amz-copy-source" in request.headers:
            content = self._source(request).content
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("x-amz-copy-source-range", ""))
            if asked:
                content = content.cut(*read_range(asked[1], asked[2], content.size_bytes))
            upload.parts[number] = part = Stored(content, f'"{next(self._numbers):032x}"')
            return Answer(200, copied("CopyPartResult", part))
        upload.parts[number] = part = self._store(request)
        return Answer(200, b"", (("ETag", part.etag), *checksums(request)))

    def _list_parts(self, request: Request, name: str) -> Answer:
        inner = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{part.etag}</ETag><Size>{part.content.size_bytes}</Size></Part>"
            for number, part in sorted(self._upload(request, name).parts.items())
        )
        return Answer(200, xml("ListPartsResult", f"<IsTruncated>false</IsTruncated>{inner}"))

    def _complete(self, request: Request, name: str) -> Answer:
        upload = self._upload(request, name)
        self._check_conditions(request, name)
        named = ElementTree.fromstring(bytes(request.body))
        numbers, etags = [int(text) for text in texts(named, "PartNumber")], texts(named, "ETag")
        parts = [upload.parts.get(number) for number in numbers]
        chosen = [part for part in parts if part is not None]
        if len(chosen) != len(numbers) or any(
            part.etag.strip('"') != etag.strip('"') for part, etag in zip(chosen, etags, strict=True)
        ):
            raise S3Problem(400, "InvalidPart")
        pieces = [part.content.kept for part in chosen]
        kept = [piece for piece in pieces if piece is not None]
        size_bytes = sum(part.content.size_bytes for part in chosen)
        content = Content(size_bytes, b"".join(kept) if len(kept) == len(pieces) else None)
        stored = Stored(content, f'"{next(self._numbers):032x}-{len(chosen)}"', upload.headers)
        self._set(name, stored)
        del self._uploads[request.query["uploadId"]]
        bucket, _, key = name.partition("/")
        inner = f"<Bucket>{bucket}</Bucket><Key>{escape(key)}</Key><ETag>{stored.etag}</ETag>"
        return Answer(200, xml("CompleteMultipartUploadResult", inner))

    def _abort(self, request: Request, name: str) -> Answer:
        self._upload(request, name)
        del self._uploads[request.query["uploadId"]]
        return Answer(204)

    # Many objects

    def _location(self, request: Request, name: str) -> Answer:
        return Answer(200, xml("LocationConstraint", ""))

    def _delete_many(self, request: Request, name: str) -> Answer:
        bucket = name.rstrip("/")
        keys = texts(ElementTree.fromstring(request.content().kept or b""), "Key")
        for key in keys:
            self._delete(request, f"{bucket}/{key}")
        quiet = b"<Quiet>true" in request.body
        deleted = "" if quiet else "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
        return Answer(200, xml("DeleteResult", deleted))

    def _list(self, request: Request, name: str) -> Answer:
        if self._sorted is None:
            self._sorted = sorted(self._objects)
        bucket, query = name.rstrip("/") + "/", request.query
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        limit = min(PAGE_KEYS, int(query.get("max-keys") or PAGE_KEYS))
        after = query.get("continuation-token") or query.get("start-after") or query.get("marker") or ""
        shown = quote if query.get("encoding-type") == "url" else escape
        index = max(bisect.bisect_left(self._sorted, bucket + prefix), bisect.bisect_right(self._sorted, bucket + after))
        entries: list[str] = []
        last, truncated = "", False
        while index < len(self._sorted) and self._sorted[index].startswith(bucket + prefix):
            if len(entries) == limit:
                truncated = True
                break
            key = self._sorted[index][len(bucket) :]
            inside, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            if found:
                folder = prefix + inside + delimiter
                entries.append(f"<CommonPrefixes><Prefix>{shown(folder)}</Prefix></CommonPrefixes>")
                last = folder + "\U0010ffff"  # behind everything in it
                index = bisect.bisect_right(self._sorted, bucket + last)
                continue
            stored = self._objects[self._sorted[index]]
            entries.append(
                f"<Contents><Key>{shown(key)}</Key><LastModified>{ISO_DATE}</LastModified><ETag>{escape(stored.etag)}</ETag>"
                f"<Size>{stored.content.size_bytes}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            )
            last = key
            index += 1
        inner = f"<Name>{bucket[:-1]}</Name><Prefix>{shown(prefix)}</Prefix><KeyCount>{len(entries)}</KeyCount>"
        inner += f"<MaxKeys>{limit}</MaxKeys><IsTruncated>{str(truncated).lower()}</IsTruncated>"
        if delimiter:
            inner += f"<Delimiter>{shown(delimiter)}</Delimiter>"
        if query.get("encoding-type") == "url":
            inner += "<EncodingType>url</EncodingType>"
        if truncated:
            inner += f"<NextContinuationToken>{escape(last)}</NextContinuationToken><NextMarker>{shown(last)}</NextMarker>"
        return Answer(200, xml("ListBucketResult", inner + "".join(entries)), (("Content-Type", "application/xml"),))
