"""One client of S3 that does one thing once: ``python client.py '{"client": "boto3", "action": "upload", ...}'``.

Gets ready, prints "ready", acts when a line comes in, and prints what that took as JSON. Runs with any Python that has the client;
the server and its keys stand in the environment, as `common.s3_environment` makes it.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ENDPOINT, BUCKET = os.environ.get("BENCH_ENDPOINT_URL", ""), os.environ.get("BENCH_BUCKET", "")
#: What our own download asks for at once; obstore has no manager of downloads, so it gets the same.
RANGE_BYTES = 8 * 1024 * 1024
AT_ONCE = 16

Act = Callable[[], Any]


def files_of(folder: str) -> Iterator[tuple[str, str]]:
    """Each file's path, and its path inside the folder."""
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file():
            yield str(path), str(path.relative_to(folder))


# ckpt-async


def _identity(spec: dict[str, Any]) -> Any:
    from ckpt_async import TaskIdentity, short_hash

    return TaskIdentity("Bench", spec["run"], "train", "1", 0, short_hash("bench"), short_hash("train"))


def _address() -> Any:
    from ckpt_async import StoreAddress
    from ckpt_async.testing.access import ACCESS_SPEC, access_variables

    os.environ.update(access_variables(ENDPOINT, os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]))
    return StoreAddress(f"s3://{BUCKET}/metaflow", ACCESS_SPEC)


class _NobodyWrites:
    """A guard of links to files that stay as they are."""

    def guard(self, folder: str, links: Mapping[str, Any], *, patience_s: float) -> dict[str, Any]:
        from ckpt_async.disk.linking import Guarded

        return {name: Guarded(state.inode, state.size_bytes, 0o600, state.mtime_ns, "") for name, state in links.items()}

    def wait_ready(self, timeout_s: float) -> bool:
        return True

    def holds(self, folder: str) -> bool:
        return True


def _engine(spec: dict[str, Any]) -> tuple[Callable[[str], Any], Callable[[Any], dict[str, Any]]]:
    """What brings a folder into the spool, and what has it uploaded: a sidecar's engine, in a thread here, without the task."""
    from ckpt_async import CheckpointRecord, Settings
    from ckpt_async.assembly import StoresOfWorker
    from ckpt_async.disk.durable import make_private_folder
    from ckpt_async.disk.scan import scan
    from ckpt_async.disk.snapshot import take_snapshot
    from ckpt_async.spool.entry import Entry
    from ckpt_async.spool.neighbours import spool_folder
    from ckpt_async.spool.spool import Spool, SpoolHeader
    from ckpt_async.spool.states import entry_id
    from ckpt_async.words.events import EntryCommitted, EntryFailed, Wake
    from ckpt_async.worker.thread import ThreadWorker

    address, identity = _address(), _identity(spec)
    make_private_folder(spec["scratch"])
    folder = spool_folder(spec["scratch"], address, identity)
    spool = Spool.create(folder, SpoolHeader(address, Settings(async_upload=True)))
    ended: queue.SimpleQueue[object] = queue.SimpleQueue()
    worker = ThreadWorker(
        folder, StoresOfWorker(), lambda event: ended.put(event) if isinstance(event, (EntryCommitted, EntryFailed)) else None,
        lambda: ended.put("the worker died"),
    )  # fmt: skip
    worker.start()

    def take(path: str) -> Entry:
        version = spool.next_version()
        snapshot = take_snapshot(scan(path), spool.stage(version), guard=_NobodyWrites())
        record = CheckpointRecord.of_save(
            identity, name="bench", version=version, size_bytes=snapshot.size_bytes, metadata={}, storage_format="files",
            store_url=address.url, latest=True,
        )  # fmt: skip
        return Entry(entry_id(version), identity, record, snapshot)

    def store(entry: Entry) -> dict[str, Any]:
        spool.publish(entry)
        worker.send(Wake())
        event = ended.get()
        if not isinstance(event, EntryCommitted):
            raise RuntimeError(f"the save did not reach the store: {event} {worker.last_words()}")
        return {"key": entry.record.key}

    return take, store


