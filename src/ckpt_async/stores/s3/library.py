"""Which client library of S3 is taken."""

from __future__ import annotations

import functools

from ckpt_async.stores.s3.client import ClientLibrary

__all__ = ["find_library"]


@functools.cache
def find_library() -> ClientLibrary:
    """Return aiobotocore where it can be imported, else botocore in threads, which says why.

    An aiobotocore that was made for another botocore than the one beside it, as after an update of boto3 alone, can't be imported.
    """
    try:
        from ckpt_async.stores.s3.aio import AIOBOTOCORE
    except (ImportError, AttributeError) as error:
        from ckpt_async.stores.s3.threads import threads_library

        return threads_library(f"aiobotocore can't be imported ({error}).")
    return AIOBOTOCORE
