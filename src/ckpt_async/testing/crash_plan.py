"""Which step of a run goes wrong, and how: plain values, and the counter that every process of the run asks at each step.

A step is one operation of the engine on the disk or on the store. Its name says who does it, what, on what, and the how-manieth
of its kind it is (``worker rename spool/active/0000000001 #1``): names stay the same from run to run where the order of threads
does not, so each step of a first, undisturbed run can be met again.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

__all__ = ["KILLS", "Journal", "Plan", "Steps", "WorkerKilled"]

#: Ends of processes; everything else is a failure of one operation, after which the process goes on.
KILLS = ("kill-worker", "kill-task", "kill-both", "tear")


class WorkerKilled(RuntimeError):
    """What ends a worker's thread in the middle of a step: nothing in the engine knows this type."""


@dataclass(frozen=True)
class Plan:
    """What goes wrong in a run.

    Attributes
    ----------
    step : str
        The name of the step.
    action : str
        One of `KILLS`, or a failure: ``"ENOSPC"``, ``"EIO"``, ``"die"``, ``"timeout"``, ``"reset"``, ``"503"``, ``"403"``.
        ``tear`` is a kill in the middle of a write, half of which arrives.
    lasting : bool
        From that step on until the end of the process, instead of once.
    """

    step: str
    action: str
    lasting: bool = False

    def __str__(self) -> str:
        return f"{self.action}{' from then on' if self.lasting else ''} at {self.step}"

    def to_json(self) -> str:
        """Return the plan as one line of JSON; `from_json` reads it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what `to_json` returned."""
        return cls(**json.loads(text))


# The hooks replace these; the journal must not count its own writes.
_open, _write, _close = os.open, os.write, os.close


class Journal:
    """What happened in a run, one JSON object a line. Each line survives the death of its process.

    Parameters
    ----------
    path : str
        Shared by all processes of the run.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor = _open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def note(self, what: str, **more: Any) -> None:
        """Write one line."""
        _write(self._descriptor, json.dumps({"what": what, **more}).encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        _close(self._descriptor)

    @staticmethod
    def read(path: str) -> list[dict[str, Any]]:
        """Return all lines so far."""
        with open(path, "rb") as file:
            return [json.loads(line) for line in file.read().split(b"\n") if line]


class Steps:
    """Counts the steps of one process, and strikes where the plan says so.

    Parameters
    ----------
    plan : Plan, optional
        None: nothing goes wrong, and every step is noted in the journal.
    journal : Journal
        Of the run.
    folder : str
        Of the run: a step is struck once, whichever process meets it.
    role : str
        ``"task"`` or ``"worker"``; empty where both live in this process, and the thread tells.
    partner : callable
        Returns the process id of the other one; 0 where there is none.
    """

    def __init__(self, plan: Plan | None, journal: Journal, folder: str, role: str, partner: Callable[[], int]) -> None:
        self.plan = plan
        self.journal = journal
        self._marker = os.path.join(folder, f"struck-{zlib.crc32(plan.step.encode()):08x}") if plan else ""
        self._role = role
        self._partner = partner
        self._guard = threading.Lock()
        self._seen: Counter[str] = Counter()
        self._broken = False

    @property
    def role(self) -> str:
        """Who takes the step."""
        if self._role:
            return self._role
        return "task" if threading.current_thread() is threading.main_thread() else "worker"

    def reach(self, operation: str, on: str, kinds: tuple[str, ...]) -> str:
        """Count a step; return what goes wrong in it, empty where nothing does. Does not return where the process is killed.

        Parameters
        ----------
        kinds : tuple of str
            What can go wrong in a step of this kind.
        """
        role = self.role
        label = f"{role} {operation} {on}"
        with self._guard:
            self._seen[label] += 1
            step = f"{label} #{self._seen[label]}"
            if self.plan is None:
                self.journal.note("step", step=step, kinds=kinds)
                return ""
            if self._broken:
                return self.plan.action if self.plan.action in kinds else ""
            if step != self.plan.step or not self._first():
                return ""
            self._broken = self.plan.lasting
        return self._strike(self.plan.action, role)

    def _first(self) -> bool:
        try:
            _close(_open(self._marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            return False
        return True

    def _strike(self, action: str, role: str) -> str:
        assert self.plan is not None
        self.journal.note("struck", action=action, step=self.plan.step)
        if action == "die":
            raise WorkerKilled("the worker dies here, as the test's plan says")
        if action == "kill-both":
            self._kill_partner()
            kill_self()
        if action in ("kill-worker", "kill-task"):
            if action == f"kill-{role}":
                kill_self()
            self._kill_partner()
            return ""
        return action

    def _kill_partner(self) -> None:
        pid = self._partner()
        if pid:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # It has ended by itself.


def kill_self() -> NoReturn:
    """End this process as SIGKILL does: nothing is cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("not reached")
