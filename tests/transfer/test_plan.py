from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from ckpt_async.stores.contract import StoreTraits
from ckpt_async.transfer.plan import (
    PARTS_SHARE,
    PlannedObject,
    PlannedPart,
    SourceFile,
    UploadPlan,
    make_plan,
    part_bytes_within,
    tar_size_bytes,
)
from ckpt_async.transfer.reading import FilePiece, ReadPart, digest_of_pieces, read_part
from ckpt_async.words.errors import SpoolDamaged
from tests.transfer.parts import DIRECTORIES, FILES, job_of, record_of

FAST = settings(max_examples=60, deadline=None, database=None)
MIB = 1024 * 1024


def traits(most: int, *, least: int = 1, count: int = 10_000) -> StoreTraits:
    return StoreTraits("memory://", least, most, count)


def sources(sizes: dict[str, int]) -> list[SourceFile]:
    return [SourceFile(path, size, 0o644, 10**18, "/nowhere", 0) for path, size in sorted(sizes.items())]


def check_cover(planned: PlannedObject) -> None:
    """Every byte of the object is in exactly one part, and every part in exactly one run of pieces."""
    position = 0
    for number, part in enumerate(planned.parts, 1):
        assert (part.number, part.offset) == (number, position)
        pieces = planned.pieces(part)
        assert sum(length for _, _, length in pieces) == part.size_bytes
        assert all(inside >= 0 and inside + length <= segment.size_bytes for segment, inside, length in pieces)
        position += part.size_bytes
    assert position == sum(segment.size_bytes for segment in planned.segments)


paths = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=300).filter(
    lambda name: name not in (".", "..")
)


@FAST
@given(st.dictionaries(paths, st.integers(0, 5000), max_size=8), st.integers(1, 3000), st.sampled_from(["files", "tar"]))
def test_parts_cover_every_object_exactly(sizes: dict[str, int], most: int, storage_format: str) -> None:
    files = sources(sizes)
    plan = make_plan(record_of(storage_format=storage_format), files, ["d"], traits(most))
    for planned in plan.objects:
        check_cover(planned)
        assert planned.parts and all(0 < part.size_bytes <= most for part in planned.parts[:-1])
    assert plan == make_plan(record_of(storage_format=storage_format), files, ["d"], traits(most)), "a later worker plans alike"
    if storage_format == "files":
        assert plan.total_bytes == sum(sizes.values()) and len(plan.objects) == len(sizes)
    else:
        assert plan.total_bytes == tar_size_bytes(files, ["d"])


