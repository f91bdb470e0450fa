"""The line itself, in front of an echo: later tests trust it."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from ckpt_async.testing.slow_line import SlowLine


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        try:
            while data := self.request.recv(65536):
                self.request.sendall(data)
        except OSError:
            return


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = False
    allow_reuse_address = True


@pytest.fixture
def echo_port() -> Iterator[int]:
    with _Server(("127.0.0.1", 0), _Echo) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def exchange(opened: socket.socket, content: bytes) -> bytes:
    sender = threading.Thread(target=opened.sendall, args=(content,))
    sender.start()
    received = bytearray()
    while len(received) < len(content):
        piece = opened.recv(65536)
        if not piece:
            break
        received += piece
    sender.join()
    return bytes(received)


def test_bytes_go_through_and_are_counted(echo_port: int) -> None:
    content = bytes(range(256)) * 8000
    with SlowLine("127.0.0.1", echo_port) as line:
        with socket.create_connection((line.host, line.port), timeout=30) as opened:
            assert exchange(opened, content) == content
        line.wait_for_upstream(len(content))
        assert line.upstream_bytes == len(content)
        assert line.connections == 1


def test_the_rate_is_shared_by_all_connections(echo_port: int) -> None:
    content = b"x" * 200_000
    with SlowLine("127.0.0.1", echo_port, bytes_per_s=1_000_000) as line:
        begun_s = time.monotonic()

        def one() -> None:
            with socket.create_connection((line.host, line.port), timeout=30) as opened:
                assert exchange(opened, content) == content

        threads = [threading.Thread(target=one) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # Never faster than the line; slower is the machine's business.
        assert time.monotonic() - begun_s > 0.55


def test_latency(echo_port: int) -> None:
    with SlowLine("127.0.0.1", echo_port, latency_s=0.1) as line:
        with socket.create_connection((line.host, line.port), timeout=30) as opened:
            begun_s = time.monotonic()
            assert exchange(opened, b"ping") == b"ping"
            assert time.monotonic() - begun_s > 0.19


def test_an_end_of_one_direction_is_passed_on(echo_port: int) -> None:
    with SlowLine("127.0.0.1", echo_port) as line:
        with socket.create_connection((line.host, line.port), timeout=30) as opened:
            opened.sendall(b"last words")
            opened.shutdown(socket.SHUT_WR)
            with opened.makefile("rb") as stream:
                assert stream.read() == b"last words"


def test_cut_and_restore(echo_port: int) -> None:
    with SlowLine("127.0.0.1", echo_port) as line:
        with socket.create_connection((line.host, line.port), timeout=30) as opened:
            assert exchange(opened, b"ping") == b"ping"
            line.cut()
            with pytest.raises(ConnectionError):
                for _ in range(1000):
                    opened.sendall(b"x")
                    if not opened.recv(1):
                        raise ConnectionError("closed")
        with pytest.raises(ConnectionError):
            socket.create_connection((line.host, line.port), timeout=5)
        line.restore()
        with socket.create_connection((line.host, line.port), timeout=30) as opened:
            assert exchange(opened, b"pong") == b"pong"
        line.reset()
        with socket.create_connection((line.host, line.port), timeout=30) as opened:
            assert exchange(opened, b"again") == b"again"


def test_requests_are_held_until_they_are_let_go(echo_port: int) -> None:
    held, other = b"PUT /held HTTP/1.1\r\n", b"PUT /other HTTP/1.1\r\n"
    with SlowLine("127.0.0.1", echo_port) as line:
        line.hold(lambda request: "held" in request)
        with socket.create_connection((line.host, line.port), timeout=30) as opened:
            opened.sendall(held)
            with socket.create_connection((line.host, line.port), timeout=30) as second:
                assert exchange(second, other) == other
                assert line.upstream_bytes == len(other)
                line.hold(lambda request: "other" in request)
                assert opened.recv(65536) == held
                second.sendall(other)
        # What is held does not keep the line from ending.


def test_nobody_behind_the_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with SlowLine("127.0.0.1", port) as line:
        # The reset may come while the client still connects.
        with pytest.raises(ConnectionError):
            with socket.create_connection((line.host, line.port), timeout=30) as opened:
                if not opened.recv(1):
                    raise ConnectionError("closed")
