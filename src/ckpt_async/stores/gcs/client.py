"""Requests to Google Cloud Storage, by the session of Google's own library: it signs them and renews tokens.

Objects are sent and read by our own requests of its JSON interface, not by the methods of ``google.cloud.storage``: those join a
body in memory before they send it, and repeat by themselves. Blocks, so it runs in threads.
"""

from __future__ import annotations

import base64
import email.parser
import email.policy
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

import google.auth
import google.auth.credentials
import google.auth.exceptions
import google_crc32c
import requests
from google.auth.transport.requests import AuthorizedSession
from requests.adapters import HTTPAdapter

from ckpt_async.stores.access import ask_for_credentials
from ckpt_async.stores.contract import Body
from ckpt_async.stores.gcs.access import GcsAccess
from ckpt_async.stores.gcs.errors import GcsRefusal, translate_gcs
from ckpt_async.stores.in_threads import Call, PacedBody, Patience
from ckpt_async.words.errors import StoreError

__all__ = ["GcsClient", "crc32c_of"]

GOOGLE = "https://storage.googleapis.com"
EMULATOR = "STORAGE_EMULATOR_HOST"
SCOPES = ("https://www.googleapis.com/auth/devstorage.read_write",)
READ_BYTES = 1 << 18
PAGE_KEYS = 1000
#: What is asked for of an object.
FIELDS = "name,size,generation,crc32c,metadata"


def crc32c_of(body: Body) -> str:
    """Return the CRC-32C of a body as Google writes it: what the server compares with the bytes that it has got."""
    crc = 0
    for chunk in body.chunks:
        view = memoryview(chunk)
        for start in range(0, len(view), READ_BYTES):
            # The library takes nothing but bytes.
            crc = google_crc32c.extend(crc, bytes(view[start : start + READ_BYTES]))
    return base64.b64encode(crc.to_bytes(4, "big")).decode()