@FAST
@given(st.integers(0, 50 * 2**40), st.integers(1, 10_000))
def test_parts_keep_within_the_bounds_of_a_store_like_s3(size_bytes: int, most_parts: int) -> None:
    s3 = traits(5 * 2**30, least=5 * MIB, count=most_parts)
    # The size of a part alone: a plan of 50 TiB is not written down here.
    part_bytes = part_bytes_within(size_bytes, s3, 16 * MIB)
    assert s3.min_part_bytes <= part_bytes <= s3.max_part_bytes
    usable = max(1, int(most_parts * PARTS_SHARE))
    if size_bytes <= usable * s3.max_part_bytes:
        assert -(-size_bytes // part_bytes) <= max(usable, 1)


def read(planned: PlannedObject, part: PlannedPart, files: Sequence[SourceFile]) -> ReadPart:
    return read_part(planned, part, files, memoryview(bytearray(part.size_bytes)))


def tar_bytes(plan: UploadPlan, files: list[SourceFile]) -> bytes:
    [planned] = plan.objects
    return b"".join(chunk for part in planned.parts for chunk in read(planned, part, files).body.chunks)


def test_the_tar_is_one_that_tarfile_reads_byte_for_byte(tmp_path: Path) -> None:
    long = "deep/" * 60 + "x" * 200
    contents = {
        **FILES,
        long: b"long",
        "ünï/日本語 " + "ö" * 120: b"unicode",
        " leading\nline": b"odd",
        "-rf": b"",
        "trailing ": b"1",
    }
    job = job_of(tmp_path / "spool", contents, "tar")
    plan = make_plan(job.record, job.files, job.directories, traits(777))
    text = tar_bytes(plan, list(job.files))
    assert len(text) == job.record.size_bytes == plan.total_bytes and len(text) % tarfile.RECORDSIZE == 0
    assert text.endswith(bytes(2 * tarfile.BLOCKSIZE))
    with tarfile.open(fileobj=io.BytesIO(text)) as tar:
        members = tar.getmembers()
        assert [member.name for member in members if member.isdir()] == sorted(DIRECTORIES)
        assert {member.name: tar.extractfile(member).read() for member in members if member.isfile()} == contents  # type: ignore[union-attr]
        assert {member.mode for member in members if member.isfile()} == {0o640}
        assert {member.mtime for member in members if member.isfile()} == {1_600_000_000}
    for file, offset in zip(job.files, plan.tar_offsets, strict=True):
        assert text[offset : offset + file.size_bytes] == contents[file.path]


@pytest.mark.parametrize("mtime_ns", [-1, -(10**18), 0, 10**20])
@pytest.mark.parametrize("size_bytes", [0, 1, 511, 512, 513, 9 * 2**30])
def test_odd_times_and_sizes_have_a_place_in_the_tar(mtime_ns: int, size_bytes: int) -> None:
    files = [SourceFile("x", size_bytes, 0o644, mtime_ns, "/nowhere", 0)]
    plan = make_plan(record_of(storage_format="tar"), files, [], traits(2**30))
    header = plan.objects[0].segments[0].literal
    assert plan.tar_offsets[0] == len(header) and len(header) % tarfile.BLOCKSIZE == 0
    with tarfile.open(fileobj=io.BytesIO(header + bytes(1024)), mode="r:") as tar:
        member = tar.next()
    assert member is not None and (member.size, member.mtime) == (size_bytes, mtime_ns // 10**9)


@pytest.mark.parametrize("storage_format", ["files", "tar"])
@pytest.mark.parametrize("part_bytes", [1, 100, 3000, 1 << 30])
def test_one_read_gives_the_bytes_and_every_digest(tmp_path: Path, storage_format: str, part_bytes: int) -> None:
    contents = {"a": b"a" * 700, "b": b"", "c": bytes(range(256)) * 3}
    job = job_of(tmp_path / "spool", contents, storage_format)
    plan = make_plan(job.record, job.files, (), traits(part_bytes))
    pieces: dict[int, list[FilePiece]] = {}
    for planned in plan.objects:
        for part in planned.parts if part_bytes > 1 else planned.parts[-900:]:
            part_read = read(planned, part, job.files)
            joined = b"".join(part_read.body.chunks)
            assert len(joined) == part_read.body.size_bytes == part.size_bytes
            assert part_read.body.crc32 == zlib.crc32(joined)
            for piece in part_read.pieces:
                pieces.setdefault(piece.file_index, []).append(piece)
    if part_bytes > 1:
        for index, file in enumerate(job.files):
            assert digest_of_pieces(pieces.get(index, []), file.size_bytes) == zlib.crc32(contents[file.path])


def test_large_runs_are_joined_by_their_sums(tmp_path: Path) -> None:
    contents = {"a": bytes(3) * MIB, "b": b"xyz" * MIB, "c": b"q"}
    job = job_of(tmp_path / "spool", contents, "tar")
    plan = make_plan(job.record, job.files, (), traits(1 << 30))
    body = read(plan.objects[0], plan.objects[0].parts[0], job.files).body
    assert body.crc32 == zlib.crc32(b"".join(body.chunks))


def test_a_digest_is_only_made_of_pieces_that_cover_the_file() -> None:
    whole = [FilePiece(0, 0, 5, zlib.crc32(b"hello")), FilePiece(0, 5, 6, zlib.crc32(b" world"))]
    assert digest_of_pieces(whole[::-1], 11) == zlib.crc32(b"hello world")
    for wrong in ([], whole[:1], whole[1:], [*whole, whole[1]]):
        assert digest_of_pieces(wrong, 11) is None
    assert digest_of_pieces([], 0) == 0


def test_a_snapshot_that_somebody_changed_is_named(tmp_path: Path) -> None:
    job = job_of(tmp_path / "spool", {"a": b"12345"})
    plan = make_plan(job.record, job.files, (), traits(100))
    pack = Path(job.files[0].local_path)
    pack.write_bytes(b"123")
    with pytest.raises(SpoolDamaged, match="2 bytes early inside 'a'"):
        read(plan.objects[0], plan.objects[0].parts[0], job.files)
    pack.unlink()
    with pytest.raises(SpoolDamaged, match="No such file"):
        read(plan.objects[0], plan.objects[0].parts[0], job.files)
