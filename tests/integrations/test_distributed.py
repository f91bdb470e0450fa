"""`torch.distributed.checkpoint`: sharded states are saved as one checkpoint, and loaded by another number of processes."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from ckpt_async import FlushTimeout, InvalidArgument, SnapshotFailed
from ckpt_async.integrations.distributed import CheckpointReader, CheckpointWriter, ShardedSaves
from ckpt_async.integrations.saver import EngineSaver
from tests.engine.desk import DEADLINE_S, Desk, identity_of
from tests.integrations.conftest import Attempts, Crash, Held

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    # PyTorch says so where there is one process.
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized"),
]

RANKS = Path(__file__).parent / "programs" / "ranks.py"
#: They import PyTorch, on a machine that may be busy.
RANKS_TIMEOUT_S = 300.0
STEPS = 6


def train(saver: EngineSaver, *, fail_at: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    saves = ShardedSaves(saver)
    first = 0
    if saver.is_loaded:
        weights, moments = get_state_dict(model, optimizer)
        state: dict[str, Any] = {"model": weights, "optimizer": moments, "step": 0}
        dcp.load(state, storage_reader=CheckpointReader(saver))
        set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        first = state["step"]
    for step in range(first + 1, STEPS + 1):
        samples = torch.randn(4, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(samples).pow(2).mean().backward()
        optimizer.step()
        weights, moments = get_state_dict(model, optimizer)
        saves.save({"model": weights, "optimizer": moments, "step": step}, metadata={"step": step})
        if step == fail_at:
            raise Crash
    return {name: weights.clone() for name, weights in model.state_dict().items()}


def test_a_resumed_training_ends_as_an_undisturbed_one(make_attempts: Any) -> None:
    undisturbed, broken = make_attempts(), make_attempts()
    expected = train(undisturbed.begin())
    undisturbed.end()
    with pytest.raises(Crash):
        train(broken.begin(), fail_at=3)
    found = train(broken.begin())
    broken.end()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert broken.stored("step") == undisturbed.stored("step") == list(range(1, STEPS + 1))


def test_what_many_processes_save_one_loads(tmp_path: Path, make_attempts: Any) -> None:
    attempts: Attempts = make_attempts()
    desk: Desk = attempts.desk
    identity = json.dumps(dataclasses.asdict(identity_of()))
    # Among themselves they speak over this machine's own interface.
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(RANKS), str(rank), str(tmp_path), desk.address.url, identity],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [rank.communicate(timeout=RANKS_TIMEOUT_S)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(said)
    assert all("went on from 3" in lines for lines in said), "\n".join(said)

    saver = EngineSaver(desk.open(1), tmp_path / "alone")
    assert saver.info is not None and saver.info["metadata"] == {"step": 2}
    gang = [record for record in desk.reader().list(identity_of(run="gang").pathspec) if record.group]
    assert [record.metadata["step"] for record in gang] == [4, 3]
    for step, reference in [(2, None), (1, desk.records()[1].key), (3, gang[1].key)]:
        state = {"sharded": torch.zeros(6, 2), "same everywhere": torch.zeros(3), "step": 0}
        dcp.load(state, storage_reader=CheckpointReader(saver, reference))
        assert state["step"] == step and state["same everywhere"].tolist() == [float(step)] * 3
        assert state["sharded"].equal(torch.arange(12.0).reshape(6, 2) + step)


def test_the_end_waits_for_what_is_being_written(held: Held, attempts: Attempts) -> None:
    saves = ShardedSaves(held)
    changing = {"weights": torch.ones(3)}
    saves.save(changing, metadata={"step": 1})
    changing["weights"].zero_()
    with pytest.raises(FlushTimeout, match="written from memory"):
        attempts.checkpointer.flush(0.01)
    held.go_on.set()
    attempts.checkpointer.flush()
    loaded = {"weights": torch.zeros(3)}
    dcp.load(loaded, storage_reader=CheckpointReader(held, attempts.desk.records()[0].key))
    assert loaded["weights"].tolist() == [1, 1, 1]
    shutil.rmtree(held.directory)
    saves.save(changing)
    with pytest.raises(SnapshotFailed, match="rank 0: FileNotFoundError"):
        attempts.checkpointer.close(timeout_s=DEADLINE_S)


def test_what_makes_no_sense_is_refused(attempts: Attempts) -> None:
    saver = attempts.begin()
    with pytest.raises(InvalidArgument, match="no checkpoint was loaded"):
        CheckpointReader(saver)
    with pytest.raises(InvalidArgument, match="needs the saver"):
        CheckpointReader(saver.directory, "some/key")
    with pytest.raises(InvalidArgument, match="has no directory"):
        CheckpointWriter(None, group=True)
    with pytest.raises(InvalidArgument, match="Leave it out"):
        dcp.save({}, checkpoint_id="somewhere", storage_writer=CheckpointWriter(saver))
    with pytest.raises(InvalidArgument, match="there is none"):
        CheckpointWriter(saver, group=True).save_part()
    with pytest.raises(InvalidArgument, match=r"Use AsyncCheckpointerType\.THREAD"):
        pickle.dumps(CheckpointWriter(saver))
