"""An S3 access that a test hands to other processes: by environment variables.

Its name in a `StoreAddress` is ``ckpt_async.testing.access:from_environment``.
"""

from __future__ import annotations

import os

from ckpt_async.stores.s3_access import S3Access, S3Credentials

__all__ = ["ACCESS_SPEC", "access_variables", "from_environment"]

ACCESS_SPEC = "ckpt_async.testing.access:from_environment"
ENDPOINT = "CKPT_ASYNC_TEST_S3_ENDPOINT"
KEY = "CKPT_ASYNC_TEST_S3_KEY"
SECRET = "CKPT_ASYNC_TEST_S3_SECRET"  # noqa: S105 - the name of a variable
OPTIONS = "CKPT_ASYNC_TEST_S3_OPTIONS"


def access_variables(endpoint_url: str, access_key: str, secret_key: str, options: str = "") -> dict[str, str]:
    """Return the environment variables that `from_environment` reads; `options` as `S3Access.with_options` takes them."""
    return {ENDPOINT: endpoint_url, KEY: access_key, SECRET: secret_key, OPTIONS: options}


def from_environment() -> S3Access:
    """Return the access that the environment variables of `access_variables` describe."""
    return S3Access(
        endpoint_url=os.environ[ENDPOINT],
        region="us-east-1",
        addressing_style="path",
        credentials=lambda: S3Credentials(os.environ[KEY], os.environ[SECRET]),
    ).with_options(os.environ.get(OPTIONS, ""))
