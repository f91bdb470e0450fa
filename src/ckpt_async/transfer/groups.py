"""The task groups of the stores, under the name that transfers know them by."""

from __future__ import annotations

from ckpt_async.stores.groups import plain_task_group

__all__ = ["plain_task_group"]
