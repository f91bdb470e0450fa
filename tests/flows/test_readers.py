"""Lists, loads, deletions and lineage, from a task, from scripts beside it, and across runs."""

from __future__ import annotations

import ast
import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from metaflow import Run, Step

from ckpt_async import CheckpointError, CheckpointNotFound, InvalidArgument, StoreAddress
from metaflow_extensions.ckpt_async.plugins.checkpoint import api
from metaflow_extensions.ckpt_async.plugins.checkpoint.api import Checkpoint
from metaflow_extensions.ckpt_async.plugins.checkpoint.arguments import read_timeout
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
def test_rules_keep_what_they_say_through_a_kill_and_a_retry(local: Place) -> None:
    place = dataclasses.replace(local, variables={**local.variables, "EVENTS": str(local.folder / "events")})
    run = place.run("retention.py")
    assert run.code == 0, run.text
    start = place.look("RetentionFlow")["start/0"]
    killed, retried = start["attempts"]
    # It went on from the newest that was stored; 7 and 6 are the last, 1 is the best, of the attempt before, 4 was pinned.
    assert retried["first"] == 4 and "first" not in killed
    assert [record["metadata"]["number"] for record in start["listed"]] == [7, 6, 4]
    assert [record["metadata"]["number"] for record in retried["_task_checkpoints"]] == [7, 6, 4] and start["loaded"] == [3, 2, 0]
    assert retried["_task_latest_checkpoint"]["metadata"]["number"] == 7
    # What the user has kept in an artifact names what is there, and nothing else.
    assert [saved["type"] for saved in retried["saved"]] == ["checkpoint", "checkpoint-not-stored", "checkpoint", "checkpoint"]
    assert retried["saved"][1]["status"] == "deleted"
    heard = (local.folder / "events").read_text().split()
    assert heard.count("EntrySaved") == 8 and "CheckpointPruned" in heard and "EntryCommitted" in retried["heard"]

    pruned = ast.literal_eval(told_by(place, "prune.py", retried["_task_latest_checkpoint"]["pathspec"]))
    assert pruned == {"plan": [6, 4, 1], "left": [(0, 1), (1, 0), (1, 2), (1, 3)], "deleted": [1, 6], "stay": [(1, 0), (1, 3)]}


KEY = "mf.checkpoints/checkpoints/artifacts/F/s/aaaaaaaaaaaa/bbbbbbbbbbbb/abcdef12.0.x.1"


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty datastore, and a working folder that nothing may appear in."""
    (tmp_path / "store").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(api, "_address_of_reference", lambda _: StoreAddress(str(tmp_path / "store")))
    yield
    assert os.listdir(tmp_path / "here") == [] == os.listdir(tmp_path / "store")


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize(
    ("reference", "error", "words"),
    [
        (None, InvalidArgument, "NoneType 'None'"),
        (5, InvalidArgument, "int '5'"),
        (["a"], InvalidArgument, "list"),
        ({}, InvalidArgument, "what save"),
        ({"key": 5}, InvalidArgument, "what save"),
        (
            {"type": "checkpoint-not-stored", "name": "n", "version_id": 3, "reason": "dropped"},
            InvalidArgument,
            "not in the store: dropped",
        ),
        ("", InvalidArgument, "has not the form"),
        ("../../etc/passwd", InvalidArgument, "has not the form"),
        (f"{KEY}/../../x", InvalidArgument, "has not the form"),
        (KEY.replace("/F/", "/../"), InvalidArgument, "has not the form"),
        (KEY.replace("/artifacts/", "/models/"), InvalidArgument, "A key looks like"),
        (KEY, CheckpointNotFound, "no record of it"),
        ({"key": KEY, "pathspec": "F/1/s/2"}, CheckpointNotFound, "no record of it"),
        (SimpleNamespace(key=KEY), CheckpointNotFound, "no record of it"),
    ],
)
def test_what_is_no_reference_is_told_from_what_is_not_there(reference: object, error: type[CheckpointError], words: str) -> None:
    for use in (lambda: Checkpoint().load(reference, "folder"), lambda: Checkpoint().delete(reference)):
        with pytest.raises(error) as caught:
            use()
        assert words in str(caught.value)


def unasked(kind: type[Step] | type[Run]) -> object:
    """An object of the client that no metadata service was asked for."""
    made = object.__new__(kind)
    made._attempt, made._pathspec = None, "F/1/s"
    return made


@pytest.mark.usefixtures("nowhere")
def test_what_is_no_argument_of_its_kind_is_refused_before_anything_is_done() -> None:
    given: list[tuple[Callable[[], object], str]] = [
        *[(lambda path=path: Checkpoint().load(KEY, path), "could not load a checkpoint") for path in ("", 5, b"folder")],
        (lambda: Checkpoint().list(task="F/1/s/2", name=5), "a name is a text"),  # type: ignore[arg-type]
        (lambda: Checkpoint().list(task="F/1/s/2", attempt=True), "from 0"),
        *[(lambda root=root: Checkpoint(root, init_dir=True), "make the checkpoint directory") for root in ("", 5, "/dev/null/x")],
        *[(lambda timeout=timeout: read_timeout(timeout), "from 0 to") for timeout in ("3", -1, float("nan"), True, float("inf"))],
        (lambda: Checkpoint().list(task=unasked(Step)), r"step\.task"),
        (lambda: Checkpoint().list(task=unasked(Run)), r"run\['STEP'\]\.task"),
    ]
    for call, words in given:
        with pytest.raises(InvalidArgument, match=words):
            call()
    assert (read_timeout(0), read_timeout(1.5), read_timeout(None)) == (0, 1.5, None)


def test_a_checkpoint_in_a_store_of_another_kind_is_told_to_lie_there() -> None:
    with pytest.raises(InvalidArgument, match=r"ceph://bucket/root.*of the kind 'ceph'.*local, s3"):
        Checkpoint().load({"key": KEY, "url": f"ceph://bucket/root/{KEY}"}, "folder")


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("task", [None, "", "F", "F/1", "F/1/s", "F/1/s/2/3", "/F/1/s", "F//s/2", 5])
def test_what_names_no_task_is_refused(task: object) -> None:
    with pytest.raises(InvalidArgument, match=r"no task is named|the pathspec of one"):
        Checkpoint().list(task=task)
    with pytest.raises(InvalidArgument, match="TrainFlow/12/start/1"):
        Checkpoint().lineage(task)
    for attempt in ("x", -1, 1.5, []):
        with pytest.raises(InvalidArgument, match="from 0"):
            Checkpoint().list(task="F/1/s/2", attempt=attempt)  # type: ignore[arg-type]


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
