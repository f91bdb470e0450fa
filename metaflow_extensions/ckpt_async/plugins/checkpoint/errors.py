"""What stops a flow before any task runs. Metaflow's command line prints these without a trace."""

from __future__ import annotations

from metaflow.exception import MetaflowException

__all__ = ["CheckpointNotPossible", "WrongCheckpointAttribute"]


class WrongCheckpointAttribute(MetaflowException):  # type: ignore[misc]
    """An attribute of the decorator that is not known, or a value that is not allowed."""

    headline = "Wrong attribute of @checkpoint"


class CheckpointNotPossible(MetaflowException):  # type: ignore[misc]
    """Checkpoints can't be kept where this flow runs, or not in the way that was asked for."""

    headline = "@checkpoint can't be used here"
