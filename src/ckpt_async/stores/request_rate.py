"""How many requests a second a store is sent once it has asked for fewer: decided by what it has answered, and when."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Awaitable, Callable

import anyio

__all__ = ["RequestRate"]

#: Over which time the rate is measured that the store has kept up with.
WINDOW_S = 2.0
#: Fewer answers within it tell nothing of a rate: then it was a hiccup, or so slow a store that fewer at once are enough.
ANSWERS_THAT_TELL = 8
LEAST_SPAN_S = 0.25
#: Fewer refusals, as a share of all, cost less than a bound: a store that refuses now and then, however little it is asked, would
#: be asked less and less.
SHARE_THAT_MATTERS = 0.05
#: A store that refuses gets so much of that rate, and with each second so much more: it is driven near its rate, and few requests
#: are refused in finding out that it still is what it was.
CUT = 0.9
GROWTH_PER_S = 1.05
#: At this multiple of it, it was a hiccup, or the rate is another by now: then it grows fast, until nothing is bounded any more.
BEYOND = 1.1
FAST_GROWTH_PER_S = 2.0
FREE_AT = 2.0
#: After a cut the store is given time: what waited for its turn goes out at the earlier rate, and no rate can be measured at once.
SETTLING_S = 0.3
#: What is remembered of answers at most.
ANSWERS = 20_000

_SLOWLY_S = math.log(BEYOND / CUT, GROWTH_PER_S)


class RequestRate:
    """Lets requests pass: all of them, until a store is too busy; then at a rate. For one event loop.

    A store that bounds requests by the second (S3: 3,500 writes below a prefix) answers those that it takes as fast as ever: fewer
    at once are as many in a second.

    Parameters
    ----------
    clock, sleep : callable
        For tests: monotonic seconds, and waiting.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._answers: deque[float] = deque(maxlen=ANSWERS)
        self._refusals: deque[float] = deque(maxlen=ANSWERS)
        self._refused_per_s: float | None = None
        self._cut_at_s = 0.0
        self._free_at_s = 0.0

    @property
    def per_s(self) -> float | None:
        """How many may pass in a second at the moment; None: any number."""
        if self._refused_per_s is None:
            return None
        since_s = self._clock() - self._cut_at_s
        slow_s, fast_s = min(since_s, _SLOWLY_S), max(0.0, since_s - _SLOWLY_S)
        # Bounded, for a cut may be days ago.
        share = CUT * math.pow(GROWTH_PER_S, slow_s) * math.pow(FAST_GROWTH_PER_S, min(fast_s, 10.0))
        if share >= FREE_AT:
            self._refused_per_s = None
            return None
        return share * self._refused_per_s

    async def turn(self) -> None:
        """Return when a request may go out. Whoever comes gets the next free time; nothing is saved up."""
        per_s = self.per_s
        if per_s is None:
            return
        now_s = self._clock()
        start_s = max(now_s, self._free_at_s)
        self._free_at_s = start_s + 1 / per_s
        if start_s > now_s:
            await self._sleep(start_s - now_s)

    def answered(self) -> None:
        """Note that the store has carried out a request."""
        self._answers.append(self._clock())

    def refused(self) -> None:
        """Note that it was too busy for one."""
        now_s, bound = self._clock(), self.per_s
        self._refusals.append(now_s)
        if bound is not None and now_s < self._cut_at_s + SETTLING_S:
            return
        since_s = max(now_s - WINDOW_S, self._cut_at_s + SETTLING_S if bound is not None else -math.inf)
        answers, refusals = _count_since(self._answers, since_s), _count_since(self._refusals, since_s)
        if answers < ANSWERS_THAT_TELL or refusals < SHARE_THAT_MATTERS * (answers + refusals):
            return
        span_s = max(LEAST_SPAN_S, now_s - (self._answers[0] if self._answers and bound is None else since_s))
        self._refused_per_s = answers / span_s if bound is None else min(bound, max(bound / 2, answers / span_s))
        self._cut_at_s = now_s


def _count_since(times: deque[float], since_s: float) -> int:
    """Forget what was before, and return how many are left."""
    while times and times[0] < since_s:
        times.popleft()
    return len(times)
