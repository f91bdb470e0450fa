"""How a store on Azure Blob Storage is reached: endpoint and credential. Light to import."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["AzureAccess"]

ACCOUNT = "AZURE_STORAGE_ACCOUNT"
CONNECTION_STRING = "AZURE_STORAGE_CONNECTION_STRING"


@dataclass(frozen=True)
class AzureAccess:
    """How a container is reached; without arguments, as the variables of Azure's command line say.

    Attributes
    ----------
    endpoint_url : str, optional
        Of the storage account, such as ``https://ACCOUNT.blob.core.windows.net``. Left out: what
        ``AZURE_STORAGE_CONNECTION_STRING`` says, else that of ``AZURE_STORAGE_ACCOUNT``.
    credential : callable, optional
        Returns what azure-storage-blob takes as a credential: a token credential, a shared access signature, an account key.
        Called in a thread, once: a token credential renews its tokens by itself. Left out: that of the connection string,
        ``AZURE_STORAGE_KEY`` or ``AZURE_STORAGE_SAS_TOKEN``, else azure-identity's ``DefaultAzureCredential``.
    verify : bool or str
        Whether certificates are checked; a path names a bundle of authorities (left out: ``REQUESTS_CA_BUNDLE`` does).
    max_connections : int
        Connections, and threads, at once.
    connect_timeout_s, read_timeout_s : float
        How long a connection may take, and how long nothing may move on it.
    """

    endpoint_url: str | None = None
    credential: Callable[[], Any] | None = field(default=None, repr=False)
    verify: bool | str = True
    max_connections: int = 32
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 60.0

    @property
    def connection_string(self) -> str | None:
        """What the environment says, where nothing else is told."""
        if self.endpoint_url is not None or self.credential is not None:
            return None
        return os.environ.get(CONNECTION_STRING) or None

    @property
    def account_url(self) -> str | None:
        """The endpoint that is told, or follows from the name of the account; None where there is neither."""
        account = os.environ.get(ACCOUNT)
        return self.endpoint_url or (f"https://{account}.blob.core.windows.net" if account else None)
