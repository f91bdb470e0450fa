"""Checkpoints that do not make training wait.

The names listed here are the public ones. They are imported when they are first used: importing the package itself costs next to
nothing.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # Each name twice: without a list that they can read, type checkers take only these for public.
    from ckpt_async.assembly import (
        next_save_number as next_save_number,
        open_checkpointer as open_checkpointer,
        open_for_child as open_for_child,
        open_reader as open_reader,
    )
    from ckpt_async.carried import files_to_carry as files_to_carry
    from ckpt_async.checkpointer import Checkpointer as Checkpointer
    from ckpt_async.progress import (
        Comparison as Comparison,
        compare_with_waiting as compare_with_waiting,
        readable_bytes as readable_bytes,
        readable_seconds as readable_seconds,
        saves_words as saves_words,
    )
    from ckpt_async.reader import Reader as Reader
    from ckpt_async.reference import (
        AdoptedSave as AdoptedSave,
        CheckpointReference as CheckpointReference,
        Pending as Pending,
        SaveState as SaveState,
        Stats as Stats,
        Status as Status,
        Wait as Wait,
    )
    from ckpt_async.sources import Source as Source
    from ckpt_async.stores.azure.access import AzureAccess as AzureAccess
    from ckpt_async.stores.blobs.access import BlobsAccess as BlobsAccess
    from ckpt_async.stores.gcs.access import GcsAccess as GcsAccess
    from ckpt_async.stores.opening import check_address as check_address
    from ckpt_async.stores.s3.access import S3Access as S3Access, S3Credentials as S3Credentials
    from ckpt_async.transfer.pruning import PruneResult as PruneResult
    from ckpt_async.watching.watcher import Watcher as Watcher
    from ckpt_async.words.errors import (
        CheckpointDamaged as CheckpointDamaged,
        CheckpointError as CheckpointError,
        CheckpointNotFound as CheckpointNotFound,
        CheckpointNotStored as CheckpointNotStored,
        FlushTimeout as FlushTimeout,
        InvalidArgument as InvalidArgument,
        LoadTargetNotEmpty as LoadTargetNotEmpty,
        SaveRefused as SaveRefused,
        SnapshotFailed as SnapshotFailed,
        SpoolBusy as SpoolBusy,
        SpoolDamaged as SpoolDamaged,
        StoreAccessDenied as StoreAccessDenied,
        StoreBusy as StoreBusy,
        StoreError as StoreError,
        StoreMissing as StoreMissing,
        StoreObjectMissing as StoreObjectMissing,
        StorePreconditionFailed as StorePreconditionFailed,
        StoreRejected as StoreRejected,
        StoreUnavailable as StoreUnavailable,
        UnsupportedStore as UnsupportedStore,
        WorkerDied as WorkerDied,
    )
    from ckpt_async.words.events import (
        AdoptionEnded as AdoptionEnded,
        CheckpointPruned as CheckpointPruned,
        EntryCommitted as EntryCommitted,
        EntryDropped as EntryDropped,
        EntryDurable as EntryDurable,
        EntryFailed as EntryFailed,
        EntryProgress as EntryProgress,
        EntrySaved as EntrySaved,
        EntryStarted as EntryStarted,
        LinksGuarded as LinksGuarded,
        Notice as Notice,
        SaveReturned as SaveReturned,
        Trouble as Trouble,
        WorkerReady as WorkerReady,
    )
    from ckpt_async.words.identity import (
        TaskIdentity as TaskIdentity,
        identity_outside_flow as identity_outside_flow,
        json_hash as json_hash,
        short_hash as short_hash,
    )
    from ckpt_async.words.keep_rules import BestRule as BestRule, KeepRules as KeepRules
    from ckpt_async.words.keys import data_key as data_key, scope_records_prefix as scope_records_prefix
    from ckpt_async.words.names import check_name as check_name
    from ckpt_async.words.records import CheckpointRecord as CheckpointRecord
    from ckpt_async.words.retention import (
        JudgedCheckpoint as JudgedCheckpoint,
        RetentionDecision as RetentionDecision,
        decide_retention as decide_retention,
    )
    from ckpt_async.words.settings import Settings as Settings, StoreAddress as StoreAddress, coerce_settings as coerce_settings
    from ckpt_async.words.watch_rules import WatchRules as WatchRules, read_watch_rules as read_watch_rules

__version__ = "0.1.0"

_HOMES = {
    "ckpt_async.assembly": ("next_save_number", "open_checkpointer", "open_for_child", "open_reader"),
    "ckpt_async.carried": ("files_to_carry",),
    "ckpt_async.checkpointer": ("Checkpointer",),
    "ckpt_async.progress": ("Comparison", "compare_with_waiting", "readable_bytes", "readable_seconds", "saves_words"),
    "ckpt_async.reader": ("Reader",),
    "ckpt_async.reference": ("AdoptedSave", "CheckpointReference", "Pending", "SaveState", "Stats", "Status", "Wait"),
    "ckpt_async.sources": ("Source",),
    "ckpt_async.stores.azure.access": ("AzureAccess",),
    "ckpt_async.stores.blobs.access": ("BlobsAccess",),
    "ckpt_async.stores.gcs.access": ("GcsAccess",),
    "ckpt_async.stores.opening": ("check_address",),
    "ckpt_async.stores.s3.access": ("S3Access", "S3Credentials"),
    "ckpt_async.transfer.pruning": ("PruneResult",),
    "ckpt_async.watching.watcher": ("Watcher",),
    "ckpt_async.words.errors": (
        "CheckpointDamaged",
        "CheckpointError",
        "CheckpointNotFound",
        "CheckpointNotStored",
        "FlushTimeout",
        "InvalidArgument",
        "LoadTargetNotEmpty",
        "SaveRefused",
        "SnapshotFailed",
        "SpoolBusy",
        "SpoolDamaged",
        "StoreAccessDenied",
        "StoreBusy",
        "StoreError",
        "StoreMissing",
        "StoreObjectMissing",
        "StorePreconditionFailed",
        "StoreRejected",
        "StoreUnavailable",
        "UnsupportedStore",
        "WorkerDied",
    ),
    "ckpt_async.words.events": (
        "AdoptionEnded",
        "CheckpointPruned",
        "EntryCommitted",
        "EntryDropped",
        "EntryDurable",
        "EntryFailed",
        "EntryProgress",
        "EntrySaved",
        "EntryStarted",
        "LinksGuarded",
        "Notice",
        "SaveReturned",
        "Trouble",
        "WorkerReady",
    ),
    "ckpt_async.words.identity": ("TaskIdentity", "identity_outside_flow", "json_hash", "short_hash"),
    "ckpt_async.words.keep_rules": ("BestRule", "KeepRules"),
    "ckpt_async.words.keys": ("data_key", "scope_records_prefix"),
    "ckpt_async.words.names": ("check_name",),
    "ckpt_async.words.records": ("CheckpointRecord",),
    "ckpt_async.words.retention": ("JudgedCheckpoint", "RetentionDecision", "decide_retention"),
    "ckpt_async.words.settings": ("Settings", "StoreAddress", "coerce_settings"),
    "ckpt_async.words.watch_rules": ("WatchRules", "read_watch_rules"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME_OF)]


_carried = os.path.join(os.path.dirname(os.path.abspath(__file__)), "_carried")
if os.path.isdir(_carried):
    from ckpt_async.carried import use_carried

    use_carried(_carried)


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
