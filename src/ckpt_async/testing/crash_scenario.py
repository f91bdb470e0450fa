"""What a run does: a task that saves, loads, flushes and closes while something goes wrong; then its retry, which must find all
of it. Every claim that the engine makes meanwhile is written down, and checked in the end.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ckpt_async.assembly import open_checkpointer, open_reader
from ckpt_async.checkpointer import Checkpointer
from ckpt_async.reference import CheckpointReference
from ckpt_async.testing.crash_hooks import unwatched
from ckpt_async.testing.crash_plan import Journal, WorkerKilled
from ckpt_async.words import keys
from ckpt_async.words.errors import CheckpointError
from ckpt_async.words.events import WorkerReady
from ckpt_async.words.identity import TaskIdentity, short_hash
from ckpt_async.words.records import CheckpointRecord
from ckpt_async.words.settings import Settings, StoreAddress

__all__ = [
    "DYING_KEY",
    "LARGE_FROM",
    "Place",
    "check_store",
    "content_of",
    "difference",
    "recover",
    "resume",
    "run_task",
    "save",
    "saves_of",
    "write_content",
]

#: How long the flush of a run may take where nothing lasting goes wrong.
FLUSH_TIMEOUT_S = 20.0

#: How much longer than its deadline a wait may take on a busy machine.
GRACE_S = 5.0

#: Of each attempt.
SAVES = 3

#: From this number on, every third save has a file that is sent in several parts also where parts have their usual size.
LARGE_FROM = 1000

#: The file that never changes: a later save has the store copy it.
FROZEN = "base.bin"
FROZEN_BYTES = 1024 * 1024 + 11

FORMATS = ("files", "tar", "files", "tar")


@dataclass(frozen=True)
class Place:
    """The folders of one run, the address of its store, and how many checkpoints stay there (None: all)."""

    folder: str
    address: StoreAddress
    keep_last: int | None = None

    @property
    def scratch(self) -> str:
        """Where the spools stand."""
        return os.path.join(self.folder, "scratch")

    @property
    def data(self) -> str:
        """What is saved."""
        return os.path.join(self.folder, "data")

    @property
    def journal(self) -> str:
        """What happened."""
        return os.path.join(self.folder, "journal")

    def target(self, name: str) -> str:
        """A folder to load into."""
        return os.path.join(self.folder, "target", name)

    def identity(self, attempt: int) -> TaskIdentity:
        """Whose checkpoints they are."""
        return TaskIdentity("Flow", "1", "train", "7", attempt, short_hash("user:tester"), short_hash("train"))

    def open(self, attempt: int, worker: str, flush_timeout_s: float, say: Callable[[str], None]) -> Checkpointer:
        """Open the checkpointer of one attempt."""
        settings = Settings(async_upload=True, worker=worker, flush_timeout_s=flush_timeout_s, keep_last=self.keep_last)
        return open_checkpointer(self.identity(attempt), self.address, settings, scratch_root=self.scratch, say=say)

    def staying(self, numbers: Iterable[int]) -> list[int]:
        """Return which of these saves must be in the store once all of them have been stored."""
        return sorted(numbers)[-self.keep_last if self.keep_last else None :]


#: Of the second save of the first attempt, which is one archive.
DYING_KEY = keys.data_key(Place("", StoreAddress("")).identity(0), "model", 1)


@functools.lru_cache(maxsize=32)
def content_of(number: int) -> dict[str, bytes]:
    """Return the files of a save: small ones, which are packed, one of several parts, and one that never changes. Of the others
    the lengths change from save to save.
    """
    chosen = random.Random(number)  # noqa: S311 - the same files each time
    model_bytes = (18 if number >= LARGE_FROM and number % 3 == 0 else 1) * 1024 * 1024
    return {
        "step.txt": b"%d" % number,
        "empty": b"",
        "optimizer/state.bin": chosen.randbytes(3000 + 17 * number),
        "optimizer/deep/rng.bin": chosen.randbytes(200),
        "model.bin": chosen.randbytes(model_bytes + 4321 * (number % 100 + 1)),
        FROZEN: random.Random(FROZEN).randbytes(FROZEN_BYTES),  # noqa: S311 - likewise
    }


def write_content(folder: str, number: int) -> None:
    """Overwrite the training's files in place, as a training loop does; what is frozen is written once, long ago."""
    for path, content in content_of(number).items():
        target = os.path.join(folder, path)
        if path == FROZEN and os.path.exists(target):
            continue
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as file:
            file.write(content)
        if path == FROZEN:
            os.utime(target, ns=(10**18, 10**18))
    os.makedirs(os.path.join(folder, "logs"), exist_ok=True)


