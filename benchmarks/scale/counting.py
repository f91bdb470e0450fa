"""Which requests the engine makes, counted without making them: from its own plans, formats and constants.

A count is by kind and by area, the folder below the root that the key lies in; what names no one key has no area.
``tests/test_scale.py`` compares the counts with the engine at work.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ckpt_async import TaskIdentity
from ckpt_async.stores.contract import CopySource, StoreTraits
from ckpt_async.transfer.plan import PlannedObject, PlannedPart, SourceFile, UploadPlan, make_plan, tar_size_bytes
from ckpt_async.transfer.ranges import WantedFile, plan_reads
from ckpt_async.transfer.recorded import to_manifest
from ckpt_async.transfer.unchanged import COPY_MIN_BYTES, StoredPart
from ckpt_async.words.manifest import Manifest, ManifestFile
from ckpt_async.words.records import CheckpointRecord

MIB = 1024 * 1024

#: What `S3Store` says of itself.
S3_TRAITS = StoreTraits("s3://bucket/metaflow", 5 * MIB, 5 * 1024 * MIB, 10_000)
#: Of one list request, and of one delete request.
PAGE_KEYS = 1000

DATA, MANIFESTS, BY_KEY, BY_TASK, MARKS, PINS, GROUPS = (
    "artifacts", "manifests", "artifact_metadata", "metadata", "deletions", "pins", "groups",
)  # fmt: skip

#: By (kind, area).
Requests = Counter[tuple[str, str]]

SOME_TASK = TaskIdentity("TrainFlow", "1234", "train", "567", 0, "0" * 12, "1" * 12)
#: The decorator's own.
NAME = "mfchckpt"
#: For texts that hold a moment and a save number.
SOME_NS = 1_780_000_000_123_456_789
SOME_VERSION = 100


@dataclass(frozen=True)
class Content:
    """What a task saves each time: so many files of one size.

    Attributes
    ----------
    changed : float
        The share of it that is another one than at the save before; the parts at its beginning.
    """

    files: int
    file_bytes: int
    storage_format: str = "files"
    changed: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.changed <= 1:
            raise ValueError(f"a share is 0 to 1, not {self.changed:g}")

    @property
    def size_bytes(self) -> int:
        return self.files * self.file_bytes


@dataclass(frozen=True)
class SaveCount:
    """What one save asks of the store.

    Attributes
    ----------
    requests : Counter
        All of them, by kind and area.
    sent_bytes, copied_bytes : int
        Of data.
    text_bytes : int
        Of manifest, records and pointers.
    multiparts : int
        Objects that are sent in parts.
    """

    requests: Requests
    sent_bytes: int
    copied_bytes: int
    text_bytes: int
    multiparts: int


def source_files(content: Content) -> tuple[SourceFile, ...]:
    """The frozen files of a content, as the planner takes them; they don't exist."""
    return tuple(SourceFile(f"{number:05}.bin", content.file_bytes, 0o644, SOME_NS, "", 0) for number in range(content.files))


def record_of(content: Content, version: int = SOME_VERSION) -> CheckpointRecord:
    """The record of a save with this content."""
    files = source_files(content)
    size_bytes = tar_size_bytes(files, ()) if content.storage_format == "tar" else content.size_bytes
    return CheckpointRecord.of_save(
        SOME_TASK,
        name=NAME,
        version=version,
        size_bytes=size_bytes,
        metadata={},
        storage_format=content.storage_format,
        store_url=S3_TRAITS.url,
        now_unix_ns=SOME_NS,
    )


@functools.cache
def part_bytes_of(content: Content) -> int:
    """The size of the parts that it is sent in; of its objects, where these are smaller."""
    return plan_of(content).objects[0].parts[0].size_bytes


def plan_of(content: Content, record: CheckpointRecord | None = None) -> UploadPlan:
    """The engine's plan for an upload of this content to S3, with the parts of a first save: those stay."""
    return make_plan(record or record_of(content), source_files(content), (), S3_TRAITS)