class GcsClient:
    """A bucket, reached through one session.

    Parameters
    ----------
    bucket : str
        Its name.
    access : GcsAccess
        How it is reached.
    """

    def __init__(self, bucket: str, access: GcsAccess) -> None:
        emulator = os.environ.get(EMULATOR)
        self._endpoint = (access.endpoint_url or _with_scheme(emulator) or GOOGLE).rstrip("/")
        self._bucket = quote(bucket, safe="")
        if access.credentials is not None:
            credentials = ask_for_credentials(access.credentials, (google.auth.exceptions.GoogleAuthError,))
        elif emulator:
            credentials = google.auth.credentials.AnonymousCredentials()
        else:
            credentials, _ = google.auth.default(scopes=SCOPES)
        credentials = google.auth.credentials.with_scopes_if_required(credentials, SCOPES)
        self._session = AuthorizedSession(credentials)
        self._session.verify = access.verify
        adapter = HTTPAdapter(pool_connections=1, pool_maxsize=access.max_connections)
        self._session.mount(f"{urlsplit(self._endpoint).scheme}://", adapter)
        self._timeouts_s = (access.connect_timeout_s, access.read_timeout_s)
        self.patience = Patience(access.max_connections, access.connect_timeout_s + access.read_timeout_s)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def refused(self, error: Exception) -> bool:
        """Never: the session itself renews a token that is refused, and sends once more."""
        return False

    def translate(self, error: Exception, attempted: str, on: str) -> StoreError | None:
        """As `translate_gcs`."""
        return translate_gcs(error, attempted, on)

    def _send(
        self,
        method: str,
        path: str,
        params: Mapping[str, str],
        headers: Mapping[str, str],
        body: PacedBody | bytes | None,
        stream: bool,
    ) -> requests.Response:
        # The timeouts are for each connection and each read; what all of it may take is the caller's.
        return self._session.request(
            method, self._endpoint + path, params=dict(params), headers=dict(headers), data=body, timeout=self._timeouts_s,
            max_allowed_time=None, stream=stream, allow_redirects=False,
        )  # fmt: skip

    def _ask(
        self, method: str, path: str, params: Mapping[str, str] | None = None, content: Any = None, body: PacedBody | None = None,
        content_type: str = "application/json",
    ) -> bytes:  # fmt: skip
        """Send one request and return the content of its answer; raises GcsRefusal."""
        data = body if body is not None else None if content is None else json.dumps(content).encode()
        headers = {} if data is None else {"Content-Type": content_type}
        answer = self._send(method, path, params or {}, headers, data, stream=False)
        if answer.status_code >= 300:
            raise GcsRefusal(answer.status_code, answer.content)
        return bytes(answer.content)

    def _object_path(self, name: str) -> str:
        return f"/storage/v1/b/{self._bucket}/o/{quote(name, safe='')}"

    def insert(self, call: Call, name: str, body: Body, crc32c: str, params: Mapping[str, str]) -> Any:
        """Store an object with its checksum; return what the server says of it."""
        boundary = secrets.token_hex(16)
        meta = json.dumps({"name": name, "crc32c": crc32c, "contentType": "application/octet-stream"})
        kind = "Content-Type: application/json; charset=UTF-8"
        head = f"--{boundary}\r\n{kind}\r\n\r\n{meta}\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n"
        sent = call.stream(body, head.encode(), f"\r\n--{boundary}--\r\n".encode())
        assert isinstance(sent, PacedBody)
        return _object_in(
            self._ask(
                "POST",
                f"/upload/storage/v1/b/{self._bucket}/o",
                {"uploadType": "multipart", "fields": FIELDS, **params},
                body=sent,
                content_type=f"multipart/related; boundary={boundary}",
            )
        )

    def look(self, name: str) -> Any:
        """Return what the server says of an object."""
        return _object_in(self._ask("GET", self._object_path(name), {"fields": FIELDS}))

    def read(
        self, call: Call, name: str, offset: int, end: int | None, generation: str | None, into: memoryview | None
    ) -> bytes | int:
        """Return the bytes from `offset` up to `end`, or put them into memory of the caller's and return their number."""
        params = {"alt": "media"} | ({} if generation is None else {"ifGenerationMatch": generation})
        # As it is stored: an object that somebody marked as gzip must not be unpacked.
        headers = {"Accept-Encoding": "gzip"}
        if offset or end is not None:
            headers["Range"] = f"bytes={offset}-{'' if end is None else end - 1}"
        with self._send("GET", f"/download{self._object_path(name)}", params, headers, None, stream=True) as answer:
            if answer.status_code == 416:
                # It begins behind the end of the object.
                return b"" if into is None else 0
            if answer.status_code >= 300:
                raise GcsRefusal(answer.status_code, answer.content)
            found = answer.headers.get("x-goog-generation")
            if found is None:
                raise ConnectionError("that is no answer of the store: it names no generation")
            if generation not in (None, found):
                raise GcsRefusal(412, b"the object is not the expected one")
            skip = offset if answer.status_code == 200 else 0
            promised = answer.headers.get("content-length")
            return _read_all(
                call, answer, skip, None if promised is None else int(promised), None if end is None else end - offset, into
            )

    def page(self, prefix: str, token: str | None, count: int | None = None) -> Any:
        """Return one page of a listing."""
        params = {
            "prefix": prefix,
            "maxResults": str(count or PAGE_KEYS),
            "fields": "items(name,size,generation,updated),nextPageToken",
        }
        if token:
            params["pageToken"] = token
        return _json_in(self._ask("GET", f"/storage/v1/b/{self._bucket}/o", params))

    def rewrite(self, call: Call, source: str, name: str, generation: str) -> Any:
        """Copy an object inside the bucket; return what the server says of the copy."""
        path = f"{self._object_path(source)}/rewriteTo/b/{self._bucket}/o/{quote(name, safe='')}"
        params = {"ifSourceGenerationMatch": generation}
        while True:
            answer = _json_in(self._ask("POST", path, params, {}))
            call.moved()
            if answer.get("done", True):
                return answer["resource"]
            params["rewriteToken"] = answer["rewriteToken"]

    def compose(self, sources: Sequence[tuple[str, str]], name: str, metadata: Mapping[str, str]) -> Any:
        """Join up to 32 objects, each given by name and generation; return what the server says of the result."""
        parts = [
            {"name": source, "generation": generation, "objectPreconditions": {"ifGenerationMatch": generation}}
            for source, generation in sources
        ]
        destination = {"contentType": "application/octet-stream", "metadata": dict(metadata)}
        content = {"kind": "storage#composeRequest", "sourceObjects": parts, "destination": destination}
        return _object_in(self._ask("POST", f"{self._object_path(name)}/compose", {}, content))

    def delete(self, name: str) -> None:
        """Delete an object; raises GcsRefusal where there is none."""
        self._ask("DELETE", self._object_path(name))

    def delete_batch(self, names: Sequence[str]) -> list[GcsRefusal]:
        """Delete up to 100 objects by one request; return the refusals."""
        boundary = secrets.token_hex(16)
        calls = [
            f"--{boundary}\r\nContent-Type: application/http\r\nContent-ID: <{number}>\r\n\r\n"
            f"DELETE {self._object_path(name)} HTTP/1.1\r\n\r\n\r\n"
            for number, name in enumerate(names)
        ]
        data = "".join([*calls, f"--{boundary}--\r\n"]).encode()
        headers = {"Content-Type": f"multipart/mixed; boundary={boundary}"}
        answer = self._send("POST", "/batch/storage/v1", {}, headers, data, stream=False)
        if answer.status_code >= 300:
            raise GcsRefusal(answer.status_code, answer.content)
        answers = _parts_of(answer)
        if len(answers) != len(names):
            raise ConnectionError(f"{len(answers)} answers to a batch of {len(names)}")
        return [GcsRefusal(status, content) for status, content in answers if status >= 300]


