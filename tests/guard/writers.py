"""Everything that programs do to a file that they have saved: how it is first written, and what then happens to it."""

from __future__ import annotations

import mmap
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

SIZE = 600 * 1024  # above the limit of linking

Act = Callable[[Path], None]


def plain(path: Path) -> None:
    path.write_bytes(os.urandom(SIZE))


def rewrite(path: Path) -> None:
    with open(path, "wb") as file:
        file.write(b"new" * 1000)


def update(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(1000)
        file.write(b"x" * 5000)


def append(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


def truncate(path: Path) -> None:
    os.truncate(path, 10)


def truncate_open(path: Path) -> None:
    with open(path, "r+b") as file:
        file.truncate(SIZE - 1)


def through_mapping(path: Path) -> None:
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[5000:5010] = b"y" * 10
        mapping.flush()


def copy_over(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(bytes(SIZE))
    shutil.copyfile(other, path)


def in_child(path: Path) -> None:
    code = "import sys; open(sys.argv[1], 'r+b').write(b'child' * 100)"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


def replace(path: Path) -> None:
    other = path.with_name("fresh")
    other.write_bytes(b"fresh")
    os.replace(other, path)


def rename_away_and_rewrite(path: Path) -> None:
    moved = path.with_name("moved")
    os.rename(path, moved)
    rewrite(moved)


def remove(path: Path) -> None:
    os.unlink(path)


def remove_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def save_array(path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    with open(path, "wb") as file:
        numpy.save(file, numpy.random.default_rng().random(SIZE // 8))


def map_array(path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.load(path, mmap_mode="r+")
    array[:1000] = 7
    array.flush()


def save_tensors(path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"weights": torch.rand(SIZE // 4), "step": 1}, path)


def save_pickle(path: Path) -> None:
    with open(path, "wb") as file:
        pickle.dump([os.urandom(1000) for _ in range(SIZE // 1000)], file)


def save_hdf5(path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file["data"] = list(os.urandom(SIZE))


def update_hdf5(path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "r+") as file:
        file["data"][:1000] = 7


def save_table(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("create table if not exists t (x blob)")
    connection.executemany("insert into t values (?)", [(os.urandom(1000),) for _ in range(SIZE // 1000)])
    connection.commit()
    connection.close()


@dataclass(frozen=True)
class Case:
    """A file's life: how it is written, and what happens after it was saved."""

    name: str
    write: Act
    change: Act
    needs: str = ""


CASES = [
    Case("open-wb", plain, rewrite),
    Case("r+b", plain, update),
    Case("append", plain, append),
    Case("truncate", plain, truncate),
    Case("ftruncate", plain, truncate_open),
    Case("mapping", plain, through_mapping),
    Case("copyfile", plain, copy_over),
    Case("child", plain, in_child),
    Case("os.replace", plain, replace),
    Case("renamed", plain, rename_away_and_rewrite),
    Case("unlink", plain, remove),
    Case("rmtree", plain, remove_folder),
    Case("pickle", save_pickle, save_pickle),
    Case("sqlite", save_table, save_table),
    Case("np.save", save_array, save_array, "numpy"),
    Case("np.memmap", save_array, map_array, "numpy"),
    Case("torch.save", save_tensors, save_tensors, "torch"),
    Case("hdf5", save_hdf5, save_hdf5, "h5py"),
    Case("hdf5-update", save_hdf5, update_hdf5, "h5py"),
]