def difference(folder: str, number: int) -> str:
    """Compare a loaded folder with what was saved; empty where it is the same."""
    expected = content_of(number)
    found: dict[str, bytes] = {}
    with unwatched():
        for base, _, names in os.walk(folder):
            for name in names:
                path = os.path.join(base, name)
                with open(path, "rb") as file:
                    found[os.path.relpath(path, folder)] = file.read()
    wrong = sorted(path for path in {*expected, *found} if expected.get(path) != found.get(path))
    if not wrong and not os.path.isdir(os.path.join(folder, "logs")):
        wrong = ["logs/"]
    return f"save {number} came back with other content in {', '.join(wrong)}" if wrong else ""


def run_task(place: Place, worker: str, flush_timeout_s: float, journal: Journal, *, attempt: int = 0) -> None:
    """Be the task: three saves, one load, a flush, the end. It goes on where a call raises one of our errors, as a user may.
    A retry resumes first.
    """
    first = attempt * SAVES

    def tried(what: str, act: Callable[[], Any], limit_s: float) -> Any:
        began_s = time.monotonic()
        try:
            result = act()
            journal.note("done", call=what)
            return result
        except CheckpointError as error:
            journal.note("raised", call=what, error=error.to_wire())
        except WorkerKilled:
            journal.note("raised", call=what, error={})  # A reader's thread was struck: no worker of the engine.
        except Exception as error:
            journal.note("violation", text=f"{what} raised a foreign error: {type(error).__name__}: {error}")
        finally:
            took_s = time.monotonic() - began_s
            if took_s > limit_s + GRACE_S:
                journal.note("violation", text=f"{what} took {took_s:.1f} s, its deadline is {limit_s:.1f} s")
        return None

    def say(line: str) -> None:
        journal.note("said", line=line)

    opened = tried("open", lambda: place.open(attempt, worker, flush_timeout_s, say), GRACE_S)
    if opened is None:
        return
    if worker == "process":
        # Only a sidecar that is up guards links: without this wait, all files would be copied.
        ready = threading.Event()
        opened.add_listener(lambda event: ready.set() if isinstance(event, WorkerReady) else None)
        ready.wait(GRACE_S)
    if attempt:
        tried("resume", lambda: resume(opened, place, journal), flush_timeout_s + 30)
    references: list[CheckpointReference] = []
    for number in range(first, first + SAVES):
        write_content(place.data, number)
        reference = tried(f"save {number}", functools.partial(save, opened, place, number), flush_timeout_s)
        if reference is not None:
            journal.note("saved", number=number, version=reference["version_id"], key=reference["key"])
            references.append(reference)
    if len(references) > 1:
        target = place.target(f"task-{attempt}")
        loaded = tried("load", lambda: opened.load(references[1], target), flush_timeout_s + 30)
        if loaded is not None and (wrong := difference(target, references[1].record.metadata["number"])):
            journal.note("violation", text=f"load(): {wrong}")
    tried("flush", lambda: opened.flush(), flush_timeout_s)
    tried("close", lambda: opened.close(timeout_s=flush_timeout_s), flush_timeout_s + 15)


def save(opened: Checkpointer, place: Place, number: int) -> CheckpointReference:
    """Save what `write_content` wrote under this number."""
    return opened.save(place.data, name="model", metadata={"number": number}, storage_format=FORMATS[number % len(FORMATS)])


def saves_of(journal: list[dict[str, Any]]) -> dict[int, str]:
    """Return the numbers of the acknowledged saves, with the keys of their checkpoints."""
    return {line["number"]: line["key"] for line in journal if line["what"] == "saved"}


def check_store(place: Place, say: Callable[[str], None]) -> tuple[dict[str, int], CheckpointRecord | None, list[str]]:
    """Load everything that the store shows: return key and number of each checkpoint, the latest one, and what is wrong."""
    violations: list[str] = []
    reader = open_reader(place.address, say=say, give_up_after_s=GRACE_S)
    visible: dict[str, int] = {}
    pathspec = place.identity(0).pathspec

    def look() -> None:
        for record in reader.list(pathspec):
            if record.key in visible:
                continue
            visible[record.key] = number = record.metadata["number"]
            target = place.target("check")
            try:
                reader.load(record.key, target)
                if wrong := difference(target, number):
                    violations.append(f"half there: {record.key}: {wrong}")
            except CheckpointError as error:
                # A sidecar that outlived its task may have deleted it since.
                if place.keep_last is None or record.key in {one.key for one in reader.list(pathspec)}:
                    violations.append(f"half there: {record.key} is listed and can't be loaded: {error}")
            shutil.rmtree(target, ignore_errors=True)

    look()
    latest = None
    for pointer in (keys.task_latest_key(pathspec), keys.scope_latest_key(place.identity(0))):
        try:
            found = reader.latest_at(pointer)
        except CheckpointError as error:
            violations.append(f"{pointer} can't be read: {error}")
            continue
        if found is not None and found.key not in visible:
            look()  # A sidecar that outlived its task may have stored it since.
        if found is not None and found.key not in visible:
            violations.append(f"{pointer} dangles: {found.key} is not listed")
        if pointer.startswith(keys.task_records_prefix(pathspec)):
            latest = found
    return visible, latest, violations


