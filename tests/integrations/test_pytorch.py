"""Plain PyTorch: what is saved is the state at the call, a resumed training ends as an undisturbed one, and failures are told."""

from __future__ import annotations

import pickle
import shutil
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ckpt_async import FlushTimeout, InvalidArgument, SnapshotFailed
from ckpt_async.integrations.pytorch import StateWriter, load_state, restore_rng_state, rng_state, save_state
from ckpt_async.integrations.saver import EngineSaver
from tests.engine.desk import DEADLINE_S, wait_for
from tests.integrations.conftest import Attempts, Crash, Held

STEPS = 8
PLAIN = [1, 2.5, 1j, "text", b"bytes", bytearray(b"x"), None, True, {1, 2}, (torch.float16, torch.Size([1]), torch.device("cpu"))]


def train(saver: EngineSaver, *, fail_at: int = 0) -> dict[str, Any]:
    """Train from what is loaded; returns the weights and all losses."""
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Dropout(0.3), torch.nn.BatchNorm1d(16), torch.nn.Linear(16, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5])
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    first, losses = 0, []
    if (state := load_state(saver)) is not None:
        for name, part in parts.items():
            part.load_state_dict(state[name])
        restore_rng_state(state["rng"])
        first, losses = state["step"], state["losses"]
    for step in range(first + 1, STEPS + 1):
        loss = model(torch.randn(4, 8)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
        state = {name: part.state_dict() for name, part in parts.items()}
        save_state(saver, {**state, "rng": rng_state(), "step": step, "losses": losses}, metadata={"step": step})
        if step == fail_at:
            raise Crash
    return {"losses": losses, **{name: weights.clone() for name, weights in model.state_dict().items()}}


def test_a_resumed_training_ends_as_an_undisturbed_one(make_attempts: Callable[..., Attempts]) -> None:
    undisturbed, broken = make_attempts(), make_attempts()
    expected = train(undisturbed.begin())
    undisturbed.end()
    with pytest.raises(Crash):
        train(broken.begin(), fail_at=3)
    found = train(broken.begin())
    broken.end()
    assert found.keys() == expected.keys()
    assert found["losses"] == expected["losses"]
    assert all(torch.equal(found[name], expected[name]) for name in expected if name != "losses")
    assert broken.stored("step") == undisturbed.stored("step") == list(range(1, STEPS + 1))


def test_what_is_saved_is_the_state_at_the_call(attempts: Attempts) -> None:
    saver = Held(attempts.begin())
    weights = torch.arange(6.0).reshape(2, 3)
    module = torch.nn.Linear(2, 2)
    state = {
        "weights": weights,
        "view": weights[1],
        "of the module": module.state_dict(),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "sparse": torch.eye(3).to_sparse(),
        "conjugate": torch.tensor([1 + 2j]).conj(),
        "empty": torch.empty(0),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "plain": [*PLAIN],
        ("a", 1): 2,
    }
    save = save_state(saver, state)
    assert not save.saved and save.reference is None
    weights.zero_()
    state["plain"].clear()
    saver.go_on.set()
    reference = save.wait(DEADLINE_S)
    assert save.saved and save.done() and save.reference is reference
    loaded = load_state(saver, reference)
    assert loaded["weights"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert loaded["plain"] == PLAIN and loaded["a", 1] == 2
    assert loaded["parameter"].requires_grad and loaded["sparse"].to_dense().equal(torch.eye(3))
    assert loaded["conjugate"].tolist() == [1 - 2j] and loaded["half"].dtype == torch.bfloat16
    assert loaded["of the module"]._metadata == module.state_dict()._metadata
    # What shared memory shares it again.
    loaded["weights"][1, 0] = 7
    assert loaded["view"][0] == 7


def test_memory_is_used_again(attempts: Attempts) -> None:
    writer = StateWriter(attempts.begin())
    staging = writer._slots[0].staging
    state = {"a": torch.ones(100), "b": [torch.zeros(50)]}
    writer.save(state).wait(DEADLINE_S)
    places = [buffer.data_ptr() for buffer in staging._buffers]
    writer.save(state).wait(DEADLINE_S)
    assert [buffer.data_ptr() for buffer in staging._buffers] == places
    writer.save({"a": torch.ones(100)}).wait(DEADLINE_S)
    assert [buffer.data_ptr() for buffer in staging._buffers] == places[:1]
    assert writer.stats.states == 3 and writer.stats.staged_bytes == 600 + 600 + 400


def test_no_more_states_are_in_memory_than_allowed(held: Held) -> None:
    said: list[str] = []
    max_staged = 2
    writer = StateWriter(held, max_staged=max_staged, say=said.append)
    before = [writer.save({"number": number}) for number in range(max_staged)]
    assert not any(save.done() for save in before)
    after: list[Any] = []
    thread = threading.Thread(target=lambda: after.append(writer.save({"number": max_staged})))
    thread.start()
    wait_for(lambda: said, "a line about the wait")
    assert not after
    held.go_on.set()
    thread.join(DEADLINE_S)
    versions = [save.wait(DEADLINE_S)["version_id"] for save in [*before, *after]]
    assert versions == sorted(versions)
    assert "the state before it is still being written" in said[0]
    assert writer.stats.waited_s > 0


def test_the_end_waits_for_what_is_being_written(held: Held, attempts: Attempts) -> None:
    save = save_state(held, {"step": 1}, metadata={"step": 1})
    with pytest.raises(FlushTimeout, match="written from memory"):
        attempts.checkpointer.flush(0.01)
    threading.Timer(0.05, held.go_on.set).start()
    attempts.checkpointer.flush()
    assert save.saved and attempts.stored("step") == [1]
    assert type(pickle.loads(pickle.dumps(save))) is dict and pickle.loads(pickle.dumps(save))["key"] == save.reference["key"]


def test_a_state_that_could_not_be_written_is_told_once(attempts: Attempts) -> None:
    saver = attempts.begin()
    writer = StateWriter(saver)
    shutil.rmtree(saver.directory)
    # At the wait for it, ...
    save = writer.save({"step": 1})
    with pytest.raises(SnapshotFailed, match="make a folder"):
        save.wait(DEADLINE_S)
    assert save.done() and not save.saved and pickle.loads(pickle.dumps(save))["status"] == "failed"
    # ... else at the next call, ...
    writer.save({"step": 2}).wait_ended(time.monotonic() + DEADLINE_S)
    with pytest.raises(SnapshotFailed, match="make a folder"):
        writer.save({"step": 3})
    attempts.checkpointer.flush()
    # ... else at the end.
    writer.save({"step": 4})
    with pytest.raises(SnapshotFailed, match="make a folder"):
        attempts.checkpointer.close(timeout_s=DEADLINE_S)
    assert attempts.desk.records() == []


def test_what_could_not_be_loaded_again_is_refused_and_named(attempts: Attempts) -> None:
    numpy = pytest.importorskip("numpy")
    saver = attempts.begin()
    for value, where in [
        ({"a": [0, numpy.float64(1)]}, "numpy.float64"),
        ({"a": {"b": lambda: None}}, r"state\['a'\]\['b'\]"),
        ({"a": torch.ones(1, device="meta")}, "no data"),
        ({object(): 1}, "a key of state"),
        ({"a": {torch.ones(1)}}, "set"),
        (threading, "module"),
    ]:
        with pytest.raises(InvalidArgument, match=where):
            save_state(saver, value)
    with pytest.raises(InvalidArgument, match="max_staged"):
        StateWriter(saver, max_staged=0)


def test_a_checkpoint_of_something_else_is_not_taken_for_none(attempts: Attempts) -> None:
    saver = attempts.begin()
    assert load_state(saver) is None
    saver.save(attempts.desk.tree({"other": b"x"}))
    with pytest.raises(InvalidArgument, match=r"there is no state\.pt"):
        load_state(attempts.begin())
