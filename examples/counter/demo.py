"""Runs the counter with asynchronous saves, kills its task in the middle, and tells what happened.

Everything stays in a temporary folder, which is kept so that you can look at it: no server, no account, no configuration.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FLOW = Path(__file__).resolve().parent / "flow.py"
TARGET = 10
KILL_AT = 6
BALLAST_MB = 64
PAUSE_S = 0.25


def environment(folder: Path) -> dict[str, str]:
    """This process's environment with Metaflow kept inside `folder`, whatever the user has configured."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("METAFLOW_")}
    temporary = folder / "tmp"
    temporary.mkdir()
    return {
        **kept,
        "METAFLOW_HOME": str(folder / "config"),
        "METAFLOW_DEFAULT_DATASTORE": "local",
        "METAFLOW_DEFAULT_METADATA": "local",
        "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(folder),
        "METAFLOW_USER": "demo",
        "METAFLOW_RUNTIME_NAME": "demo",
        "COUNTER_ASYNC_UPLOAD": "True",
        "TMPDIR": str(temporary),
        "PYTHONUNBUFFERED": "1",
    }


def run_flow(folder: Path, journal: Path) -> int:
    """Run the flow to its end, its output going to the terminal; returns its exit status."""
    options = {"target": TARGET, "every": 2, "kill-at": KILL_AT, "fail-rate": 0, "ballast-mb": BALLAST_MB, "pause": PAUSE_S}
    command = [sys.executable, str(FLOW), "--no-pylint", "run", "--journal", str(journal)]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    return subprocess.run(command, cwd=folder, env=environment(folder), check=False).returncode


def stored_at_s(folder: Path, key: str) -> float | None:
    """When the checkpoint became visible in the datastore: its record is written last. None where it never did."""
    leaf = key.rsplit("/", 1)[1]
    for record in folder.glob(f".metaflow/mf.checkpoints/checkpoints/artifact_metadata/*/*/*/*/{leaf}.metadata"):
        return record.stat().st_mtime
    return None


def _fate(events: list[dict], killed: dict, folder: Path) -> str:
    """What became of the upload of the save that the crash followed."""
    key = next(event["key"] for event in events if event["event"] == "saved" and event["count"] == killed["count"])
    stored_s = stored_at_s(folder, key)
    if stored_s is None or stored_s < killed["time_s"]:
        return ""
    return f"; its upload ended {stored_s - killed['time_s']:.3f} s later, without the task"


def describe(events: list[dict], folder: Path) -> list[str]:
    """The lines of the story, in the order in which it happened."""
    begun_s = events[0]["time_s"]
    lines = []
    for event in events:
        count, at = event["count"], f"  {event['time_s'] - begun_s:5.1f} s  attempt {event['attempt']}  "
        if event["event"] == "fresh":
            lines.append(f"{at}starts; there is nothing to resume from")
        elif event["event"] == "resumed":
            lines.append(f"{at}RESUMES AT {count}, from the last save() before the crash")
        elif event["event"] == "killed":
            lines.append(f"{at}KILLED (SIGKILL) right after save() of {count} returned{_fate(events, event, folder)}")
        elif event["event"] == "saved":
            stored_s = stored_at_s(folder, event["key"])
            until = "never stored" if stored_s is None else f"in the datastore after {max(0.0, stored_s - event['begun_s']):6.3f} s"
            lines.append(f"{at}saves {count:2}: save() took {event['held_up_s']:.3f} s, {until}")
    return lines


def summary(events: list[dict], folder: Path, took_s: float) -> str:
    """What a person wants to know at the end."""
    saved = [event for event in events if event["event"] == "saved"]
    counted = [event["count"] for event in events if event["event"] == "counted"]
    resumed = [event for event in events if event["event"] == "resumed"]
    stored = [event for event in saved if stored_at_s(folder, event["key"]) is not None]
    held_up_s = sum(event["held_up_s"] for event in saved)
    until_stored_s = sum((stored_at_s(folder, event["key"]) or 0) - event["begun_s"] for event in stored)
    story = "\n".join(describe(events, folder))
    again = sorted({count for count in counted if counted.count(count) > 1})
    return f"""
What happened
{story}

In short
  Counted to {max(counted)} in {took_s:.0f} s, with one crash. Counted twice: {again or "nothing"}.
  {len(saved)} checkpoints of {BALLAST_MB} MB were saved, {len(stored)} are in the datastore.
  The task waited {held_up_s:.2f} s for save() in all; storing them took {until_stored_s:.2f} s, most of it while the task went on.
  The retry resumed at {resumed[0]["count"] if resumed else "no checkpoint"}; the crash had come at {KILL_AT}.

The checkpoints lie in
  {folder}/.metaflow/mf.checkpoints/checkpoints
Remove them with
  rm -r {folder}
"""


def is_right(events: list[dict], folder: Path) -> bool:
    """Whether the demo has shown what it promises."""
    counted = [event["count"] for event in events if event["event"] == "counted"]
    saved = [event for event in events if event["event"] == "saved"]
    resumed = [event["count"] for event in events if event["event"] == "resumed"]
    return (
        counted == list(range(1, TARGET + 1))
        and resumed == [KILL_AT]
        and all(stored_at_s(folder, event["key"]) is not None for event in saved)
    )


def main() -> int:
    """Run the demo; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--discard", action="store_true", help="remove the temporary folder at the end")
    discard = parser.parse_args().discard

    folder = Path(tempfile.mkdtemp(prefix="ckpt-async-demo-"))
    journal = folder / "journal.jsonl"
    print(f"A task counts to {TARGET}, saves {BALLAST_MB} MB every 2 counts, and is killed (SIGKILL) at {KILL_AT}.\n", flush=True)
    begun = time.monotonic()
    status = run_flow(folder, journal)
    events = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    if status != 0 or not events:
        print(f"\nThe flow failed (status {status}). Everything is kept in {folder}.", file=sys.stderr)
        return status or 1
    print(summary(events, folder, time.monotonic() - begun), flush=True)
    right = is_right(events, folder)
    if not right:
        print(f"The demo did not go as it should. Everything is kept in {folder}.", file=sys.stderr)
        return 1
    if discard:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
