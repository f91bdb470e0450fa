"""An HTTP server that answers what a test says: for answers that a real store can't be made to give."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What is sent: a status, headers, a body; `promised` overrides the length that is announced."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    promised: int | None = None


#: Instead of an answer: reset the connection; read the request and never answer; read nothing at all.
RESET, SILENCE, DEAF = "reset", "silence", "deaf"
Script = Callable[[Request], "Answer | str"]


def error_answer(status: int, code: str, message: str = "as the test says") -> Answer:
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Answer(status, body.encode(), {"Content-Type": "application/xml"})


class ScriptedServer:
    """Listens on a free port of this machine, one thread per connection; closes each after one answer.

    Parameters
    ----------
    script : callable or sequence
        From a request to an answer; a sequence is used up in order, its last member repeated.
    host : str
        The address that it listens on.
    """

    def __init__(self, script: Script | Sequence[Answer | str], host: str = "127.0.0.1") -> None:
        self._script = script
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._ending = threading.Event()
        self.requests: list[Request] = []
        self._listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.port = int(self._listener.getsockname()[1])

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> ScriptedServer:
        self._start(self._accept)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ending.set()
        # Closing alone does not wake a thread that accepts.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for opened in self._sockets:
                try:
                    opened.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # closed already
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._ending.is_set():
            try:
                opened, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._sockets.append(opened)
            self._start(self._serve, opened)

    def _serve(self, opened: socket.socket) -> None:
        with opened:
            try:
                self._answer(opened)
            except OSError:
                return  # the client went away, or the test is over

    def _answer(self, opened: socket.socket) -> None:
        if self._script == [DEAF]:
            self._ending.wait()
            return
        stream = opened.makefile("rb")
        with stream:
            first = stream.readline().decode().split()
            if not first:
                return
            headers = {}
            while (line := stream.readline().strip()) != b"":
                name, _, value = line.decode().partition(":")
                headers[name.lower()] = value.strip()
            if headers.get("expect") == "100-continue":
                opened.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = stream.read(int(headers.get("content-length", 0)))
        request = Request(first[0], first[1], headers, body)
        with self._lock:
            number = len(self.requests)
            self.requests.append(request)
        if callable(self._script):
            answer = self._script(request)
        else:
            answer = self._script[min(number, len(self._script) - 1)]
        if answer == SILENCE:
            self._ending.wait()
        elif answer == RESET:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            assert isinstance(answer, Answer)
            length = len(answer.body) if answer.promised is None else answer.promised
            lines = [f"HTTP/1.1 {answer.status} Scripted", f"Content-Length: {length}", "Connection: close"]
            lines += [f"{name}: {value}" for name, value in answer.headers.items()]
            opened.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if request.method == "HEAD" else answer.body))