def changed_parts(plan: UploadPlan, changed: float) -> Callable[[PlannedObject, PlannedPart], bool]:
    """Whether a part is another one than last time: so large a share of all parts, those at the beginning."""
    total = sum(len(planned.parts) for planned in plan.objects)
    left = round(total * changed)
    firsts: set[tuple[str, int]] = set()
    for planned in plan.objects:
        for part in planned.parts[:left]:
            firsts.add((planned.key, part.number))
        left -= min(left, len(planned.parts))
        if not left:
            break
    return lambda planned, part: (planned.key, part.number) in firsts


def count_upload(plan: UploadPlan, is_changed: Callable[[PlannedObject, PlannedPart], bool] = lambda *_: True) -> SaveCount:
    """The requests of `ckpt_async.transfer.upload`."""
    requests: Requests = Counter()
    sent = copied = multiparts = 0
    for planned in plan.objects:
        whole, copies = len(planned.parts) == 1, 0
        for part in planned.parts:
            if planned.size_bytes >= COPY_MIN_BYTES and not is_changed(planned, part):
                copies += 1
                copied += part.size_bytes
            else:
                sent += part.size_bytes
        requests["copy" if whole else "copy_part", DATA] += copies
        requests["put" if whole else "put_part", DATA] += len(planned.parts) - copies
        if not whole:
            multiparts += 1
            requests["create_upload", DATA] += 1
            requests["complete_upload", DATA] += 1
            requests["head", DATA] += bool(copies)
    return SaveCount(+requests, sent, copied, 0, multiparts)


def count_commit(*, first: bool, latest: bool = True) -> Requests:
    """The requests of `ckpt_async.transfer.commit`; `first`: nothing is stored under these pointers yet."""
    requests: Requests = Counter({("put", MANIFESTS): 1, ("put", BY_KEY): 1, ("put", BY_TASK): 1})
    for area in (BY_TASK, BY_KEY) if latest else ():
        requests["head", area] += 1
        requests["get", area] += not first
        requests["put", area] += 1
    return +requests


def count_recall() -> Requests:
    """The requests of `ckpt_async.transfer.recalling`: a worker's first large save of a retry."""
    return Counter({("get", BY_TASK): 1, ("get", MANIFESTS): 1})


@functools.lru_cache(maxsize=256)
def count_save(content: Content, *, first: bool, version: int = SOME_VERSION) -> SaveCount:
    """The requests of one save, up to its visibility; of the first one of a task, or of a later one by the same worker."""
    record = record_of(content, version)
    plan = plan_of(content, record)
    upload = count_upload(plan) if first else count_upload(plan, changed_parts(plan, content.changed))
    texts = text_bytes(content, record, plan)
    return SaveCount(upload.requests + count_commit(first=first), upload.sent_bytes, upload.copied_bytes, texts, upload.multiparts)


def text_bytes(content: Content, record: CheckpointRecord, plan: UploadPlan) -> int:
    """The size of manifest, both records and both pointers: written by the engine, with invented sums."""
    files = source_files(content)
    rows = tuple(
        ManifestFile(file.path, file.size_bytes, "0" * 8, file.mode, file.mtime_ns, offset)
        for file, offset in zip(files, plan.tar_offsets, strict=True)
    )
    parts: list[StoredPart] = []
    for planned in plan.objects:
        if planned.size_bytes >= COPY_MIN_BYTES:
            whole = len(planned.parts) == 1
            etag = f'"{"0" * 32}"' if whole else f'"{"0" * 32}-{len(planned.parts)}"'
            parts += [
                StoredPart(CopySource(planned.key, etag, part.offset, part.size_bytes, 0), whole, "0" * 32, "")
                for part in planned.parts
            ]
    stored = to_manifest(record.key, [file.path for file in files], parts, plan.part_bytes)
    manifest = Manifest(record.key, record.storage_format, rows, (), stored=stored)
    return len(manifest.to_json()) + 4 * len(record.to_json())


