"""How long save() takes, linked and copied, alternating in one run; and where packing small files ends to pay.

    python benchmarks/snapshot.py --size-mib 4096 --scratch FOLDER
    python benchmarks/snapshot.py --quick

Nothing is uploaded: the store's address leads nowhere, so that only save() is at work. Needs twice the size on the disk.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ckpt_async import Checkpointer, CheckpointError, Settings, StoreAddress, TaskIdentity, open_checkpointer, short_hash
from ckpt_async.disk.linking import LinkGuard, link_files
from ckpt_async.disk.scan import ScannedTree, scan
from ckpt_async.disk.snapshot import take_snapshot
from ckpt_async.testing.access import ACCESS_SPEC, access_variables
from ckpt_async.words.events import WorkerReady

MIB = 1024 * 1024
NOWHERE = "http://127.0.0.1:9"  # the port of the discard service: refused


@contextlib.contextmanager
def checkpointer(scratch: Path, run: str, way: str) -> Iterator[Checkpointer]:
    """One whose uploads never end."""
    os.environ.update(access_variables(NOWHERE, "key", "secret"))
    ready = threading.Event()
    opened = open_checkpointer(
        TaskIdentity("Bench", run, "train", "1", 0, short_hash("bench"), short_hash("train")),
        StoreAddress("s3://bucket/prefix", ACCESS_SPEC),
        Settings(async_upload=True, snapshot=way, max_pending=10000, flush_timeout_s=1.0),
        scratch_root=str(scratch),
        say=lambda line: None,
    )
    opened.add_listener(lambda event: ready.set() if isinstance(event, WorkerReady) else None)
    assert ready.wait(30), "the sidecar does not start"
    try:
        yield opened
    finally:
        with contextlib.suppress(CheckpointError):
            opened.close(timeout_s=0.1)
        shutil.rmtree(scratch, ignore_errors=True)


def write(path: Path, size_bytes: int) -> None:
    block = os.urandom(MIB)
    with open(path, "wb") as file:
        for start in range(0, size_bytes, MIB):
            file.write(block[: size_bytes - start])


def one_file(folder: Path, size_mib: int, repeats: int) -> None:
    """A large file, on the disk already and just written."""
    for state in ("clean", "just written"):
        taken: dict[str, list[float]] = {"link": [], "copy": []}
        for repeat in range(repeats):
            for way in ("link", "copy") if repeat % 2 == 0 else ("copy", "link"):
                data = folder / "data"
                data.mkdir()
                write(data / "model", size_mib * MIB)
                if state == "clean":
                    os.sync()
                with checkpointer(folder / "scratch", f"{state}-{way}-{repeat}", way) as opened:
                    begun_s = time.perf_counter()
                    reference = opened.save(data)
                    taken[way].append(time.perf_counter() - begun_s)
                    assert reference.state.methods == {way: 1}, reference.state.methods
                shutil.rmtree(data)
        linked, copied = (statistics.median(taken[way]) * 1000 for way in ("link", "copy"))
        print(
            f"{size_mib} MiB, {state}: linked {linked:.1f} ms (worst {max(taken['link']) * 1000:.1f}), "
            f"copied {copied:.0f} ms: 1 to {copied / linked:.0f}",
            flush=True,
        )


def many_files(folder: Path, count: int) -> None:
    """Per file: linked and guarded, against packed (or, from 1 MiB on, copied)."""
    for size_kib in (16, 64, 128, 256, 512, 1024):
        data = folder / "data"
        data.mkdir()
        for number in range(count):
            write(data / f"{number}", size_kib * 1024)
        tree = scan(data)
        with checkpointer(folder / "scratch", f"many-{size_kib}", "auto") as opened:
            guard = opened._worker.link_guard
            assert guard is not None
            linking, copying = functools.partial(_link, tree, guard), functools.partial(take_snapshot, tree, way="copy")
            linked_s, copied_s = [], []
            for repeat in range(3):
                linked_s.append(_taking(opened, 2 * repeat, linking))
                copied_s.append(_taking(opened, 2 * repeat + 1, copying))
        linked, copied = (statistics.median(some) / count * 1e6 for some in (linked_s, copied_s))
        print(f"{count} files of {size_kib} KiB: linked {linked:.0f} µs each, packed or copied {copied:.0f} µs each", flush=True)
        shutil.rmtree(data)


def _link(tree: ScannedTree, guard: LinkGuard, staged: str) -> None:
    result = link_files(tree.files, staged, guard)
    assert not result.refused, result.refused


def _taking(opened: Checkpointer, version: int, take: Callable[[str], object]) -> float:
    staged = opened._spool.stage(version + 1000)
    begun_s = time.perf_counter()
    take(staged)
    took_s = time.perf_counter() - begun_s
    opened._spool.discard(version + 1000)
    return took_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mib", type=int, default=4096, help="of the large file (default 4096)")
    parser.add_argument("--repeats", type=int, default=3, help="of each way (default 3)")
    parser.add_argument("--count", type=int, default=200, help="of small files (default 200)")
    parser.add_argument("--scratch", help="a folder on the disk to be measured (default: the system's for temporary files)")
    parser.add_argument("--quick", action="store_true", help="a trial of a minute or so: small, once")
    options = parser.parse_args()
    if options.quick:
        options.size_mib, options.repeats, options.count = min(options.size_mib, 256), 1, min(options.count, 50)
    folder = Path(tempfile.mkdtemp(prefix="ckpt-async-bench-", dir=options.scratch))
    try:
        many_files(folder, options.count)
        one_file(folder, options.size_mib, options.repeats)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
