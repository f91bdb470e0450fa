"""The engine at work in front of the sink, in this process: what it asked for, by kind and area, and how long it took."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sink import HOST, Connection, Line
from sink_messages import Answer, Request
from sink_objects import Objects

from ckpt_async import Checkpointer, Settings, StoreAddress, open_checkpointer, open_reader
from ckpt_async.testing.access import ACCESS_SPEC, access_variables

from .counting import NAME, SOME_TASK, Content, Requests

#: All content is kept, so that etags are MD5s, by which the engine knows what has not changed.
KEEP_BELOW_BYTES = 1 << 30
ROOT = "mf.checkpoints/checkpoints/"
DEADLINE_S = 120.0


class CountingObjects(Objects):
    """The sink's objects, with a count by area.

    Parameters
    ----------
    refuse_every : int
        Every so many-th request is refused as a busy store does, before anything is done; 0: none.
    """

    def __init__(self, refuse_every: int = 0) -> None:
        super().__init__(KEEP_BELOW_BYTES)
        self._refuse_every = refuse_every
        self._seen = 0
        self.answered: Requests = Counter()
        self.refused = 0
        #: Of bodies that are objects or parts of them.
        self.put_bytes: Counter[str] = Counter()

    def holds(self, leaf: str) -> bool:
        """Whether there is any object of the checkpoint whose data key ends so."""
        return any(leaf in name or name.endswith(leaf.partition(".")[2] + ".metadata") for name in list(self._objects))

    def answer(self, request: Request) -> Answer:
        self._seen += 1
        if self._refuse_every and self._seen % self._refuse_every == 0:
            self.refused += 1
            return Answer(503, b"<Error><Code>SlowDown</Code></Error>", (("Content-Type", "application/xml"),))
        kind, _ = self._route(request)
        path = request.query.get("prefix", "") if kind == "list" else request.path
        area = path.partition(ROOT)[2].partition("/")[0] if ROOT in path else ""
        if kind == "put_part" and "x-amz-copy-source" in request.headers:
            kind = "copy_part"
        self.answered[kind, area] += 1
        if request.method == "PUT":
            self.put_bytes[area] += request.size_bytes
        return super().answer(request)


@contextlib.contextmanager
def sink_here(objects: Objects, line: Line) -> Iterator[str]:
    """Serve from a thread of this process; yields the address."""
    ready, loop = threading.Event(), asyncio.new_event_loop()
    found: list[str] = []
    connections: set[Connection] = set()

    class Closing(Connection):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            connections.add(self)

        def connection_lost(self, error: Exception | None) -> None:
            super().connection_lost(error)
            connections.discard(self)

    async def serve(stopped: asyncio.Event) -> None:
        server = await loop.create_server(lambda: Closing(objects, line), HOST, 0)
        found.append(f"http://{HOST}:{server.sockets[0].getsockname()[1]}")
        ready.set()
        await stopped.wait()
        server.close()
        for connection in list(connections):
            connection._transport.abort()
        while connections:
            await asyncio.sleep(0)

    stopped = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve(stopped)), name="sink")
    thread.start()
    try:
        ready.wait(DEADLINE_S)
        yield found[0]
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join()
        loop.close()


def write_content(content: Content, folder: Path, *, fresh: int | None = None) -> None:
    """Write the files with random bytes; `fresh`: only so many bytes at the beginning of the whole are new."""
    folder.mkdir(exist_ok=True)
    left = content.size_bytes if fresh is None else fresh
    for number in range(content.files):
        path = folder / f"{number:05}.bin"
        size_bytes = min(left, content.file_bytes)
        if size_bytes or not path.exists():
            with path.open("r+b" if path.exists() else "wb") as file:
                file.write(os.urandom(size_bytes))
        left -= size_bytes


@dataclass(frozen=True)
class SaveSeen:
    """What the sink saw of one save, and how long it took until it was stored."""

    requests: Requests
    refused: int
    data_bytes: int
    text_bytes: int
    stored_s: float


class Bench:
    """A checkpointer with the sink as its store; a context manager.

    Parameters
    ----------
    folder : Path
        For files and spool.
    objects : CountingObjects, optional
        Those of an earlier one; left out: none.
    nodes : int
        Of a gang, each with a checkpointer.
    keep_last : int, optional
        How many checkpoints stay.

    Attributes
    ----------
    keys : list of str
        Of what was saved.
    """

    def __init__(
        self,
        folder: Path,
        *,
        refuse_every: int = 0,
        line: Line | None = None,
        worker: str = "thread",
        objects: CountingObjects | None = None,
        attempt: int = 0,
        nodes: int = 1,
        keep_last: int | None = None,
    ) -> None:
        self.objects = objects or CountingObjects(refuse_every)
        self.keys: list[str] = []
        self._line = line or Line(0.0, None)
        self._folder = folder
        self._worker = worker
        self._identity = dataclasses.replace(SOME_TASK, attempt=attempt)
        self._nodes = nodes
        self._keep_last = keep_last
        self._checkpointers: list[Checkpointer] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Bench:
        endpoint_url = self._stack.enter_context(sink_here(self.objects, self._line))
        before = dict(os.environ)
        # As on AWS, of which nothing has to be found out.
        os.environ.update(access_variables(endpoint_url, "key", "secret", "conditional_writes:true"))
        self._stack.callback(lambda: (os.environ.clear(), os.environ.update(before)))
        address = StoreAddress("s3://bucket/metaflow", ACCESS_SPEC)
        self.reader = open_reader(address, say=lambda _: None)
        settings = Settings(async_upload=True, worker=self._worker, flush_timeout_s=DEADLINE_S, keep_last=self._keep_last)
        for node in range(self._nodes):
            opened = open_checkpointer(
                self._identity,
                address,
                settings,
                scratch_root=str(self._folder / "scratch"),
                say=lambda _: None,
                node_index=node,
                num_nodes=self._nodes,
            )
            self._checkpointers.append(opened)
            self._stack.callback(opened.close, timeout_s=DEADLINE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def seen(self) -> Iterator[list[SaveSeen]]:
        """Yield a list that gets one item when the block ends: what happened in it."""
        requests, put, refused = self.objects.answered.copy(), self.objects.put_bytes.copy(), self.objects.refused
        found: list[SaveSeen] = []
        began_s = time.monotonic()
        yield found
        took_s = time.monotonic() - began_s
        bytes_now = {area: count - put[area] for area, count in self.objects.put_bytes.items()}
        data_bytes = bytes_now.pop("artifacts", 0)
        found.append(
            SaveSeen(self.objects.answered - requests, self.objects.refused - refused, data_bytes, sum(bytes_now.values()), took_s)
        )

    def save(self, content: Content, *, fresh: int | None = None) -> SaveSeen:
        """Write the files, save them, and wait until they are stored; see `write_content` for `fresh`."""
        saved = self._folder / "saved"
        write_content(content, saved, fresh=fresh)
        [opened] = self._checkpointers
        with self.seen() as found:
            reference = opened.save(str(saved), name=NAME, storage_format=content.storage_format)
            opened.flush()
        self.keys.append(reference["key"])
        return found[0]

    def save_and_prune(self, content: Content) -> SaveSeen:
        """Save, and wait until what `keep_last` does not keep is gone."""
        assert self._keep_last is not None
        with self.seen() as found:
            self.save(content)
            limit_s = time.monotonic() + DEADLINE_S
            for doomed in self.keys[: -self._keep_last]:
                while self.objects.holds(doomed.rpartition("/")[2]):
                    if time.monotonic() > limit_s:
                        raise TimeoutError(f"{doomed} is not deleted")
                    time.sleep(0.01)
        return found[0]

    def save_group(self, content: Content) -> None:
        """Have all nodes save their parts of one checkpoint, one after the other."""
        saved = self._folder / "saved"
        write_content(content, saved)
        for opened in self._checkpointers:
            opened.save(str(saved), name=NAME, group=True)
            opened.flush()
