"""Descriptors, sizes, other users' files, and who may ask the guard for what."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping as Mapping_
from pathlib import Path

import pytest

from ckpt_async import InvalidArgument, StoreAddress, coerce_settings
from ckpt_async.disk.lease import BREAK_SIGNAL, Lease, LeaseRefused, RefusedBecause, file_system_of
from ckpt_async.disk.linking import FileState, Guarded
from ckpt_async.disk.mapped import may_be_mapped, writable_mappings
from ckpt_async.disk.restore import restore_snapshot
from ckpt_async.disk.scan import scan
from ckpt_async.disk.snapshot import take_snapshot
from ckpt_async.spool.spool import Spool, SpoolHeader
from ckpt_async.spool.states import EntryState
from ckpt_async.testing.seaweed import SeaweedServer
from ckpt_async.words.settings import Settings
from ckpt_async.worker import guarded, held
from ckpt_async.worker.deposits import Deposits, deposit, look_into
from ckpt_async.worker.guard_client import GuardClient
from ckpt_async.worker.guarded import GuardedLinks
from ckpt_async.worker.rescue import CopyJob, copy_aside
from tests.engine.desk import Desk, paused, read_tree
from tests.guard.conftest import NOBODY
from tests.guard.leases import Mapping, leased_inodes
from tests.guard.writers import SIZE, plain

MIB = 1024 * 1024
LIMIT = 700
STATE = FileState(1, 1, 1, 1)


def _spool(folder: Path) -> Spool:
    spool = Spool.create(str(folder / "spool" / "0000"), SpoolHeader(StoreAddress("/nowhere"), Settings()))
    os.makedirs(spool.private_folder, exist_ok=True)
    return spool


def _staged(spool: Spool, version: int, sources: list[Path]) -> tuple[str, dict[str, FileState]]:
    folder = Path(spool.stage(version))
    states = {}
    for number, source in enumerate(sources, 1):
        states[f"f{number:06d}"] = FileState.of(source.stat())
        os.link(source, folder / f"f{number:06d}")
    return folder.name, states


def _sources(folder: Path, count: int, size: int = 10) -> list[Path]:
    paths = [folder / f"source-{number}" for number in range(count)]
    for path in paths:
        path.write_bytes(os.urandom(size))
    return paths


def test_thousands_of_files_against_the_limit_of_descriptors(desk: Desk, seaweed: SeaweedServer) -> None:
    tree = desk.tree({}, name="many")
    for number in range(1200):
        with open(tree / f"{number:04d}", "wb") as file:
            file.write(b"%020d" % number)
            file.truncate(300 * 1024)  # sparse: 360 MB that take no room
    before_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The child raises its soft limit to the hard one, so what it may have at most is for this test to be lowered in a child.
    program = (
        f"import resource, runpy; resource.setrlimit(resource.RLIMIT_NOFILE, ({LIMIT}, {LIMIT}));"
        "runpy.run_module('ckpt_async.sidecar', run_name='__main__')"
    )
    wrapper = desk.folder / "python"
    wrapper.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} -c "{program}" "$@"\n')
    wrapper.chmod(0o755)
    real, sys.executable = sys.executable, str(wrapper)
    try:
        checkpointer = desk.open()
        desk.sidecars()
    finally:
        sys.executable = real
    with paused(seaweed):
        reference = checkpointer.save(tree, storage_format="tar")
        linked = reference.state.methods["link"]
        assert linked == min(LIMIT - 256, LIMIT // 2)
        # The kernel's list is read in pieces while other programs' locks come and go, so it is not exact.
        assert 0 < len(set(leased_inodes(tree))) <= linked
        assert reference.state.methods == {"link": linked, "packed": 1200 - linked}
        for path in tree.iterdir():
            os.truncate(path, 0)
        assert leased_inodes(tree) == []
    checkpointer.flush()
    stored = desk.content(reference)
    assert len(stored) == 1200
    assert all(content[:20] == b"%020d" % int(name) and len(content) == 300 * 1024 for name, content in stored.items())
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before_limit


class GuardHere:
    """A guard in this process, which is of no use but to see what it takes."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self.links = GuardedLinks(100, lambda job: None)
        self.reasons: list[str] = []

    def guard(self, folder: str, links: Mapping_[str, FileState], *, patience_s: float) -> Mapping_[str, Guarded | str]:
        answers = self.links.take(self._spool, os.path.basename(folder), links)
        self.reasons += [answer for answer in answers.values() if isinstance(answer, str)]
        return answers

    def holds(self, folder: str) -> bool:
        return self.links.holds(self._spool, os.path.basename(folder))


