"""From a store's address to a store."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from ckpt_async.stores.contract import Store
from ckpt_async.words.errors import UnsupportedStore
from ckpt_async.words.settings import StoreAddress

__all__ = ["open_store"]

SUPPORTED = "Supported: s3://bucket/prefix, and folders as a path or as file:///path. gs:// and azure:// are not supported yet."


def open_store(address: StoreAddress) -> Store:
    """Return the bare store of an address: without limits and repetitions, not entered yet. Connects to nothing.

    Raises
    ------
    UnsupportedStore
        No store is known for the URL, or its access function can't be imported or is none for this kind of store.
    """
    url = address.url
    scheme, separator, _ = url.partition("://")
    if not separator:
        return _open_folder(url, url)
    if scheme == "file":
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost"):
            raise UnsupportedStore("open a store", on=url, cause="a file URL names another machine", hint=SUPPORTED)
        return _open_folder(unquote(parts.path), url)
    if scheme == "s3":
        return _open_s3(address)
    raise UnsupportedStore("open a store", on=url, cause=f"there is no store for {scheme}://", hint=SUPPORTED)


def _open_folder(path: str, url: str) -> Store:
    if not path:
        raise UnsupportedStore("open a store", on=repr(url), cause="the address is empty", hint=SUPPORTED)
    from ckpt_async.stores.local import LocalStore

    return LocalStore(path, url)


def _open_s3(address: StoreAddress) -> Store:
    bucket, _, prefix = address.url.removeprefix("s3://").partition("/")
    if not bucket or "?" in address.url or "@" in bucket:
        raise UnsupportedStore("open a store", on=address.url, cause="it names no bucket", hint=SUPPORTED)
    # aiobotocore takes a quarter of a second to import: only those who need S3 pay for it.
    from ckpt_async.stores.s3 import S3Store
    from ckpt_async.stores.s3_access import S3Access, load_access

    return S3Store(bucket, prefix, load_access(address.access) if address.access else S3Access())