def ours_upload(spec: dict[str, Any]) -> Act:
    """A small save goes first, as before any but the first one of a task: the client of S3 is made by then."""
    take, store = _engine(spec)
    store(take(__file__))
    entry = take(spec["folder"])
    return lambda: store(entry)


def ours_fill(spec: dict[str, Any]) -> Act:
    take, store = _engine(spec)

    def act() -> None:
        for _ in range(spec["count"]):
            store(take(spec["folder"]))

    return act


def ours_load(spec: dict[str, Any]) -> Act:
    from ckpt_async import open_reader
    from ckpt_async.stores.s3 import store as s3  # noqa: F401 - what a store needs is imported

    reader = open_reader(_address())
    return lambda: reader.load(spec["key"], spec["folder"]) and None


def ours_list(spec: dict[str, Any]) -> Act:
    from ckpt_async import open_reader
    from ckpt_async.stores.s3 import store as s3  # noqa: F401

    reader = open_reader(_address())
    return lambda: {"found": len(reader.list(_identity(spec).pathspec))}


# metaflow-checkpoint


def _peer(spec: dict[str, Any]) -> Any:
    os.environ["METAFLOW_CHECKPOINT_UID"] = f"Bench/{spec['run']}/train/1/0123456789ab/0123456789ab/0"
    from metaflow import Checkpoint

    return Checkpoint()


def peer_upload(spec: dict[str, Any]) -> Act:
    checkpoint = _peer(spec)
    checkpoint.save(__file__)  # a small save before, as ours has one: its late imports and its first client are not measured
    return lambda: {"key": checkpoint.save(spec["folder"])["key"]}


def peer_load(spec: dict[str, Any]) -> Act:
    checkpoint = _peer(spec)
    os.makedirs(spec["folder"])
    return lambda: checkpoint.load(spec["key"], spec["folder"])


def peer_list(spec: dict[str, Any]) -> Act:
    checkpoint = _peer(spec)
    return lambda: {"found": len(list(checkpoint.list()))}


# boto3's transfer manager, with its defaults


def _boto3() -> tuple[Any, Any]:
    import boto3
    from boto3.s3.transfer import TransferConfig, create_transfer_manager
    from botocore.config import Config

    client = boto3.client("s3", endpoint_url=ENDPOINT, config=Config(s3={"addressing_style": "path"}))
    return client, create_transfer_manager(client, TransferConfig())


def boto3_upload(spec: dict[str, Any]) -> Act:
    _, manager = _boto3()

    def act() -> None:
        futures = [manager.upload(path, BUCKET, f"{spec['prefix']}/{name}") for path, name in files_of(spec["folder"])]
        for future in futures:
            future.result()

    return act


def boto3_load(spec: dict[str, Any]) -> Act:
    client, manager = _boto3()
    os.makedirs(spec["folder"])

    def act() -> None:
        futures = []
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=spec["prefix"] + "/"):
            for item in page["Contents"]:
                name = item["Key"].removeprefix(spec["prefix"] + "/")
                futures.append(manager.download(BUCKET, item["Key"], os.path.join(spec["folder"], name)))
        for future in futures:
            future.result()

    return act


# obstore, at its best: without a signature over the payload


def _obstore() -> tuple[Any, Any]:
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        BUCKET, endpoint=ENDPOINT, region="us-east-1", client_options={"allow_http": True}, virtual_hosted_style_request=False,
        unsigned_payload=True,
    )  # fmt: skip
    return obstore, store


async def _at_once(calls: Iterator[Any]) -> None:
    async def work() -> None:
        for call in calls:
            await call()

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))


