"""Where faults are tried: in memory where the system has that, for the seconds that a disk takes for a sync show nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

IN_MEMORY = "/dev/shm"


@pytest.fixture
def quick_folder(tmp_path: Path) -> Iterator[Path]:
    if not os.access(IN_MEMORY, os.W_OK):
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(prefix="ckpt-async-test-", dir=IN_MEMORY))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
