"""Real tasks and sidecars, killed at random moments for some minutes: ``python -m ckpt_async.testing.soak``, or ``make soak``.

A round is a task with several attempts. Each attempt resumes, saves, flushes; at a random moment its process, its sidecar, or both
are killed, or the server stands still for a while. The last attempt is left alone; then all promises are checked.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ckpt_async.checkpointer import Checkpointer
from ckpt_async.testing.access import ACCESS_SPEC, access_variables
from ckpt_async.testing.crash_plan import Journal
from ckpt_async.testing.crash_scenario import LARGE_FROM, Place, recover, resume, save, saves_of, write_content
from ckpt_async.testing.seaweed import SeaweedServer
from ckpt_async.words.errors import CheckpointError
from ckpt_async.words.events import WorkerReady
from ckpt_async.words.settings import StoreAddress

__all__ = ["main"]

BUCKET = "ckpt-async-soak"
SAVES = 6
ATTEMPTS = 4
EVENTS = ("task", "sidecar", "both", "store", "nothing")

#: The latest moment of an accident, in seconds after the start of an attempt; most attempts take less.
LATEST_S = 4.0
OUTAGE_S = 1.5
ATTEMPT_TIMEOUT_S = 180.0
FLUSH_TIMEOUT_S = 90.0


def be_task(place: Place, attempt: int) -> None:
    """Be one attempt, until the end or until killed."""
    journal = Journal(place.journal)
    journal.note("task", pid=os.getpid())

    def tell_pid(event: object) -> None:
        if isinstance(event, WorkerReady):
            journal.note("sidecar", pid=event.pid)

    opened = place.open(attempt, "process", FLUSH_TIMEOUT_S, lambda line: journal.note("said", line=line))
    opened.add_listener(tell_pid)
    if attempt:
        resume(opened, place, journal)
    try:
        _train(opened, place, journal, attempt)
    finally:
        opened.close(timeout_s=FLUSH_TIMEOUT_S)
    journal.note("ended")


def _train(opened: Checkpointer, place: Place, journal: Journal, attempt: int) -> None:
    for number in range(LARGE_FROM * (attempt + 1), LARGE_FROM * (attempt + 1) + SAVES):
        write_content(place.data, number)
        reference = save(opened, place, number)
        journal.note("saved", number=number, version=reference["version_id"], key=reference["key"])
        if number % 4 == 0:
            opened.load(reference, place.target(f"load-{number}"))
            shutil.rmtree(place.target(f"load-{number}"))
    opened.flush()


@dataclass
class _Tally:
    """What happened at one kind of store."""

    counts: Counter[str] = field(default_factory=Counter)

    def row(self, store: str) -> str:
        names = ("rounds", "attempts", *EVENTS[:-1], "saves", "lost")
        return f"{store:10}" + "".join(f"{self.counts[name]:10}" for name in names)

    @staticmethod
    def head() -> str:
        names = ("rounds", "attempts", *(f"-{name}" for name in EVENTS[:-1]), "saves", "lost")
        return f"{'store':10}" + "".join(f"{name:>10}" for name in names)


class _Round:
    """One task with its attempts."""

    def __init__(self, place: Place, chosen: random.Random, tally: _Tally, server: SeaweedServer | None) -> None:
        self._place = place
        self._chosen = chosen
        self._tally = tally
        self._server = server

    def run(self) -> list[str]:
        """Return the promises that were broken."""
        os.makedirs(self._place.target(""))
        journal = Journal(self._place.journal)
        try:
            self._tally.counts["rounds"] += 1
            violations = []
            for attempt in range(ATTEMPTS):
                violations += self._attempt(attempt)
            violations += recover(self._place, journal, attempt=ATTEMPTS, number=LARGE_FROM * (ATTEMPTS + 1))
            self._end_sidecars()
            self._tally.counts["saves"] += len(saves_of(Journal.read(self._place.journal)))
            self._tally.counts["lost"] += bool(violations)
            return violations
        finally:
            journal.close()

    def _attempt(self, attempt: int) -> list[str]:
        event = self._chosen.choice(EVENTS if self._server else [name for name in EVENTS if name != "store"])
        after_s = self._chosen.uniform(0.0, LATEST_S)
        self._tally.counts["attempts"] += 1
        with open(os.path.join(self._place.folder, "log"), "ab") as log:
            address = {"url": self._place.address.url, "access": self._place.address.access}
            words = ["-m", "ckpt_async.testing.soak", "--be-task", self._place.folder, json.dumps(address), str(attempt)]
            task = subprocess.Popen(
                [sys.executable, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            try:
                status = task.wait(after_s)
            except subprocess.TimeoutExpired:
                self._strike(event, task)
                try:
                    status = task.wait(ATTEMPT_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    task.kill()
                    task.wait()
                    return [f"no end: attempt {attempt} did not end within {ATTEMPT_TIMEOUT_S:.0f} s after '{event}'"]
        killed = status == -signal.SIGKILL and event in ("task", "both")
        return [] if status == 0 or killed else [f"attempt {attempt} ended with status {status} after '{event}'"]

    def _strike(self, event: str, task: subprocess.Popen[bytes]) -> None:
        if event != "nothing":
            self._tally.counts[event] += 1
        if event in ("sidecar", "both"):
            pids = [line["pid"] for line in Journal.read(self._place.journal) if line["what"] == "sidecar"]
            with contextlib.suppress(ProcessLookupError, IndexError):
                os.kill(pids[-1], signal.SIGKILL)
        if event in ("task", "both"):
            task.kill()
        if event == "store" and self._server is not None:
            self._server.pause()
            time.sleep(OUTAGE_S)
            self._server.resume()

    def _end_sidecars(self) -> None:
        for line in Journal.read(self._place.journal):
            if line["what"] == "sidecar":
                deadline_s = time.monotonic() + ATTEMPT_TIMEOUT_S
                while time.monotonic() < deadline_s and _alive(line["pid"]):
                    time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextlib.contextmanager
def _server(wanted: bool) -> Iterator[SeaweedServer | None]:
    if not wanted:
        yield None
        return
    with SeaweedServer() as server:
        server.make_bucket(BUCKET)
        os.environ.update(access_variables(server.endpoint_url, server.admin.access_key, server.admin.secret_key))
        yield server


def main(arguments: Sequence[str]) -> int:
    """Run the program; returns its exit status: 1 where a promise was broken."""
    if arguments[:1] == ["--be-task"]:
        try:
            be_task(Place(arguments[1], StoreAddress(**json.loads(arguments[2]))), int(arguments[3]))
        except CheckpointError as error:
            print(error, file=sys.stderr)
            return 1
        return 0
    parser = argparse.ArgumentParser(prog="ckpt_async.testing.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long (a round that has begun is finished)")
    parser.add_argument("--seed", type=int, default=None, help="repeats the accidents of another soak, as far as timing allows")
    parser.add_argument("--store", choices=["both", "local", "s3"], default="both")
    parser.add_argument("--folder", help="for the rounds (default: a temporary one); rounds that broke a promise stay there")
    given = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    folder = given.folder or tempfile.mkdtemp(prefix="ckpt-async-soak-")
    stores = ["local", "s3"] if given.store == "both" else [given.store]
    print(f"seed {seed}, {given.minutes:g} minutes, in {folder}", flush=True)
    chosen = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    tallies = {store: _Tally() for store in stores}
    until_s = time.monotonic() + 60 * given.minutes
    number = 0
    with _server("s3" in stores) as server:
        while time.monotonic() < until_s:
            number += 1
            store = stores[number % len(stores)]
            place = _place(os.path.join(folder, f"round-{number:04d}"), store)
            violations = _Round(place, chosen, tallies[store], server if store == "s3" else None).run()
            if violations:
                print(f"LOST round {number} ({store}), see {place.folder}", *(f"    {text}" for text in violations), sep="\n")
            else:
                shutil.rmtree(place.folder)
    print(_Tally.head(), *(tally.row(store) for store, tally in tallies.items()), sep="\n")
    lost = any(tally.counts["lost"] for tally in tallies.values())
    if not lost and not given.folder:
        os.rmdir(folder)
    return int(lost)


def _place(folder: str, store: str) -> Place:
    os.makedirs(os.path.join(folder, "store"))
    if store == "local":
        return Place(folder, StoreAddress(os.path.join(folder, "store")))
    return Place(folder, StoreAddress(f"s3://{BUCKET}/{os.path.basename(folder)}", ACCESS_SPEC))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
