"""The direct path for requests with data: signed and sent by our own few lines over our own connections.

Where a bucket is and how its requests look is asked of botocore, once; of its work for each request only the signature is left.
What this path does not know (proxies, client certificates, other kinds of signatures, further settings) goes botocore's way.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from botocore.exceptions import ClientError
from botocore.utils import get_environ_proxies

from ckpt_async.stores.contract import Chunk
from ckpt_async.stores.http_answer import HttpAnswer
from ckpt_async.stores.http_client import HttpClient, Sending
from ckpt_async.stores.s3.access import S3Access
from ckpt_async.stores.s3.client import S3Client
from ckpt_async.stores.s3.signing import Keys, Signer, encode_query

__all__ = ["DirectPath", "Place", "find_place", "place_of"]

_PROBE = "ckpt-async"
_BEFORE_SEND = "before-send.s3.GetObject"
_SCOPE = re.compile(r"AWS4-HMAC-SHA256 Credential=[^/]+/\d{8}/([^/,]+)/s3/aws4_request,")
_METHODS = {"put_object": "PUT", "upload_part": "PUT", "get_object": "GET"}
_HEADERS = {
    "BucketKeyEnabled": "x-amz-server-side-encryption-bucket-key-enabled",
    "ChecksumCRC32": "x-amz-checksum-crc32",
    "ContentMD5": "content-md5",
    "IfMatch": "if-match",
    "IfNoneMatch": "if-none-match",
    "Range": "range",
    "RequestPayer": "x-amz-request-payer",
    "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
    "ServerSideEncryption": "x-amz-server-side-encryption",
}
_QUERY = {"PartNumber": "partNumber", "UploadId": "uploadId"}
_ERROR = re.compile(rb"<(Code|Message)>(.*?)</\1>", re.DOTALL)


@dataclass(frozen=True)
class Place:
    """Where a bucket is.

    Attributes
    ----------
    scheme, host, port
        Of the server; the host as the header has it, with a port that is not the usual one.
    base : str
        The path in front of every key.
    region : str
        That requests are signed for.
    """

    scheme: str
    host: str
    port: int
    base: str
    region: str


class _NotSent(Exception):
    """Carries a request that botocore has made ready."""

    def __init__(self, url: str, headers: Mapping[str, Any]) -> None:
        super().__init__(url)
        self.url = url
        self.headers = {name.lower(): _text(value) for name, value in headers.items()}


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _header(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def place_of(url: str, headers: Mapping[str, str]) -> Place | None:
    """Return the place to which a request for the key ``ckpt-async`` goes; None where it is signed in another way than ours.

    Parameters
    ----------
    url : str
        Of the request.
    headers : mapping
        With lower-case names.
    """
    scope = _SCOPE.match(headers.get("authorization", ""))
    parts = urlsplit(url)
    if scope is None or "x-amz-s3session-token" in headers or parts.query or not parts.path.endswith(f"/{_PROBE}"):
        return None
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return Place(parts.scheme, parts.netloc, port, parts.path.removesuffix(_PROBE), scope[1])


async def find_place(client: S3Client, bucket: str, access: S3Access) -> Place | None:
    """Let botocore make a request ready, and look where it would go; nothing is sent. None: requests must go botocore's way."""
    if access.anonymous or access.client_params:
        return None

    def stop(request: Any, **_: object) -> None:
        if urlsplit(request.url).path.endswith(f"/{_PROBE}"):
            raise _NotSent(request.url, request.headers)

    client.events.register(_BEFORE_SEND, stop)
    try:
        await client.call("get_object", Bucket=bucket, Key=_PROBE)
    except _NotSent as found:
        return None if get_environ_proxies(found.url) else place_of(found.url, found.headers)
    finally:
        client.events.unregister(_BEFORE_SEND, stop)
    return None


class DirectPath:
    """Sends requests to one bucket.

    Parameters
    ----------
    place : Place
        Where it is.
    tls : ssl.SSLContext or None
        What is trusted; None: in the clear.
    connect_timeout_s : float
        How long a connection may take.
    """

    def __init__(self, place: Place, tls: ssl.SSLContext | None, connect_timeout_s: float) -> None:
        self._place = place
        self._signer = Signer(place.host, place.region)
        self._http = HttpClient(urlsplit(f"//{place.host}").hostname or "", place.port, tls, connect_timeout_s)

    @property
    def place(self) -> Place:
        """Where the bucket is."""
        return self._place

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    async def send(
        self,
        operation: str,
        key: str,
        params: Mapping[str, Any],
        body: Sequence[Chunk],
        size_bytes: int,
        keys: Keys,
        how: Sending,
        into: memoryview | None = None,
    ) -> HttpAnswer:
        """Send one request; its parameters have the names that botocore gives them. A range is read into `into`, if that is given.

        Raises
        ------
        botocore.exceptions.ClientError
            The server refused it.
        OSError
            The line failed.
        """
        path = self._place.base + quote(key, safe="/-_.~")
        query = encode_query({_QUERY[name]: str(value) for name, value in params.items() if name in _QUERY})
        headers = {_HEADERS[name]: _header(value) for name, value in params.items() if name not in _QUERY}
        method = _METHODS[operation]
        self._signer.sign(method, path, query, headers, keys)
        target = f"{path}?{query}" if query else path
        head = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "User-Agent: ckpt-async"]
        answer = await self._http.exchange(head, body, size_bytes, how, into)
        if not 200 <= answer.status < 300:
            raise _refusal(operation, answer)
        return answer


def _refusal(operation: str, answer: HttpAnswer) -> ClientError:
    found = {name.decode(): text.decode(errors="replace") for name, text in _ERROR.findall(bytes(answer.body))}
    error = {"Code": found.get("Code", str(answer.status)), "Message": found.get("Message", "")}
    about = {"HTTPStatusCode": answer.status, "HTTPHeaders": answer.headers}
    return ClientError({"Error": error, "ResponseMetadata": about}, operation)
