"""metaflow-checkpoint, the real package, beside ours: who owns which name, and who reads what the other has stored."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ckpt_async import StoreAddress, open_reader
from tests.environments import packages
from tests.fixtures_s3 import S3Place
from tests.flows.harness import RUN_TIMEOUT_S, Place, s3_variables

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]


@pytest.fixture(scope="module")
def peer() -> Path:
    return packages("peer", ["metaflow-checkpoint==0.2.14"])


OWNERS = """
import sys
first, peer = sys.argv[1:]
sys.path.insert(0 if first == "theirs" else len(sys.path), peer)
import metaflow
owners = [metaflow.Checkpoint, metaflow.load_model, *(getattr(metaflow, name).args[0] for name in ("checkpoint", "model"))]
print(*(owner.__module__.split(".")[1] for owner in owners))
"""


def told_by(place: Place, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=place.temporary,
        env=place.environment(),
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("first", ["theirs", "ours"])
def test_checkpoint_is_ours_and_the_other_names_stay(local: Place, peer: Path, first: str) -> None:
    local.environment()
    assert told_by(local, "-c", OWNERS, first, str(peer)).split() == ["ckpt_async", "obcheckpoint", "ckpt_async", "obcheckpoint"]


def test_each_reads_what_the_other_has_stored(local: Place, peer: Path) -> None:
    place = Place(local.folder, variables={"PYTHONPATH": str(peer)})
    result = place.run("side_by_side.py")
    assert result.code == 0, result.text
    assert result.after("owners") == ["ckpt_async ckpt_async ckpt_async obcheckpoint"]
    assert place.wait_until_clean() == []


READS = """
import json, os, sys
from metaflow import Checkpoint, Task, artifact_store_from, namespace
namespace(None)
task = Task(sys.argv[1])
with artifact_store_from(task=task, config={"client_params": json.loads(os.environ["CLIENT"])}):
    with Checkpoint() as cp:
        [newest, _] = cp.list(task=task)
        for reference in (newest, newest["key"]):
            cp.load(reference)
            print("loaded", newest["name"], open(os.path.join(cp.directory, "weights")).read())
"""


def test_checkpoints_go_where_with_artifact_store_says(
    local: Place, peer: Path, s3_place: S3Place, s3_address: StoreAddress, tmp_path: Path
) -> None:
    keys = s3_place.server.admin
    elsewhere = {"PYTHONPATH": str(peer), "ELSEWHERE": json.dumps({"root": s3_place.url})}
    place = Place(local.folder, variables=s3_variables(s3_place, s3_place.server.endpoint_url) | elsewhere)
    result = place.run("elsewhere.py")
    assert result.code == 0, result.text
    assert [result.after(f"{name} is") for name in ("theirs", "files", "tar")] == [["theirs"], ["ours"], ["ours"]]
    assert place.wait_until_clean() == []
    [ours] = result.after("saved by")
    assert [one.name for one in open_reader(s3_address).list(ours)] == ["tar", "files"]
    assert not list(local.folder.glob(".metaflow/mf.checkpoints"))
    # Nobody has written the keys down.
    written = [path for path in local.folder.rglob("*") if path.is_file()]
    assert written and not [path for path in written if keys.secret_key.encode() in path.read_bytes()]
    assert keys.secret_key not in result.text
    # A script that is given the keys, and finds none in its environment.
    client = {
        "endpoint_url": s3_place.server.endpoint_url,
        "region_name": s3_place.server.region,
        "aws_access_key_id": keys.access_key,
        "aws_secret_access_key": keys.secret_key,
    }
    script = Place(local.folder, variables={"PYTHONPATH": str(peer), "CLIENT": json.dumps(client)})
    assert told_by(script, "-c", READS, ours).split("\n")[:2] == ["loaded tar ours"] * 2
