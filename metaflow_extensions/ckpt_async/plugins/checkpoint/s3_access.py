"""How the engine reaches S3: as Metaflow itself does. Runs in the process that uploads, the task's own or the sidecar.

Whatever provider of AWS clients Metaflow is configured for, it is asked for one of its boto3 clients, and endpoint, region,
credentials and the like are taken from that.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .names import S3_OPTIONS

if TYPE_CHECKING:
    from ckpt_async import S3Access, S3Credentials

__all__ = ["access_through", "metaflow_s3_access"]

#: The hosts that the client libraries find by themselves from the region; any other one was configured.
_AWS_OWN_HOST = re.compile(r"s3[.-]([a-z0-9-]+\.)?amazonaws\.com(\.cn)?")

#: What is decided elsewhere: by the engine (which repeats transient failures itself, without end) or by a field of its own.
_NOT_PASSED_ON = frozenset({"retries", "signature_version", "region_name", "max_pool_connections"})


def metaflow_s3_access() -> S3Access:
    """Return the access to the S3 datastore of Metaflow's configuration.

    Raises
    ------
    metaflow.exception.MetaflowException
        Metaflow can't make a client (no boto3, no answer from the sandbox).
    """
    from metaflow.metaflow_config import DATATOOLS_CLIENT_PARAMS

    return access_through(_new_client, DATATOOLS_CLIENT_PARAMS)


def access_through(new_client: Callable[[], Any], client_params: Mapping[str, Any]) -> S3Access:
    """Return the access that a boto3 client has.

    Parameters
    ----------
    new_client : callable
        Has Metaflow make one.
    client_params : mapping
        What it is made with, as Metaflow's setting ``DATATOOLS_CLIENT_PARAMS`` has it.
    """
    from botocore import UNSIGNED
    from metaflow.metaflow_config import S3_SERVER_SIDE_ENCRYPTION

    from ckpt_async import S3Access

    # Metaflow turns the dict under "config" into an object while it makes a client: read it before that.
    options = _options_of(client_params.get("config"))
    client = new_client()
    config = client.meta.config
    endpoint = client.meta.endpoint_url
    configured = "endpoint_url" in client_params
    if not configured and _AWS_OWN_HOST.fullmatch(urlsplit(endpoint).hostname or ""):
        endpoint = None
    region = client.meta.region_name
    return S3Access(
        endpoint_url=endpoint,
        region=None if region == "aws-global" else region,
        verify=_verify_of(client, client_params),
        addressing_style=(config.s3 or {}).get("addressing_style") or "auto",
        server_side_encryption=S3_SERVER_SIDE_ENCRYPTION or None,
        anonymous=config.signature_version is UNSIGNED,
        credentials=_CredentialsOfClient(client, new_client),
        client_params={name: value for name, value in options.items() if name not in _NOT_PASSED_ON},
    ).with_options(os.environ.get(S3_OPTIONS, ""))


class _CredentialsOfClient:
    """Gives the credentials as they are at each call: keys that rotate are followed.

    Credentials that renew themselves are asked again; for all others, which may be a copy of what was valid once, Metaflow is asked
    for a new client.
    """

    def __init__(self, client: Any, new_client: Callable[[], Any]) -> None:
        self._client: Any = client
        self._new_client = new_client

    def forget(self) -> None:
        """Have Metaflow make a new client, with other credentials."""
        self._client = None

    def __call__(self) -> S3Credentials | None:
        from ckpt_async import S3Credentials

        if self._client is None:
            self._client = self._new_client()
        credentials = self._client._request_signer._credentials
        if credentials is None:
            self._client = None
            return None
        frozen = credentials.get_frozen_credentials()
        expiry = getattr(credentials, "_expiry_time", None)
        if not hasattr(credentials, "refresh_needed"):
            self._client = None
        return S3Credentials(frozen.access_key, frozen.secret_key, frozen.token, None if expiry is None else expiry.timestamp())


def _new_client() -> Any:
    from metaflow.plugins.datatools.s3.s3util import get_s3_client

    client, _ = get_s3_client()
    return client


def _options_of(config: Any) -> Mapping[str, Any]:
    """Return the values that a user gave for the client's configuration: a dict of Metaflow's settings, or botocore's object."""
    if config is None:
        return {}
    if isinstance(config, Mapping):
        return dict(config)
    return dict(config._user_provided_options)


def _verify_of(client: Any, client_params: Mapping[str, Any]) -> bool | str:
    """Return what the client trusts: a bundle from Metaflow's settings, from the environment or from a profile, else True."""
    session = getattr(getattr(client, "_endpoint", None), "http_session", None)
    verify = getattr(session, "_verify", client_params.get("verify"))
    return verify if isinstance(verify, (bool, str)) else True
