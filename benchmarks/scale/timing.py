"""How long requests and bytes take in front of a modelled store: no wall clock, only arithmetic on what the engine does at once."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

from ckpt_async.stores.limiting import fewer, more
from ckpt_async.stores.retrying import backoff_bound_s
from ckpt_async.transfer import fetch
from ckpt_async.transfer.line_speed import most_bytes_for, window_bytes_for
from ckpt_async.transfer.ranges import RANGE_BYTES
from ckpt_async.transfer.upload import BUDGET_BYTES, REQUESTS_AT_ONCE, SMALL_AT_ONCE, SMALL_BYTES

from .counting import DATA, Content, SaveCount, count_commit, part_bytes_of, total, writes_in

GB = 10**9


@dataclass(frozen=True)
class StoreModel:
    """A store as a cluster meets it.

    Attributes
    ----------
    latency_s : float
        The median of what a small request takes.
    latency_sigma : float
        How far it spreads (of the logarithm).
    connection_bytes_per_s : float
        What one request moves at most.
    writes_per_s, reads_per_s : float
        What one partition takes; more is answered with SlowDown.
    partitions : int
        Over how many of them the keys of the tasks are spread.
    bytes_per_s : float
        What it takes in from all tasks together.
    """

    latency_s: float = 0.1
    latency_sigma: float = 0.4
    connection_bytes_per_s: float = 90e6
    writes_per_s: float = 3500.0
    reads_per_s: float = 5500.0
    partitions: int = 1
    bytes_per_s: float = math.inf

    @property
    def mean_latency_s(self) -> float:
        return self.latency_s * math.exp(self.latency_sigma**2 / 2)


@dataclass(frozen=True)
class Service:
    """One save's upload, were the task alone with the store.

    Attributes
    ----------
    seconds : float
        From its first request until it is visible.
    at_once, request_s
        Requests with data under way, and what one of them takes.
    """

    seconds: float
    count: SaveCount
    at_once: int
    request_s: float

    @functools.cached_property
    def writes(self) -> int:
        return writes_in(self.count.requests)

    @functools.cached_property
    def reads(self) -> int:
        return total(self.count.requests, ("get", "head", "list"))


def parts_at_once(line_bytes_per_s: float, part_bytes: int) -> int:
    """How many parts are under way: the engine bounds them by number, and by bytes, those of the line among them."""
    window = window_bytes_for(line_bytes_per_s, most_bytes_for(part_bytes, BUDGET_BYTES))
    # A part above the bound goes alone.
    return min(REQUESTS_AT_ONCE, max(1, window // part_bytes))


def data_rate(line_bytes_per_s: float, part_bytes: int, store: StoreModel) -> float:
    """Bytes per second of one task's large upload: parts under way, each as fast as a connection, within the line."""
    one_s = store.mean_latency_s + part_bytes / store.connection_bytes_per_s
    return min(line_bytes_per_s, parts_at_once(line_bytes_per_s, part_bytes) * part_bytes / one_s)


def load_rate(line_bytes_per_s: float, store: StoreModel) -> float:
    """Likewise for a load of large files."""
    at_once = min(fetch.REQUESTS_AT_ONCE, fetch.BUDGET_BYTES // RANGE_BYTES)
    one_s = store.mean_latency_s + RANGE_BYTES / store.connection_bytes_per_s
    return min(line_bytes_per_s, at_once * RANGE_BYTES / one_s)


def service_of(content: Content, count: SaveCount, line_bytes_per_s: float, store: StoreModel) -> Service:
    """One save's upload: copies, then what is sent, then the joins, then the commit, one request after another."""
    latency_s = store.mean_latency_s
    part_bytes = max(1, part_bytes_of(content))
    puts = count.requests["put", DATA] + count.requests["put_part", DATA]
    copies = total(count.requests, ("copy", "copy_part"))
    if part_bytes <= SMALL_BYTES:
        # Taken by the dozen, and sent one after another by whoever took them.
        batch = min(SMALL_AT_ONCE, SMALL_BYTES // part_bytes + 1)
        at_once = min(REQUESTS_AT_ONCE, max(1, -(-puts // batch)))
        sending_s = max(-(-puts // at_once) * latency_s, count.sent_bytes / line_bytes_per_s)
    else:
        at_once = parts_at_once(line_bytes_per_s, part_bytes)
        sending_s = count.sent_bytes / data_rate(line_bytes_per_s, part_bytes, store)
    # An upload in parts is begun, joined, and looked at where a part of it was copied.
    in_parts = 3 if count.requests["head", DATA] else 2
    rounds = -(-copies // REQUESTS_AT_ONCE) + -(-count.multiparts // REQUESTS_AT_ONCE) * in_parts + total(count_commit(first=False))
    texts_s = count.text_bytes / min(line_bytes_per_s, store.connection_bytes_per_s)
    request_s = latency_s + part_bytes / store.connection_bytes_per_s
    return Service(sending_s + texts_s + rounds * latency_s, count, at_once, request_s)


def rounds_refused_at_random(requests: int, every: int, at_once: int = REQUESTS_AT_ONCE) -> int:
    """How many rounds so many requests take where every so many-th try is refused, however few are made at once: each halves."""
    allowed, tries, granted, rounds = float(at_once), 0, 0, 0
    while granted < requests:
        before, tries = tries // every, tries + int(allowed)
        refused = tries // every - before
        granted += int(allowed) - refused
        rounds += 1
        for _ in range(int(allowed) - refused):
            allowed = more(allowed, at_once)
        if refused:
            allowed = fewer(allowed)
    return rounds


@functools.lru_cache(maxsize=4096)
def refused_share(fair_at_once: float, callers: int = REQUESTS_AT_ONCE) -> float:
    """Refused requests for each one that is granted, where a store grants a task `fair_at_once` requests at a time.

    Above one at a time: a task halves and grows as the engine's limit does, round by round. Below: each of its callers waits
    between tries as the engine does, and is refused as often as makes these waits fill the time.
    """
    if fair_at_once >= callers:
        return 0.0
    if fair_at_once >= 1:
        allowed, granted, refused = float(callers), 0.0, 0.0
        for _ in range(400):
            granted += min(int(allowed), fair_at_once)
            if int(allowed) > fair_at_once:
                refused += int(allowed) - fair_at_once
                allowed = fewer(allowed)
            else:
                for _ in range(int(allowed)):
                    allowed = more(allowed, callers)
        return refused / granted
    return _solve(lambda refused: _rounds_for_one(refused) - callers / fair_at_once)


def _rounds_for_one(refused: float, latency_s: float = 0.1) -> float:
    """How many latencies one granted request takes a caller, with so many refused tries for each granted one."""
    refusal = refused / (1 + refused)
    spent, probability = 0.0, 1.0
    for failures in range(1, 2000):
        probability *= refusal
        spent += probability * backoff_bound_s(failures) / 2
        if probability < 1e-6:
            break
    return 1 + refused + spent / latency_s


def _solve(excess: Callable[[float], float]) -> float:
    """The zero of a growing function of 0 to 1,000."""
    low, high = 0.0, 1000.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    return low
