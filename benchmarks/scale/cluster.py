"""Many tasks that train, save and upload for hours, in simulated time: waits, spools, progress at risk, throttling.

A discrete event simulation, seeded. Two events for each save: it is taken, it is stored. Whether it may be taken the engine's own
`spool.admission.decide` says. Between the events, bytes and requests flow: where all uploads together ask a store for more than it
takes, each goes on slower by the same factor, which is kept as one virtual clock, so that an event costs a heap operation however
many tasks there are.
"""

from __future__ import annotations

import functools
import heapq
import math
import random
import statistics
from collections import Counter, deque
from dataclasses import dataclass, field, replace

from ckpt_async.spool.admission import Admit, Drop, Limits, Queued, Refuse, SpoolLoad, decide
from ckpt_async.words.retention import decide_retention
from ckpt_async.words.settings import Settings

from .counting import SOME_NS, Content, Requests, count_pass, count_save, record_of
from .timing import Service, StoreModel, refused_share, service_of

TB = 10**12
#: Of which a record is not told.
CONTENT_OF_RECORDS = Content(1, 1)


@dataclass(frozen=True)
class Cluster:
    """What is simulated.

    Attributes
    ----------
    tasks_per_host : int
        They share its line as if all of them uploaded at the same time, and its disk.
    line_bytes_per_s : float
        Of a host.
    interval_s : float
        Of training between two saves; waits come on top.
    spread_s : float
        The tasks start within so much time; 0: all of them save in the same moment, again and again.
    outage : tuple
        When the store answers nothing, and for how long, in seconds; (0, 0): never.
    """

    content: Content
    tasks: int = 1
    tasks_per_host: int = 1
    line_bytes_per_s: float = 10e9 / 8
    disk_bytes: float = 4 * TB
    interval_s: float = 600.0
    spread_s: float = 600.0
    settings: Settings = field(default_factory=Settings)
    store: StoreModel = field(default_factory=StoreModel)
    outage: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Outcome:
    """What came out.

    Attributes
    ----------
    saves, dropped, refused_saves : int
        Stored; given up for a later one; not taken at all.
    at_risk_s, at_risk_worst_s : float
        How much training came after the newest stored save, when the next one became visible: the median, and the worst. Time that
        ``save()`` waited is none.
    blocked_s : float
        Of the training's time, all tasks together.
    spool_peak_bytes : int
        Of one host.
    flush_s, flush_worst_s : float
        From the end of the training until all is stored.
    slow_down : int
        Answers of that kind.
    throttled_s : float
        How long the store was asked for more than it takes.
    kept_bytes : int
        What is in the store at the end.
    """

    hours: float
    saves: int
    dropped: int
    refused_saves: int
    requests: Requests
    sent_bytes: int
    copied_bytes: int
    at_risk_s: float
    at_risk_worst_s: float
    blocked_s: float
    spool_peak_bytes: int
    flush_s: float
    flush_worst_s: float
    slow_down: int
    throttled_s: float
    kept_bytes: int


@dataclass
class _Task:
    host: int
    #: How much had been trained when the newest stored save was taken.
    stored_trained_s: float = 0.0
    began_s: float = 0.0
    waited_s: float = 0.0
    #: Of each save that waits, the one that is uploaded first: when it was taken, and how much had been trained.
    queue: deque[tuple[float, float]] = field(default_factory=deque)
    uploading: bool = False
    waiting_since_s: float | None = None
    stored: int = 0
    done_s: float = 0.0

    def trained_s(self, now_s: float) -> float:
        return (now_s if self.waiting_since_s is None else self.waiting_since_s) - self.began_s - self.waited_s