def test_files_of_another_owner_are_copied(nobody: Path) -> None:
    tree = nobody / "data"
    tree.mkdir()
    os.seteuid(0)
    for name, mode in (("readable", 0o644), ("writable", 0o666)):
        (tree / name).write_bytes(os.urandom(SIZE * 2))
        (tree / name).chmod(mode)
    os.seteuid(NOBODY)
    (tree / "own").write_bytes(os.urandom(SIZE * 2))
    (nobody / "target").mkdir()
    spool = _spool(nobody)
    guard = GuardHere(spool)
    folder = spool.stage(0)
    try:
        taken = take_snapshot(scan(tree), folder, guard=guard)
        # The one that may only be read can't even be linked; the other can, and no lease is granted.
        assert taken.methods == {"link": 1, "copy": 2}
        assert guard.reasons == ["it belongs to another user"]
        assert [file.path for file in taken.links] == ["own"] and guard.holds(folder)
        restore_snapshot(taken, folder, str(nobody / "target"))
        assert read_tree(nobody / "target") == read_tree(tree)
    finally:
        guard.links.held.close()


def test_a_lease_is_refused_while_there_is_a_writer(tmp_path: Path) -> None:
    (path,) = _sources(tmp_path, 1)
    with open(path, "ab"):
        refused = Lease.take(str(path))
        assert isinstance(refused, LeaseRefused) and refused.because is RefusedBecause.WRITER
    lease = Lease.take(str(path))
    assert isinstance(lease, Lease)
    assert not lease.broken
    lease.release()
    lease.release()
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError, match="symbolic"):
        Lease.take(str(tmp_path / "link"))
    folder = Lease.take(str(tmp_path))
    assert isinstance(folder, LeaseRefused) and folder.because is RefusedBecause.IMPOSSIBLE


def test_a_file_system_that_was_not_tried_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = _spool(tmp_path)
    entry, names = _staged(spool, 0, _sources(tmp_path, 1))
    monkeypatch.setattr(held, "file_system_of", lambda descriptor: "nfs4")
    links = GuardedLinks(10, lambda job: None)
    assert links.take(spool, entry, names) == {"f000001": "leases have not been tried on this file system (nfs4)"}
    links.held.close()
    with open("/proc/self/status") as file:
        assert file_system_of(file.fileno()) == "proc"


def test_what_could_not_be_copied_in_time_is_not_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = _spool(tmp_path)
    entry, names = _staged(spool, 0, _sources(tmp_path, 1, size=1000))
    monkeypatch.setattr(guarded, "RESCUE_BYTES_PER_S", 20.0)
    links = GuardedLinks(10, lambda job: None)
    (answer,) = links.take(spool, entry, names).values()
    assert "might take longer than a writer can be held back (45 s)" in str(answer)
    links.held.close()


def test_more_files_than_leases(tmp_path: Path) -> None:
    spool = _spool(tmp_path)
    sources = _sources(tmp_path, 5)
    entry, names = _staged(spool, 0, sources)
    links = GuardedLinks(3, lambda job: None)
    try:
        answers = links.take(spool, entry, names)
        assert [isinstance(answer, Guarded) for answer in answers.values()] == [True] * 3 + [False] * 2
        assert "3 files are guarded already" in str(answers["f000004"])
        # A second save of the same files needs no more leases.
        again, names = _staged(spool, 1, sources[:3])
        assert all(isinstance(answer, Guarded) for answer in links.take(spool, again, names).values())
        assert links.holds(spool, again) and not links.holds(spool, "0000000007")
        spool.discard(0)
        spool.discard(1)
        links.held.sweep()
        assert links.count == 0
    finally:
        links.held.close()


def test_a_copy_that_comes_too_late_is_none(tmp_path: Path) -> None:
    (source,) = _sources(tmp_path, 1, size=SIZE)
    descriptor = os.open(source, os.O_RDONLY)
    try:
        found = os.fstat(descriptor)
        assert copy_aside(CopyJob(descriptor, found, str(tmp_path / "copy"))) == ""
        copied = (tmp_path / "copy").stat()
        assert (copied.st_size, copied.st_mtime_ns, copied.st_mode & 0o777) == (SIZE, found.st_mtime_ns, 0o600)
        with open(source, "r+b") as file:
            file.write(b"a writer that the kernel has let through")
        assert "too slow" in copy_aside(CopyJob(descriptor, found, str(tmp_path / "late")))
        assert "could not be copied" in copy_aside(CopyJob(descriptor, found, str(tmp_path / "removed" / "private" / "copy")))
    finally:
        os.close(descriptor)


