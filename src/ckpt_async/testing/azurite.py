"""A server for tests that speaks the protocol of Azure Blob Storage: Azurite, Microsoft's own, a program for Node.js.

Needs the Python package ``trustme``: it takes tokens over TLS alone.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from ckpt_async.testing.ports import HOST
from ckpt_async.testing.server_program import ServerProgram

__all__ = ["ACCOUNT", "ACCOUNT_KEY", "AzuriteServer", "TestToken"]

START_TIMEOUT_S = 120.0

#: Azurite's own, known to everybody.
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
TENANT = "ab1f708d-50f6-404c-a006-d71b2ac7a606"
AUDIENCE = "https://storage.azure.com"


class TestToken:
    """A credential that gives out tokens that Azurite takes: it looks at what they say, not at who signed them.

    Parameters
    ----------
    lifetime_s : float
        How long each is valid.
    clock : callable
        Seconds since the epoch.

    Attributes
    ----------
    given : int
        How many it has given out.
    """

    __test__ = False

    def __init__(self, lifetime_s: float = 3600.0, clock: Callable[[], float] = time.time) -> None:
        self._lifetime_s = lifetime_s
        self._clock = clock
        self.given = 0

    def get_token(self, *scopes: str, **more: Any) -> Any:
        """Return a new one."""
        from azure.core.credentials import AccessToken  # only where it is used

        self.given += 1
        now_s = int(self._clock())
        expires_s = now_s + int(self._lifetime_s)
        claims = {
            "aud": AUDIENCE, "iss": f"https://sts.windows.net/{TENANT}/", "tid": TENANT, "iat": now_s - 60, "nbf": now_s - 60,
            "exp": expires_s, "number": self.given,
        }  # fmt: skip
        parts = ({"alg": "RS256", "typ": "JWT"}, claims)
        text = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
        return AccessToken(f"{text}.c2lnbmF0dXJl", expires_s)


class AzuriteServer:
    """An Azurite of its own, on a free port of 127.0.0.1, that keeps its blobs in memory; a context manager.

    Parameters
    ----------
    command : sequence of str
        What starts its blob service, such as ``["node", ".../azurite/dist/src/blob/main.js"]``.

    Attributes
    ----------
    endpoint_url : str
        Where it answers, once entered.
    authority : str
        The path of a file with the authority that its certificate is from: for ``REQUESTS_CA_BUNDLE``.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._folder = tempfile.TemporaryDirectory(prefix="ckpt-async-azurite-")
        self._program = ServerProgram(self._folder.name, self._command_on, self._answers, START_TIMEOUT_S)
        self.host = HOST
        self.authority = os.path.join(self._folder.name, "authority.pem")

    @property
    def endpoint_url(self) -> str:
        """Where it answers."""
        return f"https://{self.host}:{self._program.port}/{ACCOUNT}"

    def __enter__(self) -> AzuriteServer:
        try:
            self._make_certificate()
            self._program.start()
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._program.stop()
        self._folder.cleanup()

    def make_container(self, container: str) -> None:
        """Make a container; one that is there already is fine."""
        from azure.core.exceptions import ResourceExistsError
        from azure.storage.blob import ContainerClient  # heavy: only where it is used

        with ContainerClient(self.endpoint_url, container, credential=ACCOUNT_KEY, connection_verify=self.authority) as client:
            try:
                client.create_container()
            except ResourceExistsError:
                pass

    def _make_certificate(self) -> None:
        import trustme

        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.authority)
        own = authority.issue_cert(HOST)
        own.private_key_pem.write_to_path(os.path.join(self._folder.name, "key.pem"))
        for index, pem in enumerate(own.cert_chain_pems):
            pem.write_to_path(os.path.join(self._folder.name, "certificate.pem"), append=index > 0)

    def _command_on(self, port: int) -> list[str]:
        return [
            *self._command, "--blobHost", HOST, "--blobPort", str(port), "--inMemoryPersistence", "--silent",
            "--skipApiVersionCheck", "--disableTelemetry", "--oauth", "basic", "--cert", "certificate.pem", "--key", "key.pem",
        ]  # fmt: skip

    def _answers(self) -> bool:
        context = ssl.create_default_context(cafile=self.authority)
        try:
            with (
                socket.create_connection((self.host, self._program.port), timeout=2) as plain,
                context.wrap_socket(plain, server_hostname=self.host),
            ):
                return True
        except OSError:
            return False