class _Flow:
    """The uploads under way, on one virtual clock that runs at `speed`."""

    def __init__(self, store: StoreModel, service: Service) -> None:
        self._at_once, self._request_s = service.at_once, service.request_s
        self._writes_per_s = store.writes_per_s * store.partitions
        self._reads_per_s = store.reads_per_s * store.partitions
        self._bytes_per_s = store.bytes_per_s
        self.heap: list[tuple[float, int]] = []
        self.virtual_s = 0.0
        self.down = False
        self.writes = self.reads = self.bytes = 0.0
        self.slow_down = self.throttled_s = 0.0
        self.speed = 1.0

    def add(self, service: Service, seconds: float, sign: int) -> None:
        self.writes += sign * service.writes / seconds
        self.reads += sign * service.reads / seconds
        self.bytes += sign * service.count.sent_bytes / seconds
        self._set_speed()

    def _set_speed(self) -> None:
        asked = max(self.writes / self._writes_per_s, self.reads / self._reads_per_s, self.bytes / self._bytes_per_s)
        self.speed = 0.0 if self.down else 1.0 if asked <= 1 else 1 / asked

    def switch(self, down: bool) -> None:
        self.down = down
        self._set_speed()

    def pass_time(self, seconds: float) -> None:
        self.virtual_s += self.speed * seconds
        if 0 < self.speed < 1 - 1e-9 and self.heap:
            self.throttled_s += seconds
            granted = (self.writes + self.reads) * self.speed * seconds
            # Of a task: as many at once as its share of the store is. Rounded, for the answer to be known already.
            fair = float(f"{self.writes * self.speed * self._request_s / len(self.heap):.1g}")
            self.slow_down += granted * refused_share(fair, self._at_once)

    def next_s(self, now_s: float) -> float:
        if not self.heap or not self.speed:
            return math.inf
        return now_s + max(0.0, self.heap[0][0] - self.virtual_s) / self.speed


def simulate(cluster: Cluster, hours: float, seed: int = 1) -> Outcome:
    """Run the cluster for so many hours of training, then until all is stored."""
    return _Run(cluster, hours * 3600.0, seed).run()


@functools.lru_cache(maxsize=4096)
def kept_of(saves: int, interval_s: float, settings: Settings) -> int:
    """How many of so many checkpoints of a task the engine keeps in the store."""
    if not settings.keep_rules or not saves:
        return saves
    records = [
        replace(record_of(CONTENT_OF_RECORDS, version), saved_at_unix_ns=SOME_NS + int(version * interval_s * 1e9))
        for version in range(saves)
    ]
    return len(decide_retention(records, settings.keep_rules, latest_keys={records[-1].key}).kept)


