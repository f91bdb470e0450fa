"""Signatures of S3 requests (AWS Signature Version 4): the few lines of it that a request with an unsigned body needs.

A signature by botocore costs many times as much, most of it for what never changes between two parts of an upload.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from typing import Protocol
from urllib.parse import quote

__all__ = ["Keys", "Signer", "encode_query"]

_ALGORITHM = "AWS4-HMAC-SHA256"
#: The body is protected by its CRC32, which is a signed header.
_UNSIGNED = "UNSIGNED-PAYLOAD"


class Keys(Protocol):
    """Frozen credentials, as botocore has them."""

    access_key: str
    secret_key: str
    token: str | None


def encode_query(query: Mapping[str, str]) -> str:
    """Return the query of a URL, in the one form that is signed: sorted, everything escaped that may be."""
    pairs = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in query.items())
    return "&".join(f"{name}={value}" for name, value in pairs)


class Signer:
    """Signs requests for one host and region. The key derived from the secret is kept for as long as it is the same.

    Parameters
    ----------
    host : str
        As the header ``Host`` has it.
    region : str
        Of the bucket.
    clock : callable
        Seconds since the epoch.
    """

    def __init__(self, host: str, region: str, clock: Callable[[], float] = time.time) -> None:
        self._host = host
        self._region = region
        self._clock = clock
        self._derived: tuple[str, str, bytes] = ("", "", b"")

    def sign(self, method: str, path: str, query: str, headers: dict[str, str], keys: Keys) -> None:
        """Add to `headers` what makes the request an authentic one.

        Parameters
        ----------
        method, path, query : str
            As they go over the line, escaped.
        headers : dict
            With lower-case names; those that begin with ``x-amz-`` are signed.
        keys : Keys
            Whose signature it is.
        """
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._clock()))
        headers["host"] = self._host
        headers["x-amz-date"] = stamp
        headers["x-amz-content-sha256"] = _UNSIGNED
        if keys.token:
            headers["x-amz-security-token"] = keys.token
        signed = sorted(name for name in headers if name == "host" or name.startswith("x-amz-"))
        lines = "".join(f"{name}:{' '.join(headers[name].split())}\n" for name in signed)
        names = ";".join(signed)
        canonical = f"{method}\n{path}\n{query}\n{lines}\n{names}\n{_UNSIGNED}"
        scope = f"{stamp[:8]}/{self._region}/s3/aws4_request"
        text = f"{_ALGORITHM}\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = hmac.new(self._key(keys.secret_key, stamp[:8]), text.encode(), "sha256").hexdigest()
        headers["authorization"] = (
            f"{_ALGORITHM} Credential={keys.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
        )

    def _key(self, secret: str, day: str) -> bytes:
        if self._derived[:2] != (secret, day):
            key = f"AWS4{secret}".encode()
            for step in (day, self._region, "s3", "aws4_request"):
                key = hmac.new(key, step.encode(), "sha256").digest()
            self._derived = (secret, day, key)
        return self._derived[2]
