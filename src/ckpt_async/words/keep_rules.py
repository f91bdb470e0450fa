"""The rules by which checkpoints are kept, as a user writes them: ``keep_last``, ``keep_best``, ``keep_every``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ckpt_async.words.errors import InvalidArgument
from ckpt_async.words.records import CheckpointRecord

__all__ = ["BestRule", "KeepRules", "refuse_setting"]

_UNITS_S = {"s": 1.0, "sec": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_PERIOD = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(s|sec|min|h|d)")
_MAX_PERIOD_S = 10 * 366 * 86400.0
_MAX_COUNT = 10**9

ALLOWED_LAST = "a whole number, 1 or more"
ALLOWED_BEST = "'METRIC:min' or 'METRIC:max', also with a count ('loss:min:2'), several separated by commas"
ALLOWED_EVERY = "a whole number of saves, 1 or more, or a period such as '30min', '1h' or '1d'"


def refuse_setting(name: str, value: object, allowed: str) -> InvalidArgument:
    """Return the error for a setting with a value that is not allowed."""
    return InvalidArgument("use a setting", on=f"{name}={value!r}", cause="the value is not allowed", hint=f"Allowed: {allowed}.")


@dataclass(frozen=True)
class BestRule:
    """Keep the checkpoints with the best values of a number in their metadata.

    Attributes
    ----------
    metric : str
        The key of the number.
    highest : bool
        Whether high values are good ones; else low ones.
    count : int
        How many are kept.
    """

    metric: str
    highest: bool
    count: int = 1

    def __str__(self) -> str:
        return f"{self.metric}:{'max' if self.highest else 'min'}:{self.count}"

    def value_in(self, record: CheckpointRecord) -> float | None:
        """Return the number in a checkpoint's metadata, as one that is the better the lower it is; None where there is none.

        Text that is a number counts as one: so ``save()`` writes what is no number of Python's own (``numpy.float32``). Not a
        number (NaN) is the worst.
        """
        value = record.metadata.get(self.metric)
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            return None
        try:
            number = float(value)
        except (ValueError, OverflowError):
            return None
        if math.isnan(number):
            return math.inf
        return -number if self.highest else number


@dataclass(frozen=True)
class KeepRules:
    """Which checkpoints are kept. What any rule keeps is kept; without a rule everything is.

    Attributes
    ----------
    last : int or None
        So many of the newest.
    best : tuple of BestRule
        The best ones by numbers in their metadata. One without the number is not judged by that rule.
    every_saves : int or None
        Those with a save number that is a multiple of this: in each attempt the first, and every so manieth after it.
    every_s : float or None
        The first one of each period of so many seconds, periods counted from 1970 in UTC.
    """

    last: int | None = None
    best: tuple[BestRule, ...] = ()
    every_saves: int | None = None
    every_s: float | None = None

    def __bool__(self) -> bool:
        return self != KeepRules()

    def __str__(self) -> str:
        texts = {"keep_last": self.last, "keep_best": self.best_text, "keep_every": self.every_text}
        return ", ".join(f"{name}={value}" for name, value in texts.items() if value is not None)

    @property
    def best_text(self) -> str | None:
        """`best` as a user writes it; None where there is none."""
        return ",".join(map(str, self.best)) or None

    @property
    def every_text(self) -> str | None:
        """What `every_saves` or `every_s` says, as a user writes it; None where there is none."""
        if self.every_saves is not None:
            return str(self.every_saves)
        return None if self.every_s is None else f"{self.every_s:.15g}s"

    @classmethod
    def read(cls, *, keep_last: object = None, keep_best: object = None, keep_every: object = None) -> KeepRules:
        """Read the rules from a user's values, which may all be text; None, ``"None"`` and ``""`` stand for no rule.

        Parameters
        ----------
        keep_last : int or str
            How many of the newest.
        keep_best : str
            ``"loss:min"``, ``"accuracy:max:3"``, or several separated by commas.
        keep_every : int or str
            ``10``: every tenth save; ``"1h"``: the first of each hour.

        Raises
        ------
        InvalidArgument
            A value is not allowed; it names the value and what is.
        """
        every = None if _is_none(keep_every) else _read_every(keep_every)
        return cls(
            last=None if _is_none(keep_last) else _read_count("keep_last", keep_last, ALLOWED_LAST),
            best=() if _is_none(keep_best) else _read_best(keep_best),
            every_saves=every if isinstance(every, int) else None,
            every_s=every if isinstance(every, float) else None,
        )


def _is_none(value: object) -> bool:
    return value is None or (isinstance(value, str) and value.strip() in ("None", "none", ""))


def _read_count(name: str, value: object, allowed: str) -> int:
    text = value.strip() if isinstance(value, str) else value
    if isinstance(text, str) and text.isascii() and text.isdecimal() and len(text) < 11:
        text = int(text)
    if isinstance(text, bool) or not isinstance(text, int) or not 1 <= text <= _MAX_COUNT:
        raise refuse_setting(name, value, allowed)
    return text


def _read_best(value: object) -> tuple[BestRule, ...]:
    if not isinstance(value, str):
        raise refuse_setting("keep_best", value, ALLOWED_BEST)
    rules = []
    for text in value.split(","):
        metric, _, count = text.strip().rpartition(":")
        if count in ("min", "max"):
            metric, count = f"{metric}:{count}", "1"
        metric, _, way = metric.rpartition(":")
        if not metric.strip() or way not in ("min", "max"):
            raise refuse_setting("keep_best", value, ALLOWED_BEST)
        rules.append(BestRule(metric.strip(), way == "max", _read_count("keep_best", count, ALLOWED_BEST)))
    return tuple(rules)


def _read_every(value: object) -> int | float:
    known = _PERIOD.fullmatch(value.strip().lower()) if isinstance(value, str) else None
    if known is None:
        return _read_count("keep_every", value, ALLOWED_EVERY)
    seconds = float(known[1]) * _UNITS_S[known[2]]
    if not 1.0 <= seconds <= _MAX_PERIOD_S:
        raise refuse_setting("keep_every", value, f"{ALLOWED_EVERY}; a period has at least a second, and at most ten years")
    return seconds
