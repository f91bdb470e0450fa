"""Requests and answers of S3 as the sink reads and writes them: bodies of which only the small ones are kept, headers, XML."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

DATE = "Thu, 01 Jan 2026 00:00:00 GMT"
ISO_DATE = "2026-01-01T00:00:00.000Z"
REASONS = {200: "OK", 204: "No Content", 206: "Partial Content", 304: "Not Modified", 404: "Not Found", 412: "Precondition Failed"}


class S3Problem(Exception):
    """An error answer: status and code."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status, self.code = status, code


@dataclass
class Request:
    """One request; `body` is empty where its bytes were dropped."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    keep_below_bytes: int
    size_bytes: int = 0
    body: bytearray = field(default_factory=bytearray)

    @classmethod
    def parse(cls, head: str, keep_below_bytes: int) -> Request:
        first, *lines = head.split("\r\n")
        method, target, _ = first.split(" ", 2)
        path, _, query = target.partition("?")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return cls(method, unquote(path), dict(parse_qsl(query, keep_blank_values=True)), headers, keep_below_bytes)

    def take(self, view: memoryview) -> None:
        """Take the next bytes of the body; too many are counted and forgotten."""
        self.size_bytes += len(view)
        if self.method == "POST" or self.size_bytes < self.keep_below_bytes:
            self.body += view
        elif self.body:
            self.body = bytearray()

    def content(self) -> Content:
        """What the body stands for."""
        wrapped = "x-amz-decoded-content-length" in self.headers
        size_bytes = int(self.headers["x-amz-decoded-content-length"]) if wrapped else self.size_bytes
        if self.method != "POST" and self.size_bytes >= self.keep_below_bytes:
            return Content(size_bytes, None)
        return Content(size_bytes, unwrapped(bytes(self.body)) if wrapped else bytes(self.body))


def unwrapped(body: bytes) -> bytes:
    """The payload of a body in the form ``aws-chunked``."""
    found, position = [], 0
    while True:
        end = body.index(b"\r\n", position)
        size_bytes = int(body[position:end].partition(b";")[0], 16)
        if not size_bytes:
            return b"".join(found)
        found.append(body[end + 2 : end + 2 + size_bytes])
        position = end + 2 + size_bytes + 2


@dataclass(frozen=True)
class Content:
    """Bytes, or only their number: then they are zero."""

    size_bytes: int
    kept: bytes | None

    def cut(self, start: int, stop: int) -> Content:
        return Content(max(0, stop - start), None if self.kept is None else self.kept[start:stop])


@dataclass(frozen=True)
class Stored:
    """An object, or a part of one."""

    content: Content
    etag: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Answer:
    """Status, body and headers; the body goes on with so many zero bytes."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    zeros_bytes: int = 0

    def encode(self, *, with_body: bool) -> bytes:
        lines = [f"HTTP/1.1 {self.status} {REASONS.get(self.status, 'Error')}", "Server: sink", f"Date: {DATE}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if self.status != 204:
            lines.append(f"Content-Length: {len(self.body) + self.zeros_bytes}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + (self.body if with_body else b"")


def xml(root: str, inner: str) -> bytes:
    space = "http://s3.amazonaws.com/doc/2006-03-01/"
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} xmlns="{space}">{inner}</{root}>'.encode()


def texts(element: ElementTree.Element, name: str) -> list[str]:
    """The texts of all elements of that name, whatever their namespace."""
    return [found.text or "" for found in element.iter() if found.tag.rpartition("}")[2] == name]


def kept_headers(request: Request) -> tuple[tuple[str, str], ...]:
    """What is given back with the object: its type and the user's own fields."""
    return tuple((name, value) for name, value in request.headers.items() if name == "content-type" or name[:11] == "x-amz-meta-")


def checksums(request: Request) -> tuple[tuple[str, str], ...]:
    """The checksum that came with a request; S3 says in its answer that it has it."""
    return tuple((name, value) for name, value in request.headers.items() if name.startswith("x-amz-checksum-"))


def copied(root: str, stored: Stored) -> bytes:
    return xml(root, f"<ETag>{escape(stored.etag)}</ETag><LastModified>{ISO_DATE}</LastModified>")


def read_range(first: str, last: str, size_bytes: int) -> tuple[int, int]:
    """Start and end of a range; of ``-n`` the last n bytes."""
    if not first:
        return max(0, size_bytes - int(last)), size_bytes
    start, stop = int(first), min(size_bytes, int(last) + 1) if last else size_bytes
    if start >= size_bytes:
        raise S3Problem(416, "InvalidRange")
    return start, stop