def _json_in(content: bytes) -> Any:
    try:
        found = json.loads(content)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        # A proxy, or the network of a hotel, says that all is well.
        raise ConnectionError(f"that is no answer of the store: {content[:40]!r}")
    return found


def _object_in(content: bytes) -> Any:
    found = _json_in(content)
    if "generation" not in found or "name" not in found:
        raise ConnectionError(f"that is no answer of the store: {content[:40]!r}")
    return found


def _with_scheme(host: str | None) -> str | None:
    return host if not host or "://" in host else f"http://{host}"


def _read_all(
    call: Call, answer: requests.Response, skip: int, promised: int | None, wanted: int | None, into: memoryview | None
) -> bytes | int:
    """Read an answer's body, without `skip` bytes of its beginning (a server without ranges sends the whole)."""
    pieces: list[bytes] = []
    got = done = 0
    while wanted is None or done < wanted:
        piece = answer.raw.read(READ_BYTES, decode_content=False)
        if not piece:
            break
        call.moved()
        got += len(piece)
        useful = piece[max(0, skip - (got - len(piece))) :]
        if wanted is not None:
            useful = useful[: wanted - done]
        if into is not None:
            call.fill(into[done:], useful)
        else:
            pieces.append(useful)
        done += len(useful)
    # Nothing was cut off by us: then it must be all that was promised.
    if promised is not None and got < promised and (wanted is None or done < wanted):
        raise ConnectionError(f"the answer ended after {got} of {promised} bytes")
    if into is not None:
        return done
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _parts_of(answer: requests.Response) -> list[tuple[int, bytes]]:
    """Return status and content of each answer in the answer to a batch."""
    head = f"Content-Type: {answer.headers.get('content-type', '')}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + answer.content)
    found = []
    for part in message.iter_parts():
        payload = part.get_payload(decode=True)
        assert isinstance(payload, bytes)
        first, _, rest = payload.lstrip().partition(b"\r\n")
        words = first.split(b" ", 2)
        if len(words) < 2 or not words[1].isdigit():
            raise ConnectionError(f"that is no answer of a batch: {first[:40]!r}")
        found.append((int(words[1]), rest.partition(b"\r\n\r\n")[2]))
    return found
