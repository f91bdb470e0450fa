"""Any order of saves, flushes, deaths, retries, loads and outages: what is acknowledged is never lost, `latest` never goes back."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, assume, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from ckpt_async import assembly
from ckpt_async.checkpointer import Checkpointer
from ckpt_async.stores import opening, retrying
from ckpt_async.testing.crash_scenario import Place, content_of, difference, write_content
from ckpt_async.words import keys
from ckpt_async.words.errors import FlushTimeout, StoreUnavailable
from ckpt_async.words.events import Close
from ckpt_async.words.records import CheckpointRecord
from ckpt_async.words.settings import StoreAddress
from ckpt_async.worker import uploader
from tests.faults.weather import Weather, WeatherStore

TIMEOUT_S = 30.0


class Machine(RuleBasedStateMachine):
    """The model: which saves were acknowledged, under which keys, and which of them must be in the store by now."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="ckpt-async-machine-")
        os.mkdir(os.path.join(self.folder, "store"))
        self.place = Place(self.folder, StoreAddress(os.path.join(self.folder, "store")))
        self.weather = Weather()
        assembly.open_store = lambda *given: WeatherStore(opening.open_store(*given), self.weather)  # type: ignore[attr-defined]
        self.attempt = -1
        self.opened: Checkpointer | None = None
        self.number = -1
        self.acknowledged: dict[int, str] = {}
        self.stored: set[int] = set()
        self.latest_order = (-1, -1)
        self.loads = 0

    def target(self) -> str:
        self.loads += 1
        return self.place.target(str(self.loads))

    @initialize()
    def first_attempt(self) -> None:
        self.open_next()

    def open_next(self) -> None:
        self.attempt += 1
        self.opened = self.place.open(self.attempt, "thread", TIMEOUT_S, lambda _line: None)

    # The task

    @precondition(lambda self: self.opened is not None and self.opened.pending.saves < 6)
    @rule(storage_format=st.sampled_from(["files", "tar"]))
    def save(self, storage_format: str) -> None:
        assert self.opened is not None
        self.number += 1
        write_content(self.place.data, self.number)
        reference = self.opened.save(self.place.data, name="model", metadata={"number": self.number}, storage_format=storage_format)
        self.acknowledged[self.number] = reference["key"]

    @rule()
    def delete_local_files(self) -> None:
        shutil.rmtree(self.place.data, ignore_errors=True)

    @precondition(lambda self: self.opened is not None)
    @rule()
    def flush(self) -> None:
        assert self.opened is not None
        if self.weather.down:
            if self.opened.pending.saves:
                with pytest.raises(FlushTimeout):
                    self.opened.flush(0.05)
        else:
            self.opened.flush()
            self.stored |= set(self.acknowledged)

    @precondition(lambda self: self.opened is not None and not self.weather.down)
    @rule(data=st.data())
    def load(self, data: st.DataObject) -> None:
        assert self.opened is not None
        own = [reference.record.metadata["number"] for reference in self.opened.references()]
        numbers = sorted(self.stored.union(own))
        assume(numbers)
        number = data.draw(st.sampled_from(numbers))
        target = self.target()
        self.opened.load(self.acknowledged[number], target)
        assert not difference(target, number)

    # Accidents

    @rule()
    def store_goes_down(self) -> None:
        self.weather.down = True

    @rule()
    def store_comes_back(self) -> None:
        self.weather.down = False

    @precondition(lambda self: self.opened is not None)
    @rule()
    def kill_worker(self) -> None:
        self.weather.worker_dies = True

    @precondition(lambda self: self.opened is not None)
    @rule()
    def kill_task(self) -> None:
        """All that this process holds of the attempt stops where it is; nothing is told, flushed, or tidied up."""
        assert self.opened is not None
        self.weather.task_is_dead = True
        supervisor: Any = self.opened._worker
        with supervisor._starting:  # else one that is being started at this moment would not hear of it
            supervisor._ending = True
        supervisor._worker.send(Close(0.0))
        assert supervisor._worker.join(TIMEOUT_S)
        self.opened._spool.task_lock.release()
        self.opened = None
        self.weather = Weather(down=self.weather.down)

    @precondition(lambda self: self.opened is not None and not self.weather.down)
    @rule()
    def end_task(self) -> None:
        assert self.opened is not None
        opened, self.opened = self.opened, None
        opened.close(timeout_s=TIMEOUT_S)
        self.stored |= set(self.acknowledged)
        assert not os.listdir(self.place.scratch)

    @precondition(lambda self: self.opened is None)
    @rule()
    def retry(self) -> None:
        self.open_next()
        assert self.opened is not None
        target = self.target()
        try:
            record = self.opened.resume("fresh", target)
        except StoreUnavailable:
            assert self.weather.down and self.attempt > 0
            return
        if record is None:
            assert not self.acknowledged
        else:
            number = record.metadata["number"]
            # A store that is down may hide a later save that has left the spool: it says so, and goes on from an older one.
            assert number == max(self.acknowledged) or (self.weather.down and number in self.acknowledged)
            assert not difference(target, number)

    @precondition(lambda self: self.opened is not None and self.opened.pending.saves < 4)
    @rule()
    def death_in_an_outage(self) -> None:
        """What the order of the rules alone seldom brings about: two attempts that have saves to upload at once."""
        self.store_goes_down()
        self.save("files")
        self.save("tar")
        self.kill_task()
        self.retry()
        self.save("files")
        self.store_comes_back()

    # What always holds

    @invariant()
    def latest_is_whole_and_never_moves_back(self) -> None:
        root = Path(self.place.address.url)
        pointer = root / keys.task_latest_key(self.place.identity(0).pathspec)
        if pointer.exists():
            record = CheckpointRecord.from_json(pointer.read_bytes(), source="latest")
            assert record.order >= self.latest_order
            self.latest_order = record.order
            assert all((root / key).exists() for key in (keys.record_key(record.key), record.manifest, record.key))

    def teardown(self) -> None:
        try:
            self.weather.down = False
            if self.opened is None:
                self.open_next()
            self.end_task()
            self.check_all()
        finally:
            assembly.open_store = opening.open_store  # type: ignore[attr-defined]
            shutil.rmtree(self.folder)

    def check_all(self) -> None:
        reader = assembly.open_reader(self.place.address, say=lambda _line: None)
        listed = {record.metadata["number"]: record for record in reader.list(self.place.identity(0).pathspec)}
        assert set(listed) >= self.stored == set(self.acknowledged)
        for number, record in listed.items():
            target = self.target()
            reader.load_record(record, target)
            assert not difference(target, number)
            # The metadata of the store itself, as another program would read them.
            assert json.loads(Path(self.place.address.url, keys.record_key(record.key)).read_bytes())["key"] == record.key
        if listed:
            latest = reader.latest(self.place.identity(0).pathspec)
            assert latest is not None and latest.order == max(record.order for record in listed.values())


def test_content_differs_from_save_to_save() -> None:
    assert content_of(1) == content_of(1) != content_of(2)


@pytest.mark.slow
def test_nothing_acknowledged_is_ever_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "FIRST_BACKOFF_S", 0.005)
    monkeypatch.setattr(retrying, "LAST_BACKOFF_S", 0.02)
    monkeypatch.setattr(uploader, "ENTRY_RETRY_S", 0.01)
    monkeypatch.setitem(assembly.open_reader.__kwdefaults__, "give_up_after_s", 0.2)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=int(os.environ.get("CKPT_ASYNC_MACHINE_EXAMPLES", "10")),
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            # Fifteen steps can be read as they are; to shorten them takes minutes.
            phases=(Phase.explicit, Phase.reuse, Phase.generate),
            derandomize="CKPT_ASYNC_MACHINE_EXAMPLES" not in os.environ,
        ),
    )
