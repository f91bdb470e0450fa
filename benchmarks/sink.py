"""An HTTP server that answers as S3 does and drops the bytes: in front of it the client is the limit.

    python benchmarks/sink.py --port 0          prints "port N", and ends when its input ends

Path style, without checks of signatures or checksums. Bodies below `--keep-below` are kept, so that records, manifests and pointers
work; of larger ones only the size is, and reading them gives zero bytes: what was uploaded as zero bytes loads and verifies.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

from sink_messages import Answer, Request
from sink_objects import Objects

HOST = "127.0.0.1"
BUFFER_BYTES = 256 * 1024
KEEP_BELOW_BYTES = 64 * 1024
#: What is sent of an object that was dropped.
ZEROS = memoryview(bytes(256 * 1024))
#: What goes through at once after a pause of a limited line.
BURST_S = 0.02
START_TIMEOUT_S = 20.0
STATS_PATH, LINE_PATH = "/-stats", "/-line"

# What the next bytes of a connection are.
HEAD, FIXED, CHUNK_SIZE, CHUNK, TRAILER = range(5)


class Booking:
    """Until when what goes through has been booked."""

    def __init__(self) -> None:
        self._free_at_s = 0.0

    def wait_s(self, size_bytes: int, bytes_per_s: float | None) -> float:
        """Book so many bytes; returns how long to pause."""
        if bytes_per_s is None:
            return 0.0
        now_s = time.monotonic()
        self._free_at_s = max(self._free_at_s, now_s - BURST_S) + size_bytes / bytes_per_s
        return max(0.0, self._free_at_s - now_s)


class Line:
    """The line in front of the sink: how long an answer takes, and how many bytes a second all connections take together, and one
    of them at most.
    """

    def __init__(self, latency_s: float, bytes_per_s: float | None, connection_bytes_per_s: float | None = None) -> None:
        self.latency_s = latency_s
        self.bytes_per_s = bytes_per_s
        self.connection_bytes_per_s = connection_bytes_per_s
        self._whole = Booking()

    def wait_s(self, size_bytes: int, connection: Booking) -> float:
        """Book so many bytes of a connection; returns how long it must pause."""
        return max(
            self._whole.wait_s(size_bytes, self.bytes_per_s), connection.wait_s(size_bytes, self.connection_bytes_per_s)
        )


class Connection(asyncio.BufferedProtocol):
    """One connection: reads requests into one buffer, again and again, and answers them in turn."""

    def __init__(self, objects: Objects, line: Line) -> None:
        self._objects = objects
        self._line = line
        self._booking = Booking()
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self._state = HEAD
        self._left = 0
        self._request: Request | None = None
        self._transport: Any = None
        self._writable = asyncio.Event()
        self._sending: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._writable.set()

    def connection_lost(self, error: Exception | None) -> None:
        if self._sending is not None:
            self._sending.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._state == FIXED and self._start == self._end:
            # Never more than this body: the next request begins at the start of the buffer.
            self._start = self._end = 0
            return self._view[: self._left]
        if self._start:
            self._buffer[: self._end - self._start] = self._buffer[self._start : self._end]
            self._start, self._end = 0, self._end - self._start
        return self._view[self._end :]

    def buffer_updated(self, size_bytes: int) -> None:
        self._end += size_bytes
        pause_s = self._line.wait_s(size_bytes, self._booking)
        if pause_s:
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(pause_s, self._read_on)
        self._go_on()

    def _read_on(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def _go_on(self) -> None:
        """Work through what is in the buffer, as far as it goes."""
        while self._start < self._end and self._sending is None:
            if self._state in (FIXED, CHUNK):
                self._take_body()
            elif not self._take_line():
                return

    def _take_body(self) -> None:
        size_bytes = min(self._left, self._end - self._start)
        request = self._request
        assert request is not None
        request.take(self._view[self._start : self._start + size_bytes])
        self._start += size_bytes
        self._left -= size_bytes
        if self._left == 0:
            if self._state == CHUNK:
                self._state = CHUNK_SIZE
            else:
                self._answer()

    def _take_line(self) -> bool:
        mark = b"\r\n\r\n" if self._state == HEAD else b"\r\n"
        found = self._buffer.find(mark, self._start, self._end)
        if found < 0:
            return False
        text = bytes(self._view[self._start : found]).decode("latin-1")
        self._start = found + len(mark)
        if self._state == HEAD:
            self._begin(Request.parse(text, self._objects.keep_below_bytes))
        elif self._state == TRAILER:
            if not text:
                self._answer()
        elif text:  # an empty line ends the chunk before
            self._left = int(text.partition(";")[0], 16)
            self._state = CHUNK if self._left else TRAILER
        return True

    def _begin(self, request: Request) -> None:
        self._request = request
        if request.headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if request.headers.get("transfer-encoding", "").lower() == "chunked":
            self._state = CHUNK_SIZE
            return
        self._left = int(request.headers.get("content-length", "0"))
        self._state = FIXED
        if not self._left:
            self._answer()

    def _answer(self) -> None:
        request, self._request, self._state = self._request, None, HEAD
        assert request is not None
        if request.path in (STATS_PATH, LINE_PATH):
            self._transport.write(self._answer_owner(request).encode(with_body=True))
            return
        answer = self._objects.answer(request)
        if self._line.latency_s or answer.zeros_bytes:
            self._sending = asyncio.get_running_loop().create_task(self._send_later(request, answer))
        else:
            self._transport.write(answer.encode(with_body=request.method != "HEAD"))

    def _answer_owner(self, request: Request) -> Answer:
        """What is no part of S3: how it was used, and another line for what comes."""
        if request.path == LINE_PATH:
            rate = request.query.get("bytes_per_s")
            self._line.latency_s = float(request.query["latency_s"])
            self._line.bytes_per_s = float(rate) if rate else None
        times = os.times()
        return Answer(200, json.dumps({**self._objects.counted, "cpu_s": times.user + times.system}).encode())

    async def _send_later(self, request: Request, answer: Answer) -> None:
        """Answer after a while, or with more than fits into the socket at once; the next request waits."""
        if self._line.latency_s:
            await asyncio.sleep(self._line.latency_s)
        self._transport.write(answer.encode(with_body=request.method != "HEAD"))
        left = answer.zeros_bytes if request.method != "HEAD" else 0
        while left and not self._transport.is_closing():
            await self._writable.wait()
            piece = ZEROS[: min(left, len(ZEROS))]
            self._transport.write(piece)
            left -= len(piece)
            pause_s = self._line.wait_s(len(piece), self._booking)
            if pause_s:
                await asyncio.sleep(pause_s)
        self._sending = None
        self._go_on()


class Sink:
    """A sink in a process of its own; a context manager.

    Parameters
    ----------
    keep_below_bytes : int
        Bodies below this are kept as they are.
    latency_s : float
        How long each answer takes.
    bytes_per_s : float, optional
        What all connections take and give together; None: as fast as it goes.
    connection_bytes_per_s : float, optional
        What one connection takes and gives at most.
    niceness : int
        How far it stands back behind others for the processor: a real server would be on another machine.

    Attributes
    ----------
    endpoint_url : str
        Where it answers, once entered. Every bucket exists.
    """

    def __init__(
        self,
        *,
        keep_below_bytes: int = KEEP_BELOW_BYTES,
        latency_s: float = 0.0,
        bytes_per_s: float | None = None,
        connection_bytes_per_s: float | None = None,
        niceness: int = 0,
    ) -> None:
        self._command = [sys.executable, str(Path(__file__).resolve()), "--keep-below", str(keep_below_bytes)]
        self._command += ["--latency-s", str(latency_s), "--nice", str(niceness)]
        if bytes_per_s is not None:
            self._command += ["--bytes-per-s", str(bytes_per_s)]
        if connection_bytes_per_s is not None:
            self._command += ["--connection-bytes-per-s", str(connection_bytes_per_s)]
        self._process: subprocess.Popen[str] | None = None
        self.endpoint_url = ""

    def __enter__(self) -> Sink:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        word, _, port = self._process.stdout.readline().strip().partition(" ")
        if word != "port":
            self.__exit__(None, None, None)
            raise RuntimeError("the sink did not start")
        self.endpoint_url = f"http://{HOST}:{port}"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process is not None
        try:
            self._process.communicate(timeout=START_TIMEOUT_S)  # ends its input
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self._process is not None
        return self._process.pid

    def stats(self) -> dict[str, float]:
        """What it has seen so far: requests by kind, bytes taken in (``body_bytes``), and its own CPU seconds (``cpu_s``)."""
        return self._ask(STATS_PATH)

    def set_line(self, *, latency_s: float = 0.0, bytes_per_s: float | None = None) -> None:
        """Change the line from now on."""
        self._ask(f"{LINE_PATH}?latency_s={latency_s}" + (f"&bytes_per_s={bytes_per_s}" if bytes_per_s else ""))

    def _ask(self, path: str) -> dict[str, float]:
        with urllib.request.urlopen(self.endpoint_url + path, timeout=START_TIMEOUT_S) as answer:
            found: dict[str, float] = json.load(answer)
            return found


async def serve(port: int, objects: Objects, line: Line) -> None:
    """Answer until the input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(objects, line), HOST, port, family=socket.AF_INET, backlog=256)
    print("port", server.sockets[0].getsockname()[1], flush=True)
    ended = asyncio.Event()
    # Whoever started it holds the other end: it never outlives that process.
    loop.add_reader(sys.stdin.fileno(), lambda: os.read(sys.stdin.fileno(), 4096) or ended.set())
    await ended.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0 (the default): a free one")
    parser.add_argument("--keep-below", type=int, default=KEEP_BELOW_BYTES, metavar="BYTES", help="keep bodies below this size")
    parser.add_argument("--latency-s", type=float, default=0.0, help="how long each answer takes")
    parser.add_argument("--bytes-per-s", type=float, default=None, help="the rate of all connections together")
    parser.add_argument("--connection-bytes-per-s", type=float, default=None, help="the rate of one connection at most")
    parser.add_argument("--nice", type=int, default=0, help="its niceness")
    options = parser.parse_args()
    os.nice(options.nice)
    line = Line(options.latency_s, options.bytes_per_s, options.connection_bytes_per_s)
    asyncio.run(serve(options.port, Objects(options.keep_below), line))


if __name__ == "__main__":
    main()