def test_a_mapping_is_seen_by_its_path(tmp_path: Path) -> None:
    path, other = _sources(tmp_path, 2, size=10000)
    with Mapping(path, keep_descriptor=False):
        mappings = writable_mappings()
        assert may_be_mapped(path.stat(), mappings)
        path.rename(tmp_path / "renamed")
        assert may_be_mapped((tmp_path / "renamed").stat(), writable_mappings())
        (tmp_path / "renamed").unlink()
        assert may_be_mapped(other.stat(), writable_mappings()), "of a removed file it can't be told"


def test_the_guard_opens_nothing_outside_of_its_spool(tmp_path: Path) -> None:
    spool = _spool(tmp_path)
    ours, theirs = socket.socketpair()
    worker, for_worker = socket.socketpair()
    arguments = [spool.folder, str(for_worker.fileno()), str(os.getpid()), str(theirs.fileno())]
    with ours, worker:
        with theirs, for_worker:
            sidecar = subprocess.Popen(
                [sys.executable, "-m", "ckpt_async.sidecar", *arguments],
                pass_fds=[theirs.fileno(), for_worker.fileno()],
                stderr=subprocess.DEVNULL,
            )
        ours.settimeout(30)
        with ours.makefile("rwb") as lines, sidecar:
            lines.write(b'{"inherit": []}\n')
            lines.flush()
            assert json.loads(lines.readline()) == {"ready": ""}
            for request in (
                {"guard": "../../../etc", "links": {"passwd": [1, 1, 1, 1]}},
                {"guard": "0000000000", "links": {"../../spool.json": [1, 1, 1, 1]}},
                {"holds": "../ready"},
            ):
                lines.write(json.dumps(request).encode() + b"\n")
                lines.flush()
                assert json.loads(lines.readline()) == {"error": "no such request"}
            lines.write(b'{"guard": "0000000000", "links": {"f000001": [1, 1, 1, 1]}}\n')
            lines.flush()
            assert "can't be opened" in json.loads(lines.readline())["files"]["f000001"]
            worker.close()
            assert sidecar.wait(30) is not None


def test_a_guard_that_does_not_answer_is_none() -> None:
    client, theirs = GuardClient.pair(Deposits())
    with theirs:
        assert "still starting" in str(client.guard("/s/0000000000", {"f000001": STATE}, patience_s=0.01)["f000001"])
        theirs.sendall(b'{"ready": ""}\n')
        begun_s = time.monotonic()
        assert client.guard("/s/0000000000", {"f000001": STATE}, patience_s=0.01) == {"f000001": "the uploader does not answer"}
        assert time.monotonic() - begun_s < 20
        assert client.guard("/s/0000000000", {"f000001": STATE}, patience_s=0.01) == {"f000001": "the uploader does not answer"}
        assert not client.holds("/s/0000000000")
    client.close()
    client.close()
    client, theirs = GuardClient.pair(Deposits())
    with theirs:
        theirs.sendall(b'{"ready": "no signalfd here"}\n')
        assert client.guard("/s/0000000000", {"f000001": STATE}, patience_s=5) == {"f000001": "no signalfd here"}
    client.close()


@pytest.fixture
def ignored_breaks() -> Iterator[None]:
    """The signal of a broken lease would end this process, which has no guard's thread."""
    before = signal.signal(BREAK_SIGNAL, signal.SIG_IGN)
    yield
    signal.signal(BREAK_SIGNAL, before)


