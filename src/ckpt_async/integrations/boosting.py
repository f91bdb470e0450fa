"""What the callbacks of XGBoost and LightGBM have in common: after which rounds to save, and how many are left."""

from __future__ import annotations

from ckpt_async.words.errors import InvalidArgument

__all__ = ["check_every", "remaining_rounds"]


def check_every(every: int) -> int:
    """Return `every` where it is a number of rounds. Raises InvalidArgument."""
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise InvalidArgument("save while boosting", on=f"every={every!r}", cause="it is a number of rounds, from 1 on")
    return every


def remaining_rounds(wanted: int, done: int, least: int) -> int:
    """Return how many rounds are left.

    Parameters
    ----------
    wanted, done : int
        Rounds in all, and of those the ones in the checkpoint.
    least : int
        How many must be left.

    Raises
    ------
    InvalidArgument
        The checkpoint has more.
    """
    if wanted - done < least:
        raise InvalidArgument(
            "go on from a checkpoint",
            on=f"num_boost_round={wanted}",
            cause=f"the model that was loaded has {done} rounds already",
            hint="Pass the number of rounds in all, the loaded ones included.",
        )
    return wanted - done
