"""The lines that tell a person how a wait goes: pure text from numbers."""

from __future__ import annotations

from dataclasses import dataclass

from ckpt_async.reference import Stats

__all__ = [
    "FIRST_LINE_S",
    "LINE_EVERY_S",
    "Rate",
    "left_words",
    "readable_bytes",
    "readable_seconds",
    "saves_words",
    "summary_line",
    "waiting_line",
]

#: A wait shorter than this says nothing.
FIRST_LINE_S = 1.0

#: Between two lines of one wait.
LINE_EVERY_S = 10.0


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


def waiting_line(saves: int, left_bytes: int, bytes_per_s: float, *, store: str, trouble: str, adopting: int) -> str:
    """Return the line of a flush that takes long: what is left, how fast it goes, how long it will take."""
    line = f"Uploading to {store}: {left_words(saves, left_bytes, adopting)}"
    if trouble:
        return f"{line}; trouble, being retried: {trouble}"
    if bytes_per_s > 0 and left_bytes:
        line += f", {readable_bytes(bytes_per_s)}/s, about {readable_seconds(left_bytes / bytes_per_s)} to go"
    return line


def summary_line(stats: Stats) -> str:
    """Return the one line that a task which went well says of its checkpoints; empty where there were none."""
    if not stats.committed:
        return ""
    copied = f", {readable_bytes(stats.copied_bytes)} of it not sent again" if stats.copied_bytes else ""
    where = f"stored, {stats.deleted} of them deleted since" if stats.deleted else "in the store"
    return (
        f"{saves_words(stats.committed)} with {readable_bytes(stats.saved_bytes)} {where}{copied}; "
        "save() held the training up for "
        f"{readable_seconds(stats.blocked_s)}, waiting for the uploads would have taken "
        f"{readable_seconds(stats.blocked_s - stats.waited_s + stats.upload_s)}."
    )
