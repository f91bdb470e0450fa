"""From a store's address to a store."""

from __future__ import annotations

import functools
import importlib.util
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ckpt_async.words.errors import UnsupportedStore
from ckpt_async.words.settings import StoreAddress

if TYPE_CHECKING:
    from ckpt_async.stores.contract import Store
    from ckpt_async.stores.pacing import Pace

__all__ = ["check_address", "local_folder", "open_store"]

SUPPORTED = "Supported: s3://bucket/prefix, and folders as a path or as file:///path. gs:// and azure:// are not supported yet."


def check_address(address: StoreAddress) -> None:
    """Say early what is wrong with an address, without importing what its store needs: in the task that would take its time.

    Raises
    ------
    UnsupportedStore
        No store is known for the URL, or a package that it needs is not installed.
    """
    scheme, separator, _ = address.url.partition("://")
    if separator and scheme == "s3":
        _bucket_and_prefix(address.url)
        if importlib.util.find_spec("botocore") is None:
            cause = "neither aiobotocore nor boto3 is installed"
            raise UnsupportedStore("open a store", on=address.url, cause=cause, hint="Install one of them.")
    else:
        _folder_of(address.url)


def local_folder(address: StoreAddress) -> str | None:
    """Return the folder that a store is; None where it is none of this machine. Raises UnsupportedStore, as `check_address`."""
    return None if address.url.startswith("s3://") else _folder_of(address.url)


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
    if address.url.startswith("s3://"):
        return _open_s3(address, pace)
    folder = _folder_of(address.url)
    from ckpt_async.stores.local import LocalStore

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


def _bucket_and_prefix(url: str) -> tuple[str, str]:
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    if "@" in bucket:
        raise UnsupportedStore(
            "open a store", on=_shown(url), cause="an address holds no credentials", hint="Put them where boto3 or Metaflow looks."
        )
    if not bucket or "?" in url:
        raise UnsupportedStore("open a store", on=url, cause="it names no bucket", hint=SUPPORTED)
    return bucket, prefix


def _shown(url: str) -> str:
    """Return a URL without what stands before an ``@``: it may be a password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://...@{rest.rpartition('@')[2]}" if "@" in rest else url


def _open_s3(address: StoreAddress, pace: Pace) -> Store:
    bucket, prefix = _bucket_and_prefix(address.url)
    # aiobotocore takes a quarter of a second to import: only those who need S3 pay for it.
    from ckpt_async.stores.s3 import S3Store
    from ckpt_async.stores.s3_access import S3Access, load_access

    # Called with the first request: in a thread, for it may import much, and repeated like a request where it fails.
    access = functools.partial(load_access, address.access) if address.access else S3Access()
    return S3Store(bucket, prefix, access, pace)
