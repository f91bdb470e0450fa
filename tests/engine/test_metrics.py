"""Metrics by OpenTelemetry's own reader, and listeners."""

from __future__ import annotations

import gc
import subprocess
import sys
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from ckpt_async import EntryCommitted, EntrySaved
from ckpt_async.integrations.opentelemetry import record_metrics
from ckpt_async.testing.seaweed import SeaweedServer
from tests.engine.desk import DEADLINE_S, Desk, paused


class Metrics:
    """What a reader of a provider sees."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader])
        self.units: dict[str, str] = {}
        self.attributes: list[dict[str, Any]] = []

    def read(self) -> dict[str, Any]:
        data = self.reader.get_metrics_data()
        found: dict[str, Any] = {}
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                assert scope.scope.name == "ckpt_async"
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        found[metric.name] = (point.count, point.sum) if hasattr(point, "bucket_counts") else point.value
                        self.units[metric.name] = metric.unit
                        self.attributes.append(dict(point.attributes))
        return found


def test_what_is_recorded(s3_desk: Desk, seaweed: SeaweedServer) -> None:
    metrics = Metrics()
    opened = s3_desk.open(keep_last=1, max_pending=2, on_full="drop_oldest")
    record_metrics(opened, meter_provider=metrics.provider, attributes={"flow": "Flow"})
    tree = s3_desk.tree({"a": b"a" * 1000})
    opened.save(tree).wait(DEADLINE_S)
    with paused(seaweed):
        # One is under way at most, one waits, one is given up for it.
        references = [opened.save(tree) for _ in range(4)]
        found = metrics.read()
        assert found["ckpt_async.pending.count"] == 2 and found["ckpt_async.pending.size"] == 2000
        assert found["ckpt_async.pending.lag"] > 0
    opened.close(timeout_s=DEADLINE_S)
    found = metrics.read()
    stats = opened.stats
    assert stats.dropped >= 2 and stats.deleted == stats.committed - 1 and references[-1].done()
    counts = {name.removeprefix("ckpt_async."): value for name, value in found.items()}
    assert (counts["save.count"], counts["save.size"], counts["save.dropped"]) == (5, 5000, stats.dropped)
    assert (counts["upload.count"], counts["upload.sent"]) == (stats.committed, stats.sent_bytes)
    assert counts["checkpoint.pruned"] == stats.deleted and counts["upload.copied"] == stats.copied_bytes
    assert counts["save.duration"] == (5, pytest.approx(stats.blocked_s))
    assert counts["upload.duration"] == (stats.committed, pytest.approx(stats.upload_s))
    assert (counts["pending.count"], counts["pending.size"], counts["pending.lag"]) == (0, 0, 0)
    assert {metrics.units[f"ckpt_async.{name}"] for name in ("save.duration", "upload.duration", "pending.lag")} == {"s"}
    assert metrics.units["ckpt_async.save.size"] == "By" and all(one == {"flow": "Flow"} for one in metrics.attributes)
    metrics.provider.shutdown()


def test_what_is_gone_is_not_looked_at(thread_desk: Desk) -> None:
    class Once:
        pending = None

        def add_listener(self, callback: object) -> None:
            self.callback = callback

    metrics = Metrics()
    record_metrics(Once(), meter_provider=metrics.provider)  # type: ignore[arg-type]
    gc.collect()
    assert metrics.read() == {}
    metrics.provider.shutdown()


def test_without_the_package_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from ckpt_async import InvalidArgument\n"
        "from ckpt_async.integrations.opentelemetry import record_metrics\n"
        "try: record_metrics(object())\n"
        "except InvalidArgument as error: print(error)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "Install ckpt-async[otel]" in answer.stdout


def test_a_listener_that_raises_is_told_of_once_and_left_out(thread_desk: Desk) -> None:
    opened = thread_desk.open()
    heard: list[object] = []

    def fails(event: object) -> None:
        heard.append(event)
        if isinstance(event, EntrySaved):
            raise RuntimeError("of the listener")

    opened.add_listener(fails)
    for _ in range(3):
        opened.save(thread_desk.tree())
    opened.close(timeout_s=DEADLINE_S)
    assert len([line for line in thread_desk.said if "of the listener" in line]) == 1
    assert sum(isinstance(event, EntrySaved) for event in heard) == 1 and opened.stats.committed == 3


def test_a_listener_that_exits_ends_no_thread_of_the_engine(local_desk: Desk) -> None:
    opened = local_desk.open()

    def exits(event: object) -> None:
        if isinstance(event, EntryCommitted):
            raise SystemExit("of the listener")

    opened.add_listener(exits)
    for _ in range(3):
        opened.save(local_desk.tree())
    opened.close(timeout_s=DEADLINE_S)
    assert opened.stats.committed == 3
    assert len([line for line in local_desk.said if "of the listener" in line]) == 1


def test_an_exception_that_comes_out_of_a_listener_in_save_leaves_the_save_to_be_stored(thread_desk: Desk) -> None:
    opened = thread_desk.open()

    def interrupted(event: object) -> None:
        if isinstance(event, EntrySaved):
            raise KeyboardInterrupt

    opened.save(thread_desk.tree()).wait(DEADLINE_S)
    opened.add_listener(interrupted)
    with pytest.raises(KeyboardInterrupt):
        opened.save(thread_desk.tree())
    opened.close(timeout_s=DEADLINE_S)
    assert opened.stats.committed == 2
