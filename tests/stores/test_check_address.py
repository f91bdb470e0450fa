"""What is wrong with an address is said early, and without what it must not show."""

from __future__ import annotations

import pytest

from ckpt_async.stores.opening import check_address, open_store
from ckpt_async.words.errors import UnsupportedStore
from ckpt_async.words.settings import StoreAddress

OF_AZURE = ("azure://KEY:SECRET@container/x", "azure://container/x?sig=SECRETKEY")


@pytest.mark.parametrize("check", [check_address, open_store])
@pytest.mark.parametrize("url", ["gs://", "azure:///x", "ftp://x", "blobs://kind/x", "s3://", "s3:///x", "", "file://host/x"])
def test_an_address_without_a_store_is_refused(check, url: str) -> None:
    with pytest.raises(UnsupportedStore, match="open a store"):
        check(StoreAddress(url))


@pytest.mark.parametrize("check", [check_address, open_store])
@pytest.mark.parametrize("url", ["s3://KEY:SECRET@bucket/x", *OF_AZURE, "gs://KEY:SECRET@bucket/x", "file://KEY:SECRET@host/x"])
def test_credentials_in_an_address_are_refused_and_not_shown(check, url: str) -> None:
    with pytest.raises(UnsupportedStore) as caught:
        check(StoreAddress(url))
    assert "SECRET" not in str(caught.value)
    assert "KEY" not in str(caught.value)
