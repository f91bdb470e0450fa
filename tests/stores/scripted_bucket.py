"""A bucket in memory behind a scripted server: it answers as AWS does, but for what a test has it refuse or pass by."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable

from ckpt_async.stores.s3.store import S3Store
from tests.stores.scripted_server import Answer, Request, error_answer


class Bucket:
    """A bucket in memory, on a server that answers as AWS does, but for what `refuse` answers and what it takes no notice of."""

    def __init__(
        self, refuse: Callable[[Request], Answer | None] = lambda _: None, *, heeds: bool = True, echoes: bool = True
    ) -> None:
        self.objects: dict[str, bytes] = {}
        self._refuse = refuse
        self._heeds = heeds
        self._echoes = echoes

    def __call__(self, request: Request) -> Answer:
        refused = self._refuse(request)
        if refused is not None:
            return refused
        path, _, query = request.path.partition("?")
        key = path.removeprefix("/bucket").lstrip("/")
        if request.method == "POST":
            return self._post(request, query)
        if request.method == "DELETE":
            return Answer(204) if self.objects.pop(key, None) is not None else error_answer(404, "NoSuchKey")
        if not key:
            return self._list(query) if request.method == "GET" else Answer()
        if request.method == "PUT":
            return self._put(key, request)
        if key not in self.objects:
            return error_answer(404, "NoSuchKey")
        return Answer(200, self.objects[key], {"ETag": etag_of(self.objects[key])})

    def _put(self, key: str, request: Request) -> Answer:
        held = self.objects.get(key)
        if self._heeds:
            wanted = request.headers.get("if-match")
            if ("if-none-match" in request.headers and held is not None) or (
                wanted is not None and (held is None or etag_of(held) != wanted)
            ):
                return error_answer(412, "PreconditionFailed")
        if "content-md5" in request.headers and request.headers["content-md5"] != md5_of(request.body):
            return error_answer(400, "BadDigest")
        self.objects[key] = request.body
        told = {name: request.headers[name] for name in ("x-amz-checksum-crc32",) if self._echoes and name in request.headers}
        return Answer(200, b"", {"ETag": etag_of(request.body), **told})

    def _post(self, request: Request, query: str) -> Answer:
        xml = {"Content-Type": "application/xml"}
        if query == "delete":
            for key in re.findall(rb"<Key>(.*?)</Key>", request.body):
                self.objects.pop(key.decode(), None)
            return Answer(200, b"<DeleteResult></DeleteResult>", xml)
        if query == "uploads":
            told = {
                name: request.headers[f"x-amz-checksum-{name}"]
                for name in ("algorithm", "type")
                if f"x-amz-checksum-{name}" in request.headers
            }
            begun = b"<InitiateMultipartUploadResult><UploadId>id</UploadId></InitiateMultipartUploadResult>"
            return Answer(200, begun, xml | {f"x-amz-checksum-{name}": value for name, value in told.items()})
        return Answer(200, b'<CompleteMultipartUploadResult><ETag>"e-1"</ETag></CompleteMultipartUploadResult>', xml)

    def _list(self, query: str) -> Answer:
        marker = re.search(r"marker=([^&]*)", query)
        left = [key for key in sorted(self.objects) if marker is None or key > marker[1].replace("%2F", "/")]
        page = "".join(f"<Contents><Key>{key}</Key><Size>1</Size><ETag>e</ETag></Contents>" for key in left[:2])
        more = str(len(left) > 2).lower()
        return Answer(
            200,
            f"<ListBucketResult><IsTruncated>{more}</IsTruncated>{page}</ListBucketResult>".encode(),
            {"Content-Type": "application/xml"},
        )


def etag_of(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


def md5_of(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content).digest()).decode()


def refusing(header: str, answer: Answer) -> Callable[[Request], Answer | None]:
    return lambda request: answer if any(header in name for name in request.headers) else None


def told(store: S3Store) -> list[str]:
    """What the user is told of the server; of the library something may be told too."""
    return [text for text in store.traits.notices if text.startswith("s3://")]
