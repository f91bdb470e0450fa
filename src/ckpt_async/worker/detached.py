"""Has what dead tasks left uploaded by processes that belong to nobody: whoever found it neither waits for them nor ends them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence

from ckpt_async.spool.neighbours import LeftSave
from ckpt_async.spool.spool import Spool
from ckpt_async.words.errors import WorkerDied
from ckpt_async.worker.deposits import Deposits
from ckpt_async.worker.guard_client import GuardClient
from ckpt_async.worker.handle import GUARD_TIMEOUT_S
from ckpt_async.worker.sidecar_client import NOBODY, SIDECAR_LOG, launch

__all__ = ["bring_home", "finish_detached"]

#: Spools that one task has emptied; each takes a process beside the training.
SPOOLS_AT_ONCE = 4

#: How long the process may take to become independent of the one that started it.
START_TIMEOUT_S = 30.0


def bring_home(left: Sequence[LeftSave], *, may_start: bool, say: Callable[[str], None]) -> None:
    """See to it that the store gets what dead tasks left on this machine. Whatever goes wrong is said, and left for the next one.

    Parameters
    ----------
    left : sequence of LeftSave
        Newest first.
    may_start : bool
        Whether processes may be started.
    say : callable
        Prints a line for the user.
    """
    spools: dict[str, list[LeftSave]] = {}
    for one in left:
        spools.setdefault(one.folder, []).append(one)
    for folder, saves in list(spools.items())[:SPOOLS_AT_ONCE]:
        whose = f"{saves[0].record.pathspec}, attempt {saves[0].record.attempt}"
        count = "1 save" if len(saves) == 1 else f"{len(saves)} saves"
        try:
            if Spool(folder).worker_lock.is_held():
                continue  # Its own sidecar, or one that another task has started, is at it.
            if not may_start:
                say(f"{count} of {whose}, which is dead, stay in {folder}: worker='thread' starts no process to upload them.")
                continue
            finish_detached(folder, links=any(one.entry.snapshot.links for one in saves))
            say(f"{count} that {whose} left on this machine, being dead, are uploaded by a process of their own.")
        except (OSError, WorkerDied) as error:
            say(f"{count} of {whose}, which is dead, stay in {folder}: no process could be started to upload them: {error}")


def finish_detached(folder: str, *, links: bool) -> None:
    """Start a sidecar that finishes the spool of a dead task as that task's own would have: within its `flush_timeout_s`.

    It is nobody's child: init reaps it. It holds no pipe and no socket of this process.

    Parameters
    ----------
    folder : str
        The spool. Should another worker have got hold of it, the new one ends at once.
    links : bool
        Whether to wait until the links in it are guarded.

    Raises
    ------
    OSError, WorkerDied
        It can't be started.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.close()  # A sidecar whose task has hung up finishes what is there, and ends.
    deposits = Deposits()  # Given back at once: this task has nothing to do with those files.
    client, guarding = GuardClient.pair(deposits) if sys.platform == "linux" else (None, None)
    try:
        try:
            if client is not None:
                client.hand_over([])
            process = launch(folder, theirs, guarding, NOBODY)
        finally:
            theirs.close()
            if guarding is not None:
                guarding.close()
        _wait_independent(process, folder)
        if links and client is not None:
            # Where it does not come to that in time, files that are overwritten meanwhile are noticed all the same.
            client.wait_ready(GUARD_TIMEOUT_S)
    finally:
        if client is not None:
            client.close()
        deposits.close()


def _wait_independent(process: subprocess.Popen[bytes], folder: str) -> None:
    """Wait for the end of the process that was started, whose child goes on."""
    try:
        status = process.wait(START_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        status = process.wait()
    if status != 0:
        log = os.path.join(folder, SIDECAR_LOG)
        raise WorkerDied("start the uploader", on=folder, cause=f"it ended with status {status}", hint=f"Its log is {log}.")
