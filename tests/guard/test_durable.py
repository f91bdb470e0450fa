"""``durability="machine"`` and links: the private copy is on the disk before the writer goes on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ckpt_async.disk import durable
from ckpt_async.worker.rescue import CopyJob, copy_aside


@pytest.mark.parametrize("sync", [True, False])
def test_a_copy_is_synced_where_a_save_must_survive_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: bool
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"content" * 1000)
    synced: list[tuple[int, int]] = []

    def watch(descriptor: int) -> None:
        found = os.fstat(descriptor)
        synced.append((found.st_ino, found.st_size))

    monkeypatch.setattr(durable, "sync_descriptor", watch)
    descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        assert copy_aside(CopyJob(descriptor, os.fstat(descriptor), str(tmp_path / "copy"), sync)) == ""
    finally:
        os.close(descriptor)
    copy = (tmp_path / "copy").stat()
    # Whole at that moment: a sync before the last byte would promise too much.
    assert synced == ([(copy.st_ino, copy.st_size)] if sync else [])
