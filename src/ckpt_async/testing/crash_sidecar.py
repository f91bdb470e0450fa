"""A sidecar whose steps are counted: the real one's `main`, with hooks in this process. Started by `crash_driver` in its place."""

from __future__ import annotations

import os
import sys

__all__ = ["PLAN_VARIABLE", "main"]

#: Holds the JSON that `crash_driver.prepare` reads.
PLAN_VARIABLE = "CKPT_ASYNC_CRASH_PLAN"


def main(arguments: list[str]) -> int:
    """Run a sidecar; see `ckpt_async.sidecar.main`."""
    from ckpt_async import sidecar
    from ckpt_async.testing.crash_driver import prepare

    task_pid = int(arguments[2])
    prepare(os.environ[PLAN_VARIABLE], "worker", lambda: task_pid)
    return sidecar.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
