"""From a store's address to a store."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ckpt_async.stores.access import load_access
from ckpt_async.words.errors import UnsupportedStore
from ckpt_async.words.settings import StoreAddress

if TYPE_CHECKING:
    from ckpt_async.stores.contract import Store
    from ckpt_async.stores.pacing import Pace

__all__ = ["check_address", "local_folder", "open_store"]

SUPPORTED = "Supported: s3://bucket/prefix, azure://container/prefix, gs://bucket/prefix, and folders as a path or as file:///path."

#: What a kind of store needs: the package that is looked for, and how it is installed.
_NEEDS = {
    "s3": ("botocore", "Install aiobotocore or boto3."),
    "azure": ("azure.storage.blob", "Install it: pip install 'ckpt-async[azure]', or azure-storage-blob and azure-identity."),
    "gs": ("google.cloud.storage", "Install it: pip install 'ckpt-async[gcs]', or google-cloud-storage."),
}

#: The scheme of what is reached by an access function alone: it returns the store's own means.
BLOBS = "blobs"


def check_address(address: StoreAddress) -> None:
    """Say early what is wrong with an address, without importing what its store needs: in the task that would take its time.

    Raises
    ------
    UnsupportedStore
        No store is known for the URL, or a package that it needs is not installed.
    """
    scheme, separator, _ = address.url.partition("://")
    if separator and scheme == BLOBS:
        _check_blobs(address)
    elif separator and scheme in _NEEDS:
        _bucket_and_prefix(scheme, address.url)
        package, hint = _NEEDS[scheme]
        if not _is_installed(package):
            raise UnsupportedStore("open a store", on=address.url, cause=f"the package {package} is not installed", hint=hint)
    else:
        _folder_of(address.url)


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False  # Not even the package that it is in.


def local_folder(address: StoreAddress) -> str | None:
    """Return the folder that a store is; None where it is none of this machine. Raises UnsupportedStore, as `check_address`."""
    scheme, separator, _ = address.url.partition("://")
    return None if separator and scheme in _OPEN else _folder_of(address.url)


def open_store(address: StoreAddress, pace: Pace | None = None) -> Store:
    """Return the bare store of an address: without limits and repetitions, not entered yet. Connects to nothing.

    Parameters
    ----------
    address : StoreAddress
        Where it is.
    pace : Pace
        For what is sent; by default at any speed.

    Raises
    ------
    UnsupportedStore
        No store is known for the URL. What is wrong with its access function, the first request raises.
    """
    from ckpt_async.stores.pacing import UNPACED

    pace = pace or UNPACED
    scheme, separator, _ = address.url.partition("://")
    if separator and scheme in _OPEN:
        return _OPEN[scheme](address, pace)
    folder = _folder_of(address.url)
    from ckpt_async.stores.local.store import LocalStore

    return LocalStore(folder, address.url, pace)


def _folder_of(url: str) -> str:
    """Return the folder that an address names."""
    scheme, separator, _ = url.partition("://")
    path = url
    if separator:
        if scheme != "file":
            raise UnsupportedStore("open a store", on=_shown(url), cause=f"there is no store for {scheme}://", hint=SUPPORTED)
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost"):
            raise UnsupportedStore("open a store", on=_shown(url), cause="a file URL names another machine", hint=SUPPORTED)
        path = unquote(parts.path)
    if not path:
        raise UnsupportedStore("open a store", on=repr(url), cause="the address is empty", hint=SUPPORTED)
    return path


def _bucket_and_prefix(scheme: str, url: str) -> tuple[str, str]:
    bucket, _, prefix = url.removeprefix(f"{scheme}://").partition("/")
    if "@" in bucket:
        raise UnsupportedStore(
            "open a store",
            on=_shown(url),
            cause="an address holds no credentials",
            hint="Put them where Metaflow or the store's own library looks.",
        )
    if not bucket or "?" in url:
        raise UnsupportedStore("open a store", on=url.partition("?")[0], cause="it names no bucket", hint=SUPPORTED)
    return bucket, prefix


def _check_blobs(address: StoreAddress) -> None:
    if not address.access:
        raise UnsupportedStore(
            "open a store",
            on=address.url,
            cause="it names no access function",
            hint="Only such a function knows this store: the command line takes it as --access MODULE:FUNCTION.",
        )


def _shown(url: str) -> str:
    """Return a URL without what stands before an ``@``: it may be a password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://...@{rest.rpartition('@')[2]}" if "@" in rest else url


# The client libraries take a quarter of a second to import: only those who need one pay for it. An access function is called with
# the first request: in a thread, for it may import much, and repeated like a request where it fails.


def _open_s3(address: StoreAddress, pace: Pace) -> Store:
    bucket, prefix = _bucket_and_prefix("s3", address.url)
    from ckpt_async.stores.s3.access import S3Access
    from ckpt_async.stores.s3.store import S3Store

    access = functools.partial(load_access, address.access, S3Access) if address.access else S3Access()
    return S3Store(bucket, prefix, access, pace)


def _open_azure(address: StoreAddress, pace: Pace) -> Store:
    container, prefix = _bucket_and_prefix("azure", address.url)
    from ckpt_async.stores.azure.access import AzureAccess
    from ckpt_async.stores.azure.store import AzureStore

    access = functools.partial(load_access, address.access, AzureAccess) if address.access else AzureAccess()
    return AzureStore(container, prefix, access, pace)


def _open_gcs(address: StoreAddress, pace: Pace) -> Store:
    bucket, prefix = _bucket_and_prefix("gs", address.url)
    from ckpt_async.stores.gcs.access import GcsAccess
    from ckpt_async.stores.gcs.store import GcsStore

    access = functools.partial(load_access, address.access, GcsAccess) if address.access else GcsAccess()
    return GcsStore(bucket, prefix, access, pace)


def _open_blobs(address: StoreAddress, pace: Pace) -> Store:
    _check_blobs(address)
    from ckpt_async.stores.blobs.access import BlobsAccess
    from ckpt_async.stores.blobs.store import BlobsStore

    return BlobsStore(address.url, functools.partial(load_access, address.access, BlobsAccess, address.url), pace)


_OPEN: dict[str, Callable[[StoreAddress, Pace], Store]] = {
    "s3": _open_s3,
    "azure": _open_azure,
    "gs": _open_gcs,
    BLOBS: _open_blobs,
}
