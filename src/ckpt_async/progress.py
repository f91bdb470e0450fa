"""The lines that tell a person how a wait goes: pure text from numbers."""

from __future__ import annotations

from dataclasses import dataclass

from ckpt_async.reference import Stats

__all__ = [
    "FIRST_LINE_S",
    "LINE_EVERY_S",
    "Comparison",
    "Rate",
    "compare_with_waiting",
    "left_words",
    "readable_bytes",
    "readable_seconds",
    "saves_words",
    "standstill_line",
    "summary_line",
    "waiting_line",
]

#: A wait shorter than this says nothing.
FIRST_LINE_S = 1.0

#: Between two lines of one wait.
LINE_EVERY_S = 10.0

#: A shorter wait for the uploads is not worth a word at the end.
TOLD_FLUSH_S = 0.5


def readable_bytes(size_bytes: float) -> str:
    """Return a size as people write it, in powers of ten."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.3g} {unit}" if size_bytes / factor < 999.5 else f"{size_bytes / factor:.0f} {unit}"
    return "1 byte" if round(size_bytes) == 1 else f"{size_bytes:.0f} bytes"


def readable_seconds(seconds: float) -> str:
    """Return a duration as people write it."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = seconds / 60
    if minutes < 90:
        return f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h"


def saves_words(count: int) -> str:
    """Return a number of saves as people write it."""
    return f"{count} {'save' if count == 1 else 'saves'}"


@dataclass
class Rate:
    """How fast what is left becomes less, over the whole wait."""

    first_left_bytes: int
    first_s: float

    def bytes_per_s(self, left_bytes: int, now_s: float) -> float:
        """Return the mean rate since the beginning; 0 where nothing has moved."""
        passed_s = now_s - self.first_s
        return max(0.0, (self.first_left_bytes - left_bytes) / passed_s) if passed_s > 0 else 0.0


def left_words(saves: int, left_bytes: int, adopting: int) -> str:
    """Return what is not stored yet: of this attempt, and of how many earlier ones."""
    parts = []
    if saves:
        parts.append(f"{saves_words(saves)} with {readable_bytes(left_bytes)} left")
    if adopting:
        parts.append(
            f"what {adopting} earlier {'attempt or child process' if adopting == 1 else 'attempts or child processes'} left"
        )
    return " and ".join(parts)


def waiting_line(
    saves: int, left_bytes: int, bytes_per_s: float, *, store: str, trouble: str, adopting: int, told: str = ""
) -> str:
    """Return the line of a flush that takes long: what is left, how fast it goes, how long it will take. A `trouble` that has been
    `told` before is not told in full again.
    """
    line = f"Uploading to {store}: {left_words(saves, left_bytes, adopting)}"
    if trouble:
        return f"{line}; the same trouble, still being retried" if trouble == told else f"{line}; trouble, being retried: {trouble}"
    if bytes_per_s > 0 and left_bytes:
        line += f", {readable_bytes(bytes_per_s)}/s, about {readable_seconds(left_bytes / bytes_per_s)} to go"
    return line


@dataclass(frozen=True)
class Comparison:
    """What the checkpoints of a task have cost its training, and what they would have if each ``save()`` waited for its upload.

    Attributes
    ----------
    held_up_s : float
        Seconds in which the training stood still: in ``save()``, in ``flush()``, and at its end.
    waiting_s : float
        Seconds that waiting for each upload would have taken.
    saved_s : float
        The difference: how much longer the training could use its machine.
    """

    held_up_s: float
    waiting_s: float

    @property
    def saved_s(self) -> float:
        return max(0.0, self.waiting_s - self.held_up_s)


def compare_with_waiting(stats: Stats) -> Comparison:
    """Return what the checkpoints have cost so far, beside what waiting for them would have."""
    return Comparison(stats.blocked_s + stats.flush_s, stats.blocked_s - stats.waited_s + stats.upload_s)


def standstill_line(error: str, where_it_lies: str) -> str:
    """Return the line that tells, once, that uploads have not got through for a while."""
    ended = error if error.endswith((".", "!", "?")) else f"{error}."
    return f"The uploads stand still: {ended} They are tried again until they succeed. {where_it_lies}"


def summary_line(stats: Stats) -> str:
    """Return the one line that a task which went well says of its checkpoints; empty where there were none."""
    if not stats.committed:
        return ""
    copied = f", {readable_bytes(stats.copied_bytes)} of it not sent again" if stats.copied_bytes else ""
    where = f"stored, {stats.deleted} of them deleted since" if stats.deleted else "in the store"
    flushed = f" and waiting for the last uploads for {readable_seconds(stats.flush_s)}" if stats.flush_s >= TOLD_FLUSH_S else ""
    return (
        f"{saves_words(stats.committed)} with {readable_bytes(stats.saved_bytes)} {where}{copied}; "
        f"save() held the training up for {readable_seconds(stats.blocked_s)}{flushed}, waiting for each upload would have taken "
        f"{readable_seconds(compare_with_waiting(stats).waiting_s)}."
    )