@pytest.mark.usefixtures("ignored_breaks")
def test_an_entry_that_is_being_written_to_is_not_taken_twice(tmp_path: Path) -> None:
    spool = _spool(tmp_path)
    (source,) = _sources(tmp_path, 1, size=SIZE)
    jobs: list[CopyJob] = []
    links = GuardedLinks(10, jobs.append)
    writer = None
    try:
        entry, names = _staged(spool, 0, [source])
        before = source.read_bytes()
        assert isinstance(links.take(spool, entry, names)["f000001"], Guarded)
        writer = subprocess.Popen([sys.executable, "-c", f"open({str(source)!r}, 'wb').write(b'new')"])
        deadline_s = time.monotonic() + 30
        while not jobs and time.monotonic() < deadline_s:
            links.broken(None)
        later, names = _staged(spool, 1, [source])
        assert links.take(spool, later, names) == {"f000001": "a program is about to write to it"}
        links.copied(jobs[0], copy_aside(jobs[0]))
        assert writer.wait(30) == 0
        assert source.read_bytes() == b"new"
        assert Path(spool.folder, EntryState.STAGING, entry, "f000001").read_bytes() == before
        assert links.count == 0 and os.listdir(spool.private_folder) == []
    finally:
        links.held.close()
        if writer is not None:
            writer.wait(30)


@pytest.mark.parametrize("more", [{"worker": "thread", "async_upload": True}, {"async_upload": False}])
def test_link_needs_a_process_beside_the_task(more: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument, match="guarded by a process beside the task"):
        coerce_settings({"snapshot": "link", **more})
    assert coerce_settings({"snapshot": "link", "async_upload": True}).snapshot == "link"
    with pytest.raises(InvalidArgument, match="'auto' or 'copy' or 'link'"):
        coerce_settings({"snapshot": "hard"})


def test_a_file_in_use_at_the_call_is_linked_once_it_is_closed(desk: Desk, seaweed: SeaweedServer) -> None:
    tree = desk.tree({"model": os.urandom(2 * MIB)})
    checkpointer = desk.open()
    desk.sidecars()
    with paused(seaweed):
        with open(tree / "model", "ab"):
            assert checkpointer.save(tree).state.methods == {"copy": 1}
        assert checkpointer.save(tree).state.methods == {"link": 1}
        plain(tree / "model")
    checkpointer.flush()


@pytest.mark.usefixtures("ignored_breaks")
def test_each_lease_of_a_dead_guard_is_answered_for_once(tmp_path: Path) -> None:
    spool = _spool(tmp_path)
    (source,) = _sources(tmp_path, 1, size=SIZE)
    first, again, later = (_staged(spool, number, [source])[0] for number in range(3))
    one, other = Lease.take(str(source)), Lease.take(str(source))
    assert isinstance(one, Lease) and isinstance(other, Lease)
    deposits = {first: one, again: one, later: other}
    jobs: list[CopyJob] = []
    links = GuardedLinks(10, jobs.append)
    held = {entry: deposit([lease.descriptor]) for entry, lease in deposits.items()}
    for lease in (one, other):
        os.close(lease.descriptor)  # as the end of a process does
    try:
        for _ in range(2):
            assert all(len(found := look_into(keeping)) == 1 and not os.close(found[0]) for keeping in held.values())
        links.inherit([(spool, entry, look_into(keeping)) for entry, keeping in held.items()])
        assert links.count == 1 and len(links.held.by_descriptor) == 2
        assert links.held.links == 3 and not jobs
        writer = subprocess.Popen([sys.executable, "-c", f"open({str(source)!r}, 'wb').write(b'new')"])
        deadline_s = time.monotonic() + 30
        while not jobs and time.monotonic() < deadline_s:
            links.broken(list(links.held.by_descriptor)[-1:])
        links.copied(jobs[0], copy_aside(jobs[0]))
        assert writer.wait(30) == 0, "although the deposits stand"
        private = {Path(spool.folder, EntryState.STAGING, entry, "f000001").stat().st_ino for entry in deposits}
        assert len(private) == 1 and source.stat().st_ino not in private
        assert links.count == 0 and not links.held.by_descriptor
    finally:
        for keeping in held.values():
            keeping.close()
        links.held.close()


def test_no_more_is_deposited_than_the_training_can_spare(tmp_path: Path) -> None:
    spool = _spool(tmp_path)
    links = GuardedLinks(10, lambda job: None, max_links=3)
    entry, names = _staged(spool, 0, _sources(tmp_path, 5))
    answers = links.take(spool, entry, names)
    assert [isinstance(answer, Guarded) for answer in answers.values()] == [True] * 3 + [False] * 2
    assert "the training's limit of open files" in str(answers["f000005"])
    links.held.put_back(spool, entry, ["f000001", "f000002", "f000003"])
    assert links.count == 0
    links.held.close()
