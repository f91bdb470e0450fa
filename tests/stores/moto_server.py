"""A server in the tests' own process that speaks S3, KMS and STS: moto. It believes every signature; a gate in front of it looks at
the keys, of which those expire that a test wants to.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

import botocore.session
from botocore.config import Config
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from ckpt_async.stores.s3.access import S3Access, S3Credentials

BUCKET = "bucket"
_KEY = re.compile(r"Credential=([^/]+)/")
_EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"


class _Quiet(WSGIRequestHandler):
    def log(self, *_: Any) -> None:
        return None


class MotoServer:
    """Serves S3 and STS with one bucket; a context manager.

    Attributes
    ----------
    requests : list of (str, str, str)
        Of each request for S3 the key that it was signed with, its method, and its path with the query.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lives: dict[str, int] = {}
        self._serves: Callable[[str], int | None] = lambda _: None
        self.requests: list[tuple[str, str, str]] = []
        self._server: BaseWSGIServer = make_server("127.0.0.1", 0, self._gate, threaded=True, request_handler=_Quiet)
        self._app = DomainDispatcherApplication(create_backend_app)
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self._server.port}"

    def __enter__(self) -> MotoServer:
        self._thread.start()
        client = botocore.session.get_session().create_client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name="us-east-1",
            aws_access_key_id="maker",
            aws_secret_access_key="secret",
            config=Config(s3={"addressing_style": "path"}),
        )
        client.create_bucket(Bucket=BUCKET)
        client.close()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()

    def expire(self, after: Callable[[str], int | None]) -> None:
        """Have keys expire, by their name: after so many requests, or never (None)."""
        with self._lock:
            self._serves = after
            self._lives.clear()
            self.requests.clear()

    def access(self, **more: object) -> S3Access:
        settings: dict[str, object] = {"credentials": lambda: S3Credentials("key", "secret"), **more}
        return S3Access(
            endpoint_url=self.endpoint_url,
            region="us-east-1",
            addressing_style="path",
            **settings,  # type: ignore[arg-type]
        )

    def _gate(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        signed = environ.get("HTTP_AUTHORIZATION", "")
        found = _KEY.search(signed)
        if found is not None and "/s3/aws4_request" in signed:
            with self._lock:
                key = found[1]
                query = environ.get("QUERY_STRING", "")
                self.requests.append((key, environ["REQUEST_METHOD"], environ["PATH_INFO"] + (f"?{query}" if query else "")))
                served = self._lives[key] = self._lives.get(key, 0) + 1
                lifetime = self._serves(key)
            if lifetime is not None and served > lifetime:
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start("400 Bad Request", [("Content-Type", "application/xml"), ("Content-Length", str(len(_EXPIRED)))])
                return [_EXPIRED]
        answer: Iterable[bytes] = self._app(environ, start)
        return answer
