"""How an S3 store is reached: endpoint, credentials, encryption. Light to import."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ckpt_async.stores.s3.options import read_options, write_options

__all__ = ["S3Access", "S3Credentials"]


@dataclass(frozen=True)
class S3Credentials:
    """Keys of an S3 account; never shown in its ``repr``.

    Attributes
    ----------
    access_key, secret_key : str
        The pair of keys.
    token : str, optional
        Of temporary credentials.
    expires_at_s : float, optional
        When they expire, in seconds since the epoch, where that is known.
    """

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    expires_at_s: float | None = None


@dataclass(frozen=True)
class S3Access:
    """How a bucket is reached; without arguments, as the AWS libraries do by themselves (environment, profiles, roles).

    Attributes
    ----------
    endpoint_url : str, optional
        Of a server other than AWS.
    region : str, optional
        Of the bucket.
    verify : bool or str
        Whether certificates are checked; a path names a bundle of authorities.
    addressing_style : str
        ``"auto"``, ``"path"`` or ``"virtual"``.
    server_side_encryption : str, optional
        ``"AES256"``, ``"aws:kms"``: asked for with each object.
    sse_kms_key_id : str, optional
        The key for ``"aws:kms"``.
    max_attempts : int
        How often the client itself sends one request. 1: repeating is left to `ckpt_async.stores.retrying.Retrying`.
    anonymous : bool
        Send requests without a signature.
    credentials : callable, optional
        Returns the credentials, or None where there are none. Called in a thread, and again at least every ten minutes, before
        they expire and when the server refuses them, so that rotating credentials are followed. Where it raises, what it returned
        before is used until it expires, and it is called again. An object may also have a method ``forget``: it is called where it
        returns once more what the server has refused. Left out: the client library finds them.
    max_connections : int
        Connections at once; more than the requests at once.
    bucket_key : bool, optional
        Whether ``"aws:kms"`` uses a key of the bucket, which saves requests to KMS. Left out: as the bucket is configured.
    requester_pays : bool
        Requests say that their sender pays for them.
    checksums : str
        What goes along with each object and part, for the server to check: ``"crc32"``, which is known already; ``"md5"``, which
        costs 1.7 s of a core per GiB; ``"off"``. A server that does not know the first is asked for the second, by itself.
    conditional_writes : bool, optional
        Whether the server heeds the conditions of writes. Left out: found out with the first ones.
    connect_timeout_s, read_timeout_s : float
        How long a connection may take, and how long nothing may move on it.
    client_params : mapping
        Further values for ``aiobotocore.config.AioConfig``, such as ``proxies``; they beat ours. A mapping under ``"s3"`` is
        merged into ours.
    """

    endpoint_url: str | None = None
    region: str | None = None
    verify: bool | str = True
    addressing_style: str = "auto"
    server_side_encryption: str | None = None
    sse_kms_key_id: str | None = None
    max_attempts: int = 1
    anonymous: bool = False
    credentials: Callable[[], S3Credentials | None] | None = field(default=None, repr=False)
    max_connections: int = 64
    bucket_key: bool | None = None
    requester_pays: bool = False
    checksums: str = "crc32"
    conditional_writes: bool | None = None
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 60.0
    client_params: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Refuse what would otherwise mean no checksums at all."""
        read_options({"checksums": self.checksums, "addressing_style": self.addressing_style})

    def with_options(self, options: Mapping[str, object] | str) -> S3Access:
        """Return this access with other values for some of its fields, as `ckpt_async.stores.s3.options` reads them.

        Parameters
        ----------
        options : mapping or str
            For example ``{"checksums": "md5"}`` or ``"checksums:md5,requester_pays:true"``; empty: the same access.

        Raises
        ------
        InvalidArgument
            A name is not known, or a value is not allowed.
        """
        return dataclasses.replace(self, **read_options(options))

    @staticmethod
    def check_options(options: Mapping[str, object] | str) -> str:
        """Return options as text, after a check; raises like `with_options`."""
        return write_options(read_options(options))

