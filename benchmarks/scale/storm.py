"""Many tasks against one partition of a store, request by request: what halving, growing and waiting do when it says SlowDown.

Each request is simulated, with the engine's own rules: `stores.limiting` for how many a task has under way, `stores.retrying` for
how long one waits after a refusal, holding no turn meanwhile. For seconds and minutes; `cluster` has hours.
"""

from __future__ import annotations

import heapq
import random
import statistics
from collections import deque
from dataclasses import dataclass

from ckpt_async.stores.limiting import fewer, more
from ckpt_async.stores.retrying import backoff_bound_s
from ckpt_async.transfer.upload import REQUESTS_AT_ONCE

from .timing import StoreModel

#: What a partition takes at once after a pause, as seconds of its rate.
BURST_S = 0.1

ASK, ANSWER = 0, 1


@dataclass(frozen=True)
class Storm:
    """What is simulated.

    Attributes
    ----------
    requests : int
        Of each task.
    at_once : int
        How many of them a task makes at once; 1: one after another.
    per_s : float
        What the partition takes.
    start_s : float
        The tasks start within so much time.
    down_s : float
        For so long it answers nothing at all: each request fails, and is no reason for a task to halve.
    halving : bool
        Whether a refusal is one.
    """

    tasks: int
    requests: int
    at_once: int = REQUESTS_AT_ONCE
    per_s: float = 3500.0
    start_s: float = 0.0
    down_s: float = 0.0
    latency_s: float = StoreModel.latency_s
    latency_sigma: float = StoreModel.latency_sigma
    halving: bool = True


@dataclass(frozen=True)
class StormOutcome:
    """What came out.

    Attributes
    ----------
    ended_s, median_s : float
        When the last task, and half of them, had all their answers.
    refused : int
        Of all tries.
    granted : int
    peak_per_s : int
        The most tries in a second.
    """

    ended_s: float
    median_s: float
    granted: int
    refused: int
    peak_per_s: int


class _Caller:
    __slots__ = ("allowed", "answered", "halvings", "left", "queue", "under_way")

    def __init__(self, storm: Storm) -> None:
        self.left = storm.requests
        self.answered = 0
        self.under_way = 0
        self.allowed = float(REQUESTS_AT_ONCE)
        self.halvings = 0
        #: The failures so far of the calls that wait for a turn.
        self.queue: deque[int] = deque()


def simulate_storm(storm: Storm, seed: int = 1) -> StormOutcome:
    """Run until every request of every task is answered."""
    rng = random.Random(seed)
    callers = [_Caller(storm) for _ in range(storm.tasks)]
    events: list[tuple[float, int, int, int, int, bool]] = []
    tokens, refilled_s = storm.per_s * BURST_S, 0.0
    granted = refused = 0
    tries: dict[int, int] = {}
    ends: list[float] = []

    def pump(index: int, caller: _Caller, now_s: float) -> None:
        """Let the calls that wait have their turns; in order."""
        nonlocal tokens, refilled_s, granted, refused
        while caller.queue and caller.under_way < int(caller.allowed):
            failures = caller.queue.popleft()
            caller.under_way += 1
            tries[int(now_s)] = tries.get(int(now_s), 0) + 1
            tokens = min(storm.per_s * BURST_S, tokens + (now_s - refilled_s) * storm.per_s)
            refilled_s = now_s
            taken = tokens >= 1 and now_s >= storm.down_s
            if taken:
                tokens -= 1
            latency_s = storm.latency_s * rng.lognormvariate(0.0, storm.latency_sigma)
            heapq.heappush(events, (now_s + latency_s, ANSWER, index, failures, caller.halvings, taken))

    for index, caller in enumerate(callers):
        first = min(storm.at_once, caller.left)
        caller.left -= first
        at_s = rng.uniform(0.0, storm.start_s)
        for _ in range(first):
            heapq.heappush(events, (at_s, ASK, index, 0, 0, False))
    while events:
        now_s, kind, index, failures, halvings, taken = heapq.heappop(events)
        caller = callers[index]
        if kind == ASK:
            caller.queue.append(failures)
        else:
            caller.under_way -= 1
            if taken:
                granted += 1
                caller.answered += 1
                caller.allowed = more(caller.allowed, REQUESTS_AT_ONCE)
                if caller.left:
                    caller.left -= 1
                    caller.queue.append(0)
                if caller.answered == storm.requests:
                    ends.append(now_s)
            else:
                refused += 1
                if storm.halving and now_s >= storm.down_s and halvings == caller.halvings:
                    caller.halvings += 1
                    caller.allowed = fewer(caller.allowed)
                failures += 1
                wait_s = rng.uniform(0.0, backoff_bound_s(failures))
                heapq.heappush(events, (now_s + wait_s, ASK, index, failures, 0, False))
        pump(index, caller, now_s)
    return StormOutcome(max(ends), statistics.median(ends), granted, refused, max(tries.values()))