class _Run:
    def __init__(self, cluster: Cluster, end_s: float, seed: int) -> None:
        self._cluster = cluster
        self._end_s = end_s
        self._random = random.Random(seed)
        line = min(cluster.line_bytes_per_s / cluster.tasks_per_host, cluster.settings.max_bandwidth_bytes_per_s or math.inf)
        self._services = tuple(
            service_of(cluster.content, count_save(cluster.content, first=first), line, cluster.store) for first in (True, False)
        )
        settings = cluster.settings
        self._limits = Limits(settings.max_pending, settings.max_pending_bytes, settings.on_full, settings.max_lag_s)
        starts = [self._random.uniform(0.0, cluster.spread_s) if cluster.spread_s else 0.0 for _ in range(cluster.tasks)]
        self._tasks = [_Task(index // cluster.tasks_per_host, began_s=start_s) for index, start_s in enumerate(starts)]
        hosts = -(-cluster.tasks // cluster.tasks_per_host)
        self._spooled = [0] * hosts
        self._peak = 0
        self._flow = _Flow(cluster.store, self._services[1])
        self._under_way: dict[int, tuple[Service, float]] = {}
        self._at_risk: list[float] = []
        self._dropped = self._refused = 0
        self._size_bytes = cluster.content.size_bytes
        self._events = [(start_s + cluster.interval_s, index) for index, start_s in enumerate(starts)]
        heapq.heapify(self._events)

    def run(self) -> Outcome:
        now_s, flow = 0.0, self._flow
        down_s, up_s = self._cluster.outage[0], sum(self._cluster.outage)
        switches = deque([(down_s, True), (up_s, False)] if up_s > down_s else [])
        while self._events or flow.heap:
            stored_s = flow.next_s(now_s)
            saved_s = self._events[0][0] if self._events else math.inf
            switch_s = switches[0][0] if switches else math.inf
            next_s = min(stored_s, saved_s, switch_s)
            flow.pass_time(next_s - now_s)
            now_s = next_s
            if switch_s == next_s:
                flow.switch(switches.popleft()[1])
            elif stored_s == next_s:
                self._stored(heapq.heappop(flow.heap)[1], now_s)
            else:
                self._save(heapq.heappop(self._events)[1], now_s)
        return self._outcome()

    def _save(self, index: int, now_s: float) -> None:
        task = self._tasks[index]
        if now_s >= self._end_s:
            if task.waiting_since_s is not None:
                task.waited_s += self._end_s - task.waiting_since_s
                task.waiting_since_s = None
            return
        while True:
            started = 1 if task.uploading else 0
            droppable: tuple[Queued, ...] = ()
            if self._limits.on_full == "drop_oldest" and len(task.queue) > started:
                droppable = (Queued("oldest", self._size_bytes),)
            load = SpoolLoad(
                len(task.queue),
                len(task.queue) * self._size_bytes,
                int(self._cluster.disk_bytes) - self._spooled[task.host],
                droppable,
                now_s - task.queue[0][0] if task.queue else 0.0,
            )
            decision = decide(self._size_bytes, load, self._limits)
            if not isinstance(decision, Drop):
                break
            del task.queue[started]
            self._spooled[task.host] -= self._size_bytes
            self._dropped += 1
        if isinstance(decision, Admit):
            if task.waiting_since_s is not None:
                task.waited_s += now_s - task.waiting_since_s
                task.waiting_since_s = None
            task.queue.append((now_s, task.trained_s(now_s)))
            self._spooled[task.host] += self._size_bytes
            self._peak = max(self._peak, self._spooled[task.host])
            self._begin(index, task)
        elif isinstance(decision, Refuse):
            self._refused += 1
        else:
            # Woken by the next save of its own that is stored.
            task.waiting_since_s = now_s if task.waiting_since_s is None else task.waiting_since_s
            return
        heapq.heappush(self._events, (now_s + self._cluster.interval_s, index))

    def _begin(self, index: int, task: _Task) -> None:
        if task.uploading or not task.queue:
            return
        task.uploading = True
        service = self._services[bool(task.stored)]
        seconds = service.seconds * self._random.lognormvariate(0.0, 0.1)
        self._under_way[index] = service, seconds
        heapq.heappush(self._flow.heap, (self._flow.virtual_s + seconds, index))
        self._flow.add(service, seconds, 1)

    def _stored(self, index: int, now_s: float) -> None:
        task = self._tasks[index]
        service, seconds = self._under_way.pop(index)
        self._flow.add(service, seconds, -1)
        _, trained_s = task.queue.popleft()
        self._spooled[task.host] -= self._size_bytes
        task.uploading = False
        task.stored += 1
        # After its end a task trains no more.
        self._at_risk.append(task.trained_s(min(now_s, self._end_s)) - task.stored_trained_s)
        task.stored_trained_s = trained_s
        task.done_s = now_s
        self._begin(index, task)
        if task.waiting_since_s is not None:
            self._save(index, now_s)

    def _outcome(self) -> Outcome:
        (first, later), settings = self._services, self._cluster.settings
        requests: Requests = Counter()
        sent = copied = saves = 0
        begun = sum(task.stored > 0 for task in self._tasks)
        for service, times in ((first, begun), (later, sum(task.stored for task in self._tasks) - begun)):
            saves += times
            sent += times * (service.count.sent_bytes + service.count.text_bytes)
            copied += times * service.count.copied_bytes
            for kind, count in service.count.requests.items():
                requests[kind] += times * count
        # Beside the uploads, and too few to be felt: what retention asks for comes on top.
        kept = sum(kept_of(task.stored, self._cluster.interval_s, settings) for task in self._tasks)
        for kind, count in count_pass(self._cluster.content).items():
            requests[kind] += (saves - kept) * count
        flushes = [max(0.0, task.done_s - self._end_s) for task in self._tasks]
        return Outcome(
            hours=self._end_s / 3600,
            saves=saves,
            dropped=self._dropped,
            refused_saves=self._refused,
            requests=requests,
            sent_bytes=sent,
            copied_bytes=copied,
            at_risk_s=statistics.median(self._at_risk) if self._at_risk else math.inf,
            at_risk_worst_s=max(self._at_risk, default=math.inf),
            blocked_s=sum(task.waited_s for task in self._tasks),
            spool_peak_bytes=self._peak,
            flush_s=statistics.median(flushes),
            flush_worst_s=max(flushes),
            slow_down=round(self._flow.slow_down),
            throttled_s=self._flow.throttled_s,
            kept_bytes=kept * self._size_bytes,
        )