def obstore_upload(spec: dict[str, Any]) -> Act:
    obstore, store = _obstore()

    def calls() -> Iterator[Any]:
        for path, name in files_of(spec["folder"]):
            yield lambda path=path, name=name: obstore.put_async(store, f"{spec['prefix']}/{name}", Path(path))

    return lambda: asyncio.run(_at_once(calls()))


def obstore_load(spec: dict[str, Any]) -> Act:
    obstore, store = _obstore()
    os.makedirs(spec["folder"])

    async def fetch(key: str, path: str, start: int, length: int) -> None:
        content = await obstore.get_range_async(store, key, start=start, length=length)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.pwrite(descriptor, content, start)
        os.close(descriptor)

    def calls() -> Iterator[Any]:
        for page in obstore.list(store, spec["prefix"] + "/"):
            for item in page:
                path = os.path.join(spec["folder"], item["path"].removeprefix(spec["prefix"] + "/"))
                for start in range(0, item["size"], RANGE_BYTES):
                    length = min(RANGE_BYTES, item["size"] - start)
                    yield lambda key=item["path"], path=path, start=start, length=length: fetch(key, path, start, length)

    return lambda: asyncio.run(_at_once(calls()))


# Programs


def s5cmd_upload(spec: dict[str, Any]) -> Act:
    command = [spec["program"], "--log", "error", "--endpoint-url", ENDPOINT, "cp", f"{spec['folder']}/"]
    return lambda: subprocess.run([*command, f"s3://{BUCKET}/{spec['prefix']}/"], check=True, stdout=sys.stderr) and None


def s5cmd_load(spec: dict[str, Any]) -> Act:
    command = [spec["program"], "--log", "error", "--endpoint-url", ENDPOINT, "cp", f"s3://{BUCKET}/{spec['prefix']}/*"]
    return lambda: subprocess.run([*command, f"{spec['folder']}/"], check=True, stdout=sys.stderr) and None


def curl_upload(spec: dict[str, Any]) -> Act:
    """One file after another over one connection, unsigned: the limit."""
    program = shutil.which("curl")
    assert program is not None
    lines = []
    for path, name in files_of(spec["folder"]):
        lines += [f'upload-file = "{path}"', f'url = "{ENDPOINT}/{BUCKET}/{spec["prefix"]}/{name}"', 'output = "/dev/null"']
    command = [program, "--silent", "--show-error", "--fail", "--config", "-"]
    return lambda: subprocess.run(command, input="\n".join(lines), text=True, check=True) and None


ACTIONS: dict[str, Callable[[dict[str, Any]], Act]] = {
    f"{client} {action}": globals()[f"{name}_{action}"]
    for client, name in (
        ("ckpt-async", "ours"), ("metaflow-checkpoint", "peer"), ("boto3", "boto3"), ("obstore", "obstore"), ("s5cmd", "s5cmd"),
        ("curl -T", "curl"),
    )
    for action in ("upload", "load", "list", "fill")
    if f"{name}_{action}" in globals()
}  # fmt: skip


def cpu_s() -> float:
    """User and system seconds of this process and of its children that have ended."""
    uses = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in uses)


def own_peak_bytes() -> int:
    """The most memory that this process alone ever had (Linux): more than a meter outside sees of one that is quick."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def main() -> None:
    spec = json.loads(sys.argv[1])
    act = ACTIONS[f"{spec['client']} {spec['action']}"](spec)
    print("ready", flush=True)
    sys.stdin.readline()
    cpu_before_s, begun_s = cpu_s(), time.perf_counter()
    found = act() or {}
    took_s = time.perf_counter() - begun_s
    answer = {"seconds": took_s, "cpu_s": cpu_s() - cpu_before_s, "own_peak_bytes": own_peak_bytes(), **found}
    print(json.dumps(answer), flush=True)
    # Without the interpreter's own end: threads of some clients (obstore's) now and then crash in it.
    os._exit(0)


if __name__ == "__main__":
    main()
