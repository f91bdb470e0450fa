"""How a store on Google Cloud Storage is reached: endpoint and credentials. Light to import."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["GcsAccess"]


@dataclass(frozen=True)
class GcsAccess:
    """How a bucket is reached; without arguments, as Google's libraries do by themselves.

    Attributes
    ----------
    endpoint_url : str, optional
        Of another server than Google's; left out: what ``STORAGE_EMULATOR_HOST`` says, else Google's.
    credentials : callable, optional
        Returns a ``google.auth.credentials.Credentials``. Called in a thread, once: such an object renews its tokens by itself.
        Left out: the application default credentials; with ``STORAGE_EMULATOR_HOST``, none.
    verify : bool or str
        Whether certificates are checked; a path names a bundle of authorities (left out: ``REQUESTS_CA_BUNDLE`` does).
    max_connections : int
        Connections, and threads, at once.
    connect_timeout_s, read_timeout_s : float
        How long a connection may take, and how long nothing may move on it.
    """

    endpoint_url: str | None = None
    credentials: Callable[[], Any] | None = field(default=None, repr=False)
    verify: bool | str = True
    max_connections: int = 32
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 60.0
