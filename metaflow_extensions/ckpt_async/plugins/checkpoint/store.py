"""Which store Metaflow's datastore is, and where the spools stand."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from ckpt_async import InvalidArgument, StoreAddress

from .artifact_store import ACCESS, ArtifactStore, artifact_store
from .errors import CheckpointNotPossible
from .other_datastores import SCHEME, is_registered, kind_and_root, url_of

__all__ = [
    "AZURE_ACCESS",
    "GCS_ACCESS",
    "OTHER_ACCESS",
    "S3_ACCESS",
    "SUPPORTED",
    "address_of_datastore",
    "artifact_store_of",
    "configured_address",
    "scratch_root",
    "store_address",
    "stored_address",
]

#: Imported in the process that uploads, which may be another than the task.
S3_ACCESS = "metaflow_extensions.ckpt_async.plugins.checkpoint.s3_access:metaflow_s3_access"

AZURE_ACCESS = "metaflow_extensions.ckpt_async.plugins.checkpoint.cloud_access:metaflow_azure_access"
GCS_ACCESS = "metaflow_extensions.ckpt_async.plugins.checkpoint.cloud_access:metaflow_gcs_access"
OTHER_ACCESS = "metaflow_extensions.ckpt_async.plugins.checkpoint.other_datastores:other_datastore_access"

#: What the engine has stores for. Others go through the storage class that Metaflow knows for them.
SUPPORTED = ("local", "s3", "azure", "gs")

_SUPPORTED_WORDS = f"Supported are: {', '.join(SUPPORTED)}, and what an installed extension of Metaflow registers."

#: Where `spin` keeps what a step makes: files, apart from those of runs. Nobody chooses it by name.
SPIN = "spin"


def store_address(kind: str, root: str | None) -> StoreAddress:
    """Return the store of a datastore.

    Parameters
    ----------
    kind : str
        Metaflow's name of it: ``"local"``, ``"s3"``, ``"azure"``, ``"gs"``, what an extension has registered, or ``"spin"``,
        which is files too.
    root : str or None
        Its root.

    Raises
    ------
    CheckpointNotPossible
        Another kind, a datastore without a root, one whose root names no bucket, or one that needs a package that is not here.
    """
    if not _is_supported(kind):
        raise CheckpointNotPossible(
            f"Checkpoints are kept in the datastore of the flow, or in the store of @with_artifact_store, which is {kind!r} here. "
            f"{_SUPPORTED_WORDS} Choose one with --datastore, or take @checkpoint off."
        )
    if not root:
        raise CheckpointNotPossible(
            f"The datastore {kind!r} has no root. Set METAFLOW_DATASTORE_SYSROOT_{kind.upper()}, or pass --datastore-root."
        )
    if kind == "azure":
        # Metaflow's root of it has no scheme.
        return _checked(StoreAddress(f"azure://{root.removeprefix('azure://').strip('/')}", AZURE_ACCESS))
    if kind == "gs":
        if not root.startswith("gs://") or not root.removeprefix("gs://").partition("/")[0]:
            raise CheckpointNotPossible(f"The root {root!r} of a datastore on Google Cloud Storage must begin with gs://BUCKET.")
        return _checked(StoreAddress(root.rstrip("/"), GCS_ACCESS))
    if kind not in ("s3", "local", SPIN):
        return StoreAddress(url_of(kind, root), OTHER_ACCESS)
    if kind == "s3":
        # Without the scheme it would be a folder here.
        if not root.startswith("s3://") or not root.removeprefix("s3://").partition("/")[0]:
            raise CheckpointNotPossible(f"The root {root!r} of a datastore on S3 must begin with s3://BUCKET.")
        other = artifact_store()
        access = S3_ACCESS if other is None or other.root.rstrip("/") != root.rstrip("/") else ACCESS
        return StoreAddress(root.rstrip("/"), access=access)
    return StoreAddress(os.path.abspath(root))


def stored_address(kind: str, root: str | None) -> StoreAddress:
    """Return the store that a checkpoint or a task names as its own; raises InvalidArgument where nothing of that kind can be read.

    Parameters
    ----------
    kind, root : str
        As `store_address` takes them.
    """
    if kind == SCHEME and root is not None:
        kind, root = kind_and_root(root)
    if not _is_supported(kind):
        raise InvalidArgument(
            "use a checkpoint", on=root or "", cause=f"it lies in a datastore of the kind {kind!r}", hint=_SUPPORTED_WORDS
        )
    return store_address(kind, root)


def _is_supported(kind: str) -> bool:
    return kind in (*SUPPORTED, SPIN) or is_registered(kind)


def _checked(address: StoreAddress) -> StoreAddress:
    """Return the address; raises CheckpointNotPossible where a package is missing that its store needs."""
    from ckpt_async import UnsupportedStore, check_address

    try:
        check_address(address)
    except UnsupportedStore as error:
        raise CheckpointNotPossible(str(error)) from error
    return address


def address_of_datastore(datastore: Any) -> StoreAddress:
    """Return the store of a flow: of its datastore, as hooks of decorators get it, or the one that `@with_artifact_store` names;
    raises like `store_address`.
    """
    other = artifact_store_of(datastore)
    return store_address(datastore.TYPE, datastore.datastore_root) if other is None else store_address(other.kind, other.root)


def artifact_store_of(datastore: Any) -> ArtifactStore | None:
    """Return the store that `@with_artifact_store` names for a flow; None without it, and under `spin`, which keeps all apart."""
    return None if datastore.TYPE == SPIN else artifact_store()


def configured_address() -> StoreAddress:
    """Return the store that is configured outside any flow: that of Metaflow's datastore, or the one that `artifact_store_from`
    names; raises like `store_address`.
    """
    if (other := artifact_store()) is not None:
        return store_address(other.kind, other.root)
    from metaflow.metaflow_config import DEFAULT_DATASTORE
    from metaflow.plugins import DATASTORES

    for storage in DATASTORES:
        if storage.TYPE == DEFAULT_DATASTORE:
            return store_address(storage.TYPE, storage.get_datastore_root_from_config(lambda *_: None, create_on_absent=False))
    return store_address(DEFAULT_DATASTORE, None)


def scratch_root(spool_dir: str | None, temp_dir_root: str | None) -> str:
    """Return the folder under which spools stand: a private one in the folder that the user named, else beside the checkpoint
    directory, on the same filesystem, where a snapshot may be a link or a clone.

    Always one of our own: it is closed to others, and the user's folder may be shared with them.
    """
    return os.path.join(spool_dir or temp_dir_root or tempfile.gettempdir(), f"ckpt-async-{os.getuid()}")
