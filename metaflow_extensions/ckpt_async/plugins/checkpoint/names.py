"""Names and defaults that Metaflow needs while it is imported. Nothing is imported here: every start of Metaflow pays for it."""

from __future__ import annotations

__all__ = ["CARD_ID", "DEFAULTS", "LATEST", "S3_OPTIONS", "TASK_CHECKPOINTS"]

#: The attributes of the decorator. Those of the engine have the defaults of `ckpt_async.Settings` and
#: `ckpt_async.WatchRules`; a test compares them.
DEFAULTS: dict[str, object] = {
    "load_policy": "fresh",
    "strict": False,
    "temp_dir_root": None,
    "show_card": True,
    "async_upload": False,
    "worker": "process",
    "snapshot": "auto",
    "max_pending": 16,
    "max_pending_bytes": None,
    "max_lag": None,
    "on_full": "block",
    "max_bandwidth": None,
    "flush_timeout": 3600.0,
    "spool_dir": None,
    "durability": "process",
    "keep_local": 0,
    "keep_last": None,
    "keep_best": None,
    "keep_every": None,
    "on_event": None,
    "watch": False,
    "watch_quiet": 2.0,
    "watch_max_wait": 60.0,
    "watch_marker": None,
    "watch_ignore": None,
    "watch_temporary": None,
    "s3_options": None,
}

#: Artifacts of a task.
TASK_CHECKPOINTS = "_task_checkpoints"
LATEST = "_task_latest_checkpoint"

#: The same id as that of metaflow-checkpoint's card, so that whoever looks it up by id goes on finding it.
CARD_ID = "task_checkpoints"

#: The variable that tells every process of a task what the attribute `s3_options` says.
S3_OPTIONS = "METAFLOW_CHECKPOINT_S3_OPTIONS"