def recover(place: Place, journal: Journal, *, attempt: int = 1, number: int | None = None) -> list[str]:
    """Be the retry of a task that something went wrong with; return the promises that were broken.

    Parameters
    ----------
    number : int, optional
        Of the save that the retry makes; the next one after those of earlier attempts if left out.
    """
    number = attempt * SAVES if number is None else number
    said: list[str] = []
    saved = saves_of(Journal.read(place.journal))
    before, latest_before, violations = check_store(place, said.append)

    opened: Checkpointer | None = None
    try:
        opened = place.open(attempt, "thread", FLUSH_TIMEOUT_S, said.append)
        resume(opened, place, journal)
        write_content(place.data, number)
        last = save(opened, place, number)
        opened.flush()
        opened.close(timeout_s=FLUSH_TIMEOUT_S)
    except CheckpointError as error:
        if opened is not None:
            with contextlib.suppress(CheckpointError):
                opened.close(timeout_s=GRACE_S)
        violations += _broken_in(Journal.read(place.journal), place, saved, before)
        return [*violations, f"lost: the retry failed: {type(error).__name__}: {error}", *said]
    lines = Journal.read(place.journal)
    violations += _broken_in(lines, place, saved, before)
    saved[number] = last["key"]
    after, latest_after, wrong = check_store(place, said.append)
    violations += wrong
    # One whose save() was killed before it could return may be there too.
    staying = place.staying({*saved, *after.values()})
    lost = [number for number in staying if number in saved and saved[number] not in after]
    if lost:
        violations.append(f"lost: {lost} of {sorted(saved)} are not in the store after the retry")
    if place.keep_last is not None and (kept := sorted(number for number in after.values() if number not in staying)):
        violations.append(f"not deleted: {kept}, where {staying} are to stay")
    moved_back = latest_before is not None and latest_after is not None and latest_before.order > latest_after.order
    if latest_after is None or latest_after.key != last["key"] or moved_back:
        violations.append(f"latest names {latest_after.key if latest_after else None} after the retry saved {last['key']}")
    left = _left(place.scratch)
    if left:
        violations.append(f"not emptied: {left}")
    journal.note("recovered", visible=sorted(after.values()))
    return violations + [f"said: {line}" for line in said if violations]


def _broken_in(lines: list[dict[str, Any]], place: Place, saved: dict[int, str], visible: dict[str, int]) -> list[str]:
    """Return the promises that were broken by what the journal tells, `visible` being what the store had after all of that."""
    violations = [line["text"] for line in lines if line["what"] == "violation"]
    for line in lines:
        if line["what"] == "resumed":
            expected = max(line["acknowledged"], default=-1)
            if expected > (-1 if line["number"] is None else line["number"]):
                violations.append(f"lost: a retry resumes from {line['number']}, acknowledged were {line['acknowledged']}")
    done = {line["call"] for line in lines if line["what"] == "done"}
    staying = place.staying({*saved, *visible.values()})
    missing = [number for number in staying if number in saved and saved[number] not in visible]
    # What the retry of a retry adopts in vain is told by a line, and left for the next one.
    told = any(line["what"] == "said" and "could not be stored" in line["line"] for line in lines)
    if done & {"flush", "close"} and missing and not told:
        violations.append(f"silent: {' and '.join(sorted(done & {'flush', 'close'}))} said well, the store lacks {missing}")
    return violations


def resume(opened: Checkpointer, place: Place, journal: Journal) -> None:
    """Load the newest checkpoint, as a retry does, and note in the journal which one it is."""
    saved = saves_of(Journal.read(place.journal))
    target = place.target("resumed")
    shutil.rmtree(target, ignore_errors=True)
    record = opened.resume("fresh", target)
    number = None if record is None else record.metadata["number"]
    if number is not None and (wrong := difference(target, number)):
        journal.note("violation", text=f"lost: the retry resumes from something else: {wrong}")
    journal.note("resumed", number=number, acknowledged=sorted(saved))


def _left(scratch: str) -> list[str]:
    """Return what stands in the folder of the spools; it should be nothing."""
    return sorted(
        os.path.relpath(os.path.join(base, name), scratch) for base, folders, names in os.walk(scratch) for name in folders + names
    )
