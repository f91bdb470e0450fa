"""What can be said of pairs of windows: how much slower the busy one was, and within which limits that is known. No I/O here.

A pair is an idle window and a busy one of the same process, next to each other in time. What changes slowly (the clock of the
processor, the neighbours of a virtual machine) falls on both and leaves their ratio. What comes in bursts makes single pairs wrong,
which moves the median of all pairs little; but a stall that comes now and then does not move it either, so that the ratio in total
is needed beside it. Pairs in which the host took the core away are left out.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

RESAMPLES = 200

_T = TypeVar("_T")


@dataclass(frozen=True)
class Window:
    """Steps of one window.

    Attributes
    ----------
    steps_s : list of float
        What each step took, by the clock.
    cpu_steps_s : list of float
        What each took of the processor, in the loop's own thread; without what the host ran meanwhile, where the system knows that.
    wall_s : float
        The whole window by the clock.
    stolen_s : float
        For how long the host ran something else on the loop's core.
    waited_s : float
        For how long the loop's thread could have run, but another program of this machine had its core.
    """

    steps_s: list[float]
    cpu_steps_s: list[float]
    wall_s: float
    stolen_s: float
    waited_s: float

    @property
    def steps(self) -> int:
        return len(self.steps_s)

    @property
    def own_s(self) -> float:
        """The time by the clock without the wait for the core."""
        return self.wall_s - self.waited_s


@dataclass(frozen=True)
class Pair:
    """An idle window and a busy one; the ratios are busy by idle."""

    idle: Window
    busy: Window

    @property
    def was_stolen(self) -> bool:
        """Whether the host took the core away. The system counts that in hundredths of a second."""
        return self.idle.stolen_s + self.busy.stolen_s > 0.0

    @property
    def own_speed(self) -> float:
        """Steps a second of the time in which no other program had the loop's core."""
        return (self.busy.steps / self.busy.own_s) / (self.idle.steps / self.idle.own_s)

    @property
    def cpu_per_step(self) -> float:
        """CPU time of a step."""
        return (sum(self.busy.cpu_steps_s) / self.busy.steps) / (sum(self.idle.cpu_steps_s) / self.idle.steps)


@dataclass(frozen=True)
class Estimate:
    """A value, and the limits between which it lies with 95 % confidence."""

    value: float
    low: float
    high: float

    def text(self, digits: int) -> str:
        return f"{self.value:.{digits}f} ({self.low:.{digits}f}–{self.high:.{digits}f})"


def median_of(values: Sequence[float]) -> Estimate:
    """The median with the limits of the sign test, which supposes nothing of how the values are spread. Of fewer than six
    values nothing can be said with that confidence: lowest and highest.
    """
    ordered = sorted(values)
    outside = 0
    # As many at each end as are outside of the limits in less than one case of 40.
    while sum(math.comb(len(ordered), number) for number in range(outside + 1)) * 40 <= 2 ** len(ordered):
        outside += 1
    outside = max(outside, 1)
    return Estimate(statistics.median(ordered), ordered[outside - 1], ordered[-outside])


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def drawn_anew(pairs: Sequence[_T], ratio: Callable[[Sequence[_T]], float]) -> Estimate:
    """The ratio of all pairs together, with the limits that drawing the pairs anew gives (bootstrap)."""
    draw = random.Random(7)
    drawn = [ratio(draw.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES)]
    return Estimate(ratio(pairs), percentile(drawn, 0.025), percentile(drawn, 0.975))


def speed_in_total(pairs: Sequence[Pair], *, own: bool) -> Estimate:
    """Steps a second of all busy windows together by that of all idle ones."""
    sums = [
        (
            pair.busy.steps,
            pair.busy.own_s if own else pair.busy.wall_s,
            pair.idle.steps,
            pair.idle.own_s if own else pair.idle.wall_s,
        )
        for pair in pairs
    ]

    def ratio(some: Sequence[tuple[float, float, float, float]]) -> float:
        busy_steps, busy_s, idle_steps, idle_s = (sum(column) for column in zip(*some, strict=True))
        return (busy_steps / busy_s) / (idle_steps / idle_s)

    return drawn_anew(sums, ratio)


def tail_in_total(windows: Sequence[tuple[list[float], list[float]]], share: float) -> Estimate:
    """A percentile of all busy steps by that of all idle ones.

    Parameters
    ----------
    windows : sequence of tuple
        The steps of the idle and of the busy window of each pair.
    """

    def ratio(some: Sequence[tuple[list[float], list[float]]]) -> float:
        idle, busy = ([step_s for pair in some for step_s in pair[which]] for which in (0, 1))
        return percentile(busy, share) / percentile(idle, share)

    return drawn_anew(windows, ratio)
