"""The program in which runs happen: everything is imported once, then each process of a run is a forked child that may be killed.

Reads one request a line from its input and writes one answer a line. Started by `ckpt_async.testing.crash_points`.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel

from ckpt_async import assembly, sidecar
from ckpt_async.stores import opening, retrying
from ckpt_async.stores.contract import Store
from ckpt_async.stores.pacing import Pace
from ckpt_async.testing.crash_hooks import Hooks
from ckpt_async.testing.crash_plan import Journal, Plan, Steps
from ckpt_async.testing.crash_scenario import FLUSH_TIMEOUT_S, SAVES, Place, content_of, recover, run_task
from ckpt_async.testing.crash_sidecar import Nursery, Sidecar, start_sidecar
from ckpt_async.testing.crash_store import StepStore
from ckpt_async.words.settings import StoreAddress
from ckpt_async.worker import sidecar_client, uploader

__all__ = ["main", "prepare"]

#: For the flush of a run in which something fails for good: it will not succeed, and nobody wants to wait for that.
SHORT_TIMEOUT_S = 1.0

#: No child may take longer than this.
CHILD_TIMEOUT_S = 240.0

#: What the engine imports when it needs it.
IMPORTED_LATE = (
    "anyio.from_thread",
    "ckpt_async.hosting",
    "ckpt_async.recovery",
    "ckpt_async.spool.keeping",
    "ckpt_async.stores.local.store",
    "ckpt_async.taking",
    "ckpt_async.worker.detached",
)

#: What a store of an address needs, by its scheme.
IMPORTED_FOR = {"azure": "ckpt_async.stores.azure.store", "gs": "ckpt_async.stores.gcs.store"}


def prepare(text: str, role: str, partner: Callable[[], int]) -> Journal:
    """Install the hooks of a run in this process; returns the run's journal.

    Parameters
    ----------
    text : str
        The request, as JSON.
    role, partner
        See `Steps`.
    """
    request = json.loads(text)
    place = _place(request)
    journal = Journal(place.journal)
    plan = Plan.from_json(request["plan"]) if request["plan"] else None
    quiet = bool(request.get("quiet"))
    if quiet:
        plan = Plan("none", "none")  # Neither strikes nor tells every step; the store is watched all the same.
    steps = Steps(plan, journal, place.folder, role, partner)

    def open_store(address: StoreAddress, pace: Pace | None = None) -> Store:
        return StepStore(opening.open_store(address, pace), steps)

    assembly.open_store = open_store  # type: ignore[attr-defined]
    # What a user waits for in a bad minute is not what a test is about.
    retrying.FIRST_BACKOFF_S, retrying.LAST_BACKOFF_S, uploader.ENTRY_RETRY_S = 0.005, 0.05, 0.02
    (assembly.open_reader.__kwdefaults__ or {})["give_up_after_s"] = SHORT_TIMEOUT_S * 2
    roots = {"spool": place.scratch, "target": place.target("")}
    if "://" not in place.address.url:
        roots["store"] = place.address.url
    if not quiet:
        Hooks(steps, roots).install()
    return journal


def _place(request: dict[str, Any]) -> Place:
    return Place(request["folder"], StoreAddress(**request["address"]), request.get("keep_last"))


def _be_task(request: dict[str, Any], nursery: Nursery) -> None:
    text = json.dumps(request)
    asking = nursery.for_task()
    newest = [0]
    journal = prepare(text, "task" if request["worker"] == "process" else "", lambda: newest[0])

    def start(command: list[str], *, stderr: int, pass_fds: Sequence[int], **_more: Any) -> Sidecar:
        sidecar = start_sidecar(asking, text, command, stderr=stderr, pass_fds=pass_fds)
        newest[0] = sidecar.pid
        return sidecar

    replaced = SimpleNamespace(Popen=start, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired)
    sidecar_client.__dict__["subprocess"] = replaced
    lasting = bool(request["plan"]) and json.loads(request["plan"])["lasting"]
    timeout_s = SHORT_TIMEOUT_S if lasting else FLUSH_TIMEOUT_S
    run_task(_place(request), request["worker"], timeout_s, journal, attempt=1 if request["what"] == "retry" else 0)


def _be_sidecar(text: str, arguments: list[str]) -> int:
    task_pid = int(arguments[2])
    prepare(text, "worker", lambda: task_pid)
    return sidecar.main(arguments)


def _be_recovery(request: dict[str, Any], _nursery: Nursery) -> None:
    journal = prepare(json.dumps({**request, "plan": "", "quiet": True}), "", lambda: 0)
    violations = recover(_place(request), journal, attempt=request["attempt"])
    journal.note("result", violations=violations)


@dataclass(frozen=True)
class _Ended:
    """How a child ended: whether in time, its status (below 0: the signal), and the sidecars that it had."""

    in_time: bool
    status: int
    sidecars: tuple[int, ...]


def _in_child(act: Callable[[dict[str, Any], Nursery], None], request: dict[str, Any]) -> _Ended:
    """Run it in a forked child, and its sidecars beside it."""
    reading, writing = os.pipe()
    nursery = Nursery(_be_sidecar)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            log = os.open(os.path.join(request["folder"], "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            for number, descriptor in ((0, null), (1, log), (2, log)):
                os.dup2(descriptor, number)
            act(request, nursery)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    # Only the child holds the other end: it becomes readable when the child is gone.
    os.close(writing)
    waited_for: list[Any] = [reading, nursery.for_driver()]
    deadline_s = time.monotonic() + CHILD_TIMEOUT_S
    ended = False
    while not ended and (left_s := deadline_s - time.monotonic()) > 0:
        ready = select.select(waited_for, [], [], left_s)[0]
        if any(one is not reading for one in ready) and not nursery.serve():
            del waited_for[1:]
        ended = reading in ready
    os.close(reading)
    nursery.close()
    if not ended:
        os.kill(pid, signal.SIGKILL)
    return _Ended(ended, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), tuple(nursery.pids))


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    """Do a whole run: the task, its retry, and what is to be said about them."""
    began_s = time.monotonic()
    place = _place(request)
    violations: list[str] = []
    task = _in_child(_be_task, request)
    sidecars = task.sidecars
    if not task.in_time:
        violations.append(f"no end: the task did not end within {CHILD_TIMEOUT_S:.0f} s")
    attempt = 1
    if request["what"] == "recovery":
        # What goes wrong goes wrong in the retry of a task that was killed before.
        task = _in_child(_be_task, {**request, "what": "retry", "plan": request["retry_plan"]})
        sidecars += task.sidecars
        attempt = 2
    lines = Journal.read(place.journal)
    plan = request["plan"] if attempt == 1 else request["retry_plan"]
    struck = any(line["what"] == "struck" and line["step"] in plan for line in lines)
    if task.in_time and task.status != 0 and not (task.status == -signal.SIGKILL and struck):
        violations.append(f"the task ended with status {task.status}: {_log(place)}")
    retry = _in_child(_be_recovery, {**request, "attempt": attempt})
    lines = Journal.read(place.journal)
    results = [line["violations"] for line in lines if line["what"] == "result"]
    if results:
        violations += results[-1]
    else:
        violations.append(f"the retry ended with status {retry.status} {'' if retry.in_time else '(too late)'}: {_log(place)}")
    violations += _end_sidecars(sidecars)
    return {
        "struck": struck or not plan,
        "violations": violations,
        "seconds": time.monotonic() - began_s,
        "steps": [[line["step"], line["kinds"]] for line in lines if line["what"] == "step"],
    }


def _end_sidecars(pids: Sequence[int]) -> list[str]:
    """No sidecar may live on once the retry is done; returns what is wrong with that."""
    wrong = []
    for pid in pids:
        deadline_s = time.monotonic() + CHILD_TIMEOUT_S / 3
        while _alive(pid) and time.monotonic() < deadline_s:
            time.sleep(0.01)
        if _alive(pid):
            wrong.append(f"no end: sidecar {pid} is still alive")
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return wrong


def _alive(pid: int) -> bool:
    """Whether a child of ours still runs; one that has ended is waited for."""
    try:
        return os.waitpid(pid, os.WNOHANG) == (0, 0)
    except ChildProcessError:
        return False


def _log(place: Place) -> str:
    with contextlib.suppress(OSError), open(os.path.join(place.folder, "log"), errors="replace") as file:
        return file.read()[-1500:]
    return ""


def _warm_up() -> None:
    """Do once what each child would else do for itself: import what is imported late, and make the contents of the saves."""
    for name in IMPORTED_LATE:
        importlib.import_module(name)
    anyio.run(anyio.lowlevel.checkpoint)
    for number in range(3 * SAVES):
        content_of(number)
    # What is there now is never looked at again by a collector, so that children share it.
    gc.collect()
    gc.freeze()


def main() -> int:
    """Answer requests until the input ends."""
    _warm_up()
    for line in sys.stdin:
        request = json.loads(line)
        scheme, _, _ = request["address"]["url"].partition("://")
        if scheme in IMPORTED_FOR:
            importlib.import_module(IMPORTED_FOR[scheme])
        print(json.dumps(_answer(request)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