@functools.cache
def count_load(content: Content, *, by_pointer: bool) -> Requests:
    """The requests of a load, by a retry that follows its task's pointer, or by reference."""
    record = record_of(content)
    plan = plan_of(content, record)
    wanted = [
        WantedFile("", content.file_bytes, record.key if offset >= 0 else f"{record.key}/{index}", max(0, offset), "", None, None)
        for index, offset in enumerate(plan.tar_offsets)
    ]
    reads = sum(1 for _ in plan_reads(wanted))
    return Counter({("get", BY_TASK if by_pointer else BY_KEY): 1, ("get", MANIFESTS): 1, ("get", DATA): reads})


def count_list(checkpoints: int, area: str = BY_TASK) -> Requests:
    """The requests of a list of one task's checkpoints, or of a scope's: the pointer lies among them."""
    return Counter({("list", area): pages(checkpoints + 1), ("get", area): checkpoints})


def count_deletion(content: Content) -> Requests:
    """The requests of `ckpt_async.transfer.deletion`, by reference, of a checkpoint that no pointer names."""
    objects = 1 if content.storage_format == "tar" else content.files
    requests: Requests = Counter({("get", BY_KEY): 1, ("head", MARKS): 1, ("put", MARKS): 1, ("head", DATA): 1})
    for area in (BY_TASK, BY_KEY):
        requests["head", area] += 2
        requests["get", area] += 2
    in_folder = objects if content.storage_format == "files" else 0
    requests["list", DATA] += pages(in_folder)
    # The pin, the two records, the manifest and the mark, each by itself; the data by the page.
    requests["delete_many", ""] += 5 + -(-objects // PAGE_KEYS)
    return requests


def count_pass(content: Content) -> Requests:
    """The requests of `ckpt_async.worker.retention` after a save that takes the place of an older one."""
    requests = count_deletion(content)
    # The record is known, and its pin is looked for instead of deleted.
    requests.subtract({("get", BY_KEY): 1, ("delete_many", ""): 1})
    # The list with the record that is new in it, the pins; the pointers, and again behind the mark, with a look at both records.
    requests.update({("list", BY_TASK): 1, ("get", BY_TASK): 3, ("list", PINS): 1, ("get", BY_KEY): 2})
    requests.update({("head", BY_TASK): 1, ("head", BY_KEY): 1, ("head", PINS): 1})
    return requests


def count_group(nodes: int, at_once: int = 1) -> Requests:
    """What a group save of so many nodes asks for besides the uploads of the parts; not the first one of its task.

    Parameters
    ----------
    at_once : int
        How many nodes note their part before any of them looks which parts are there: all of these see all, and commit. With more
        than one this is a bound: whoever comes too late to move a pointer makes a request less.
    """
    requests: Requests = Counter({("put", GROUPS): nodes, ("list", GROUPS): nodes})
    for _ in range(at_once):
        requests.update(count_commit(first=False))
        # The verdict is written, read, and read again at the end.
        requests.update({("put", GROUPS): 1, ("get", GROUPS): nodes + 2})
    return requests


def pages(objects: int) -> int:
    """The list requests that so many objects take."""
    return max(1, -(-objects // PAGE_KEYS))


def by_kind(requests: Requests) -> Counter[str]:
    """The count without the areas."""
    found: Counter[str] = Counter()
    for (kind, _), count in requests.items():
        found[kind] += count
    return found


WRITES = frozenset({"put", "put_part", "create_upload", "complete_upload", "copy", "copy_part", "delete_many", "abort_upload"})


def writes_in(requests: Requests) -> int:
    """Those that count as PUT, COPY, POST or DELETE for a limit on requests."""
    return sum(count for (kind, _), count in requests.items() if kind in WRITES)


def total(requests: Requests, kinds: Sequence[str] = ()) -> int:
    """All requests, or those of some kinds."""
    return sum(count for (kind, _), count in requests.items() if not kinds or kind in kinds)
