"""The store that metaflow-checkpoint's `@with_artifact_store` and `artifact_store_from` name in place of the flow's datastore.

The decorator puts it into the environment of every process of the flow; the context manager keeps it in a module of that package.
It may hold keys: it is read anew where it is needed, and written nowhere.
"""

from __future__ import annotations

import copy
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import CheckpointNotPossible

if TYPE_CHECKING:
    from ckpt_async import S3Access

__all__ = ["ACCESS", "VARIABLE", "ArtifactStore", "artifact_store", "artifact_store_access", "metadata_fields", "store_in_metadata"]

VARIABLE = "METAFLOW_CHECKPOINT_ARTIFACT_STORE_CONFIG"

#: Imported in the process that uploads, which has the environment of the task.
ACCESS = "metaflow_extensions.ckpt_async.plugins.checkpoint.artifact_store:artifact_store_access"

_CONTEXT_OF_PEER = "metaflow_extensions.obcheckpoint.plugins.machine_learning_utilities.datastore.context"

#: That package's own names of stores that are S3.
_S3_KINDS = ("s3", "s3-compatible", "coreweave")

_TYPE_FIELD, _ROOT_FIELD = "artifact-store-ds-type", "artifact-store-ds-root"


@dataclass(frozen=True)
class ArtifactStore:
    """What was configured.

    Attributes
    ----------
    kind : str
        Metaflow's name of the kind of datastore.
    root : str
        Its root.
    how : mapping
        ``role_arn``, ``session_vars`` and ``client_params`` as Metaflow takes them, where they were given.
    """

    kind: str
    root: str
    how: Mapping[str, Any] = field(default_factory=dict, repr=False)


def artifact_store() -> ArtifactStore | None:
    """Return the store that is configured here and now; None where checkpoints go to the datastore.

    Raises
    ------
    CheckpointNotPossible
        It is not what that package writes.
    """
    told = getattr(getattr(sys.modules.get(_CONTEXT_OF_PEER), "datastore_context", None), "current_context", None)
    text = os.environ.get(VARIABLE)
    if told is None and text is None:
        return None
    try:
        context = json.loads(text or "") if told is None else told
        config = dict(context["config"])
        kind, root = str(context["type"]), str(config.pop("root"))
    except (ValueError, KeyError, TypeError) as error:
        # Its text is not told: it may hold keys.
        raise CheckpointNotPossible(
            f"What @with_artifact_store has put into {VARIABLE} can't be read: {type(error).__name__}."
        ) from None
    return ArtifactStore("s3" if kind in _S3_KINDS else kind, root, config)


def artifact_store_access() -> S3Access:
    """Return the access to the configured store, which is one on S3.

    Raises
    ------
    ckpt_async.StoreAccessDenied
        None is configured in this process.
    metaflow.exception.MetaflowException
        Metaflow can't make a client.
    """
    from metaflow.metaflow_config import DATATOOLS_CLIENT_PARAMS
    from metaflow.plugins.datatools.s3.s3util import get_s3_client

    from ckpt_async import StoreAccessDenied

    from .s3_access import access_through

    store = artifact_store()
    if store is None:
        raise StoreAccessDenied(
            "reach the store of @with_artifact_store",
            cause=f"this process lacks the variable {VARIABLE}",
            hint="What lies there can be uploaded by a run of the flow that has the decorator.",
        )
    how = store.how

    def new_client() -> Any:
        # A copy: Metaflow changes what it is given.
        params = copy.deepcopy(how.get("client_params"))
        client, _ = get_s3_client(how.get("role_arn"), how.get("session_vars"), params)
        return client

    return access_through(new_client, how.get("client_params") or DATATOOLS_CLIENT_PARAMS)


def metadata_fields(store: ArtifactStore) -> dict[str, str]:
    """Return the task's metadata that tells later readers of the store."""
    # Readers stand in another folder.
    root = os.path.abspath(store.root) if store.kind == "local" else store.root
    return {_TYPE_FIELD: store.kind, _ROOT_FIELD: root}


def store_in_metadata(told: Mapping[str, str]) -> tuple[str, str] | None:
    """Return kind and root of the store that a task's metadata tells of; None where its checkpoints are in its datastore."""
    if _TYPE_FIELD not in told or _ROOT_FIELD not in told:
        return None
    kind = told[_TYPE_FIELD]
    return "s3" if kind in _S3_KINDS else kind, told[_ROOT_FIELD]
