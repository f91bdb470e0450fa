"""Lists, loads, deletions and lineage, from a task, from scripts beside it, and across runs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest

from tests.flows.harness import PROGRAMS, RUN_TIMEOUT_S, Place

pytestmark = pytest.mark.timeout(600)


def told_by(place: Place, program: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(PROGRAMS / program), *arguments],
        cwd=place.temporary,
        env=place.environment(),
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_scripts_read_what_a_running_task_has_saved_and_lineage_goes_from_run_to_run(local: Place) -> None:
    def with_variables(**variables: str) -> Place:
        return Place(local.folder, variables=variables)

    # The first run: its second attempt goes on while a script looks.
    go = local.folder / "go"
    with with_variables(ATTEMPTS="2", FAILURES="1", WAIT_FOR=str(go)).start("lineage.py") as run:
        saved = run.wait_for(r"saved as (\S+)", 2)
        first = saved[1].partition(":")[0]
        assert saved == [f"{first}:0", f"{first}:1"]
        told = told_by(local, "outside.py", first)
        go.touch()
        assert run.end().code == 0, run.text
    assert re.search(rf"loaded checkpoint 'second' number 1 of {first}, attempt 0", run.text)
    assert ast.literal_eval(told.split("lineage ")[1]) == [(first, 0, "second")]

    # The second one fails, and is resumed.
    failed = with_variables(FAILURES="1").run("lineage.py")
    assert failed.code != 0
    [second] = failed.after("saved as")
    resumed = local.run("lineage.py", command="resume")
    assert resumed.code == 0, resumed.text
    [third] = resumed.after("saved as")
    third = third.partition(":")[0]
    again = local.run("lineage.py", "end", "--origin-run-id", third.split("/")[1], command="resume")
    assert again.code == 0, again.text
    ways = [(second.partition(":")[0], 0, "second"), (first, 1, "second"), (first, 0, "second")]
    script = (
        "import sys; from metaflow import Checkpoint, Flow, Task, namespace; namespace(None)\n"
        "print('lineage', [(one['pathspec'], one['attempt'], one['name']) for one in Checkpoint().lineage(sys.argv[1])])\n"
        "clone = Flow('LineageFlow').latest_run['train'].task\n"
        "print('clone', [one['pathspec'] for one in Checkpoint().list(task=clone)], clone.pathspec)\n"
    )
    script += (
        "for attempt in range(2):\n"
        "    task = Task(sys.argv[2], attempt=attempt)\n"
        "    records, newest = task['_task_checkpoints'].data, task['_task_latest_checkpoint'].data\n"
        "    print(attempt, [(one['attempt'], one['name']) for one in [*records, newest]])\n"
    )
    (local.folder / "script.py").write_text(script)
    told = told_by(local, str(local.folder / "script.py"), third, first)
    assert ast.literal_eval(re.search("lineage (.*)", told)[1]) == ways  # type: ignore[index]
    # What a resume has taken over from another run is listed where it was saved.
    assert f"clone ['{third}', '{third}']" in told and f" {third}\n" not in told
    # The artifacts of an attempt lack what it has deleted; the script's deletion came after the first one.
    assert "0 [(0, 'second'), (0, 'first'), (0, 'second')]" in told
    assert "1 [(1, 'second'), (1, 'second')]" in told
