"""The program in which runs happen: everything is imported once, then each run is a forked child that may be killed.

Reads one request a line from its input and writes one answer a line. Started by `ckpt_async.testing.crash_points`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from ckpt_async import assembly
from ckpt_async.stores import opening, retrying
from ckpt_async.stores.contract import Store
from ckpt_async.stores.pacing import UNPACED, Pace
from ckpt_async.testing.crash_hooks import Hooks
from ckpt_async.testing.crash_plan import Journal, Plan, Steps
from ckpt_async.testing.crash_scenario import FLUSH_TIMEOUT_S, Place, recover, run_task
from ckpt_async.testing.crash_sidecar import PLAN_VARIABLE
from ckpt_async.testing.crash_store import StepStore
from ckpt_async.words.settings import StoreAddress
from ckpt_async.worker import sidecar_client, uploader

__all__ = ["main", "prepare"]

#: For the flush of a run in which something fails for good: it will not succeed, and nobody wants to wait for that.
SHORT_TIMEOUT_S = 1.0

#: No child may take longer than this.
CHILD_TIMEOUT_S = 90.0


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
    if request.get("quiet"):
        plan = Plan("none", "none")  # Neither strikes nor tells every step.
    steps = Steps(plan, journal, place.folder, role, partner)

    def open_store(address: StoreAddress, pace: Pace = UNPACED) -> Store:
        return StepStore(opening.open_store(address, pace), steps)

    assembly.open_store = open_store  # type: ignore[attr-defined]
    # What a user waits for in a bad minute is not what a test is about.
    retrying.FIRST_BACKOFF_S, retrying.LAST_BACKOFF_S, uploader.ENTRY_RETRY_S = 0.005, 0.05, 0.02
    (assembly.open_reader.__kwdefaults__ or {})["give_up_after_s"] = SHORT_TIMEOUT_S * 2
    roots = {"spool": place.scratch, "target": place.target("")}
    if "://" not in place.address.url:
        roots["store"] = place.address.url
    Hooks(steps, roots).install()
    return journal


def _place(request: dict[str, Any]) -> Place:
    return Place(request["folder"], StoreAddress(**request["address"]))


class _Sidecars:
    """Starts `crash_sidecar` wherever the engine starts a sidecar."""

    def __init__(self, request: str) -> None:
        self._request = request
        self.pids: list[int] = []

    def start(self, command: list[str], **more: Any) -> subprocess.Popen[bytes]:
        command = ["ckpt_async.testing.crash_sidecar" if word == "ckpt_async.sidecar" else word for word in command]
        more["env"] = {**more["env"], PLAN_VARIABLE: self._request}
        process = subprocess.Popen(command, **more)
        self.pids.append(process.pid)
        return process

    def newest(self) -> int:
        return self.pids[-1] if self.pids else 0


def _be_task(request: dict[str, Any]) -> None:
    text = json.dumps(request)
    sidecars = _Sidecars(text)
    in_process = request["worker"] == "process"
    journal = prepare(text, "task" if in_process else "", sidecars.newest)

    def start(command: list[str], **more: Any) -> subprocess.Popen[bytes]:
        process = sidecars.start(command, **more)
        journal.note("sidecar", pid=process.pid)
        return process

    replaced = SimpleNamespace(Popen=start, DEVNULL=subprocess.DEVNULL, TimeoutExpired=subprocess.TimeoutExpired)
    sidecar_client.__dict__["subprocess"] = replaced
    lasting = bool(request["plan"]) and json.loads(request["plan"])["lasting"]
    timeout_s = SHORT_TIMEOUT_S if lasting else FLUSH_TIMEOUT_S
    if request["what"] == "retry":
        run_task(_place(request), request["worker"], timeout_s, journal, attempt=1)
    else:
        run_task(_place(request), request["worker"], timeout_s, journal)


def _be_recovery(request: dict[str, Any]) -> None:
    journal = prepare(json.dumps({**request, "plan": "", "quiet": True}), "", lambda: 0)
    journal.note(
        "result",
        violations=recover(
            _place(request),
            journal,
            attempt=request["attempt"],
            may_tear=Plan.from_json(request["plan"]).action == "kill-worker" if request["plan"] else False,
        ),
    )


def _in_child(act: Callable[[dict[str, Any]], None], request: dict[str, Any]) -> tuple[bool, int]:
    """Run it in a forked child; returns whether it ended in time, and its status (below 0: the signal)."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            log = os.open(os.path.join(request["folder"], "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            for number, descriptor in ((0, null), (1, log), (2, log)):
                os.dup2(descriptor, number)
            act(request)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(writing)
    # Only the child holds the other end: it becomes readable when the child is gone.
    ended = bool(select.select([reading], [], [], CHILD_TIMEOUT_S)[0])
    os.close(reading)
    if not ended:
        os.kill(pid, signal.SIGKILL)
    return ended, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    """Do a whole run: the task, its retry, and what is to be said about them."""
    began_s = time.monotonic()
    place = _place(request)
    violations: list[str] = []
    ended, status = _in_child(_be_task, request)
    if not ended:
        violations.append(f"no end: the task did not end within {CHILD_TIMEOUT_S:.0f} s")
    attempt = 1
    if request["what"] == "recovery":
        # What goes wrong goes wrong in the retry of a task that was killed before.
        ended, status = _in_child(_be_task, {**request, "what": "retry", "plan": request["retry_plan"]})
        attempt = 2
    lines = Journal.read(place.journal)
    plan = request["plan"] if attempt == 1 else request["retry_plan"]
    struck = any(line["what"] == "struck" and line["step"] in plan for line in lines)
    if ended and status != 0 and not (status == -signal.SIGKILL and struck):
        violations.append(f"the task ended with status {status}: {_log(place)}")
    ended, status = _in_child(_be_recovery, {**request, "attempt": attempt})
    lines = Journal.read(place.journal)
    results = [line["violations"] for line in lines if line["what"] == "result"]
    if results:
        violations += results[-1]
    else:
        violations.append(f"the retry ended with status {status} {'' if ended else '(too late)'}: {_log(place)}")
    violations += _end_sidecars(lines)
    return {
        "struck": struck or not plan,
        "violations": violations,
        "torn": any(line["what"] == "torn" for line in lines),
        "seconds": time.monotonic() - began_s,
        "steps": [[line["step"], line["kinds"]] for line in lines if line["what"] == "step"],
    }


def _end_sidecars(lines: list[dict[str, Any]]) -> list[str]:
    """No sidecar may live on once the retry is done; returns what is wrong with that."""
    wrong = []
    for line in lines:
        if line["what"] == "sidecar":
            deadline_s = time.monotonic() + CHILD_TIMEOUT_S / 3
            while _alive(line["pid"]) and time.monotonic() < deadline_s:
                time.sleep(0.01)
            if _alive(line["pid"]):
                wrong.append(f"no end: sidecar {line['pid']} is still alive")
                with contextlib.suppress(ProcessLookupError):
                    os.kill(line["pid"], signal.SIGKILL)
    return wrong


def _alive(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(") ")[2][0] not in "ZX"
    return True


def _log(place: Place) -> str:
    with contextlib.suppress(OSError), open(os.path.join(place.folder, "log"), errors="replace") as file:
        return file.read()[-1500:]
    return ""


def main() -> int:
    """Answer requests until the input ends."""
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
