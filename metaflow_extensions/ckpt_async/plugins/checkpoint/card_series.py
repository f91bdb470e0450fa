"""The series of the card's charts, made small whatever the number of saves: who was busy when, and how much waited for its upload.

Tuples and plain loops: with ten thousand saves each of these steps is done some ten thousand times.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ckpt_async import Status

if TYPE_CHECKING:
    from ckpt_async import SaveState

__all__ = ["Backlog", "Point", "Segment", "Span", "Timeline", "backlog", "timeline"]

#: More spans than this of one kind are told as shares of so many stretches of time.
MAX_SEGMENTS = 120

#: More points than this are thinned out: of each stretch of time its peak remains.
MAX_POINTS = 120


class Span(NamedTuple):
    """From when to when, in seconds since 1970."""

    begin_s: float
    end_s: float


class Segment(NamedTuple):
    """A stretch of the timeline, in seconds since the step began, and which share of it was spent so, from 0 to 1."""

    begin_s: float
    end_s: float
    share: float = 1.0


@dataclass(frozen=True)
class Timeline:
    """When the step was training, when it waited for checkpoints, and when checkpoints were uploaded."""

    training: tuple[Segment, ...]
    waiting: tuple[Segment, ...]
    uploading: tuple[Segment, ...]


class Point(NamedTuple):
    """A moment.

    Attributes
    ----------
    at_s : float
        In seconds since the step began.
    waiting : int
        How many saves were not in the datastore.
    lag_s : float
        How long ago the oldest of them was taken.
    """

    at_s: float
    waiting: int
    lag_s: float


@dataclass(frozen=True)
class Backlog:
    """What waited for its upload, over time. `oldest_s`: the lag at the end of it."""

    points: tuple[Point, ...]
    oldest_s: float


def timeline(waiting: Iterable[Span], uploading: Iterable[Span], began_s: float, step_ended_s: float, now_s: float) -> Timeline:
    """Lay out what went on from `began_s` to `now_s`. After the step's end, whatever goes on is waiting."""
    held_up = list(waiting)
    if now_s > step_ended_s:
        held_up.append(Span(step_ended_s, now_s))
    stood_still = _union(held_up, began_s, now_s)
    return Timeline(
        _segments(_gaps(stood_still, began_s, now_s), began_s, now_s),
        _segments(stood_still, began_s, now_s),
        _segments(_union(uploading, began_s, now_s), began_s, now_s),
    )


def _union(spans: Iterable[Span], began_s: float, now_s: float) -> list[Span]:
    """Join what overlaps, and cut off what lies outside."""
    joined: list[Span] = []
    for span in sorted(spans):
        begin_s, end_s = max(span.begin_s, began_s), min(span.end_s, now_s)
        if end_s <= begin_s:
            continue
        if joined and begin_s <= joined[-1].end_s:
            if end_s > joined[-1].end_s:
                joined[-1] = Span(joined[-1].begin_s, end_s)
        else:
            joined.append(Span(begin_s, end_s))
    return joined


def _gaps(joined: Sequence[Span], began_s: float, now_s: float) -> list[Span]:
    edges = [began_s, *(edge for span in joined for edge in (span.begin_s, span.end_s)), now_s]
    return [Span(begin_s, end_s) for begin_s, end_s in zip(edges[::2], edges[1::2], strict=True) if end_s > begin_s]


def _segments(joined: Sequence[Span], began_s: float, now_s: float) -> tuple[Segment, ...]:
    if len(joined) <= MAX_SEGMENTS:
        return tuple(Segment(span.begin_s - began_s, span.end_s - began_s) for span in joined)
    width_s = (now_s - began_s) / MAX_SEGMENTS
    busy_s = [0.0] * MAX_SEGMENTS
    for span in joined:
        begin_s, end_s = span.begin_s - began_s, span.end_s - began_s
        stretch = min(int(begin_s / width_s), MAX_SEGMENTS - 1)
        while begin_s < end_s:
            until_s = end_s if stretch == MAX_SEGMENTS - 1 else min(end_s, (stretch + 1) * width_s)
            busy_s[stretch] += max(0.0, until_s - begin_s)
            begin_s, stretch = until_s, min(stretch + 1, MAX_SEGMENTS - 1)
    found: list[Segment] = []
    for index, spent_s in enumerate(busy_s):
        if not spent_s:
            continue
        begin_s, share = index * width_s, max(0.01, round(spent_s / width_s, 2))
        if found and found[-1].share == share and found[-1].end_s == begin_s:
            begin_s = found.pop().begin_s
        found.append(Segment(begin_s, (index + 1) * width_s, share))
    return tuple(found)


def backlog(states: Sequence[SaveState], began_s: float, now_s: float) -> Backlog:
    """Compute how many saves waited for their upload, and how much progress was at risk, from the beginning until now.

    A save that was given up counts until a later one is stored: only that one brings its progress into safety.
    """
    changes = [(state.saved_unix_s, 0, index) for index, state in enumerate(states)]
    # Where a save comes and goes in the same moment, it comes first.
    changes += [
        (max(end_s, states[index].saved_unix_s), 1, index) for index, end_s in enumerate(_safe_from(states)) if end_s is not None
    ]
    changes.sort()
    points = [Point(0.0, 0, 0.0)]
    safe = [False] * len(states)
    oldest = waiting = came = 0
    for at_s, goes, index in changes:
        before = waiting, (at_s - states[oldest].saved_unix_s if waiting else 0.0)
        if goes:
            safe[index] = True
            waiting -= 1
        else:
            came += 1
            waiting += 1
        while oldest < came and safe[oldest]:
            oldest += 1
        passed_s = max(0.0, at_s - began_s)
        points.append(Point(passed_s, *before))
        points.append(Point(passed_s, waiting, at_s - states[oldest].saved_unix_s if waiting else 0.0))
    oldest_s = max(0.0, now_s - states[oldest].saved_unix_s) if waiting else 0.0
    points.append(Point(max(now_s - began_s, points[-1].at_s), waiting, oldest_s))
    return Backlog(_thinned(points), oldest_s)


def _safe_from(states: Sequence[SaveState]) -> list[float | None]:
    """Return from when on the progress of each save was in the datastore."""
    found: list[float | None] = []
    later_s: float | None = None
    for state in reversed(states):
        end_s: float | None = None
        if state.stored:
            end_s = state.ended_unix_s or state.saved_unix_s
            later_s = end_s if later_s is None else min(later_s, end_s)
        elif state.status == Status.DROPPED:
            end_s = later_s
        elif state.lost or state.status not in (Status.QUEUED, Status.UPLOADING, Status.FAILED):
            # Nothing brings its files back, or it is gone for a reason of its own: nobody waits for it.
            end_s = state.ended_unix_s or state.saved_unix_s
        found.append(end_s)
    return found[::-1]


def _thinned(points: Sequence[Point]) -> tuple[Point, ...]:
    if len(points) <= MAX_POINTS:
        return tuple(points)
    width_s = (points[-1].at_s - points[0].at_s) / MAX_POINTS or 1.0
    peaks: dict[int, Point] = {}
    for point in points:
        stretch = int(point.at_s / width_s)
        peak = peaks.get(stretch)
        if peak is None or point.lag_s >= peak.lag_s:
            peaks[stretch] = Point(point.at_s, max(point.waiting, peak.waiting if peak else 0), point.lag_s)
        elif point.waiting > peak.waiting:
            peaks[stretch] = Point(peak.at_s, point.waiting, peak.lag_s)
    return (*(peaks[stretch] for stretch in sorted(peaks)), points[-1])
