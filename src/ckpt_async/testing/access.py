"""Accesses that a test hands to other processes: by environment variables.

Their names in a `StoreAddress` are ``ckpt_async.testing.access:from_environment`` (S3), ``…:azure_from_environment`` and
``…:gcs_from_environment``.
"""

from __future__ import annotations

import os

from ckpt_async.stores.azure.access import AzureAccess
from ckpt_async.stores.gcs.access import GcsAccess
from ckpt_async.stores.s3.access import S3Access, S3Credentials

__all__ = [
    "ACCESS_SPEC",
    "AZURE_ACCESS_SPEC",
    "GCS_ACCESS_SPEC",
    "access_variables",
    "azure_access_variables",
    "azure_from_environment",
    "from_environment",
    "gcs_access_variables",
    "gcs_from_environment",
]

ACCESS_SPEC = "ckpt_async.testing.access:from_environment"
AZURE_ACCESS_SPEC = "ckpt_async.testing.access:azure_from_environment"
GCS_ACCESS_SPEC = "ckpt_async.testing.access:gcs_from_environment"
ENDPOINT = "CKPT_ASYNC_TEST_S3_ENDPOINT"
KEY = "CKPT_ASYNC_TEST_S3_KEY"
SECRET = "CKPT_ASYNC_TEST_S3_SECRET"  # noqa: S105 - the name of a variable
AZURE_ENDPOINT = "CKPT_ASYNC_TEST_AZURE_ENDPOINT"
AZURE_AUTHORITY = "CKPT_ASYNC_TEST_AZURE_AUTHORITY"
GCS_ENDPOINT = "CKPT_ASYNC_TEST_GCS_ENDPOINT"
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


def azure_access_variables(endpoint_url: str, authority: str) -> dict[str, str]:
    """Return the environment variables that `azure_from_environment` reads."""
    return {AZURE_ENDPOINT: endpoint_url, AZURE_AUTHORITY: authority}


def azure_from_environment() -> AzureAccess:
    """Return the access to an Azurite that the environment variables of `azure_access_variables` describe."""
    from ckpt_async.testing.azurite import TestToken

    return AzureAccess(endpoint_url=os.environ[AZURE_ENDPOINT], credential=TestToken, verify=os.environ[AZURE_AUTHORITY])


def gcs_access_variables(endpoint_url: str) -> dict[str, str]:
    """Return the environment variables that `gcs_from_environment` reads."""
    return {GCS_ENDPOINT: endpoint_url}


def gcs_from_environment() -> GcsAccess:
    """Return the access to a fake-gcs-server that the environment variables of `gcs_access_variables` describe."""
    from google.auth.credentials import AnonymousCredentials

    return GcsAccess(endpoint_url=os.environ[GCS_ENDPOINT], credentials=AnonymousCredentials)
