"""How the engine reaches Azure Blob and Google Cloud Storage: with the credentials that Metaflow's client providers give out.
Runs in the process that uploads, the task's own or the sidecar.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckpt_async import AzureAccess, GcsAccess

__all__ = ["metaflow_azure_access", "metaflow_gcs_access"]


def metaflow_azure_access() -> AzureAccess:
    """Return the access to the Azure datastore of Metaflow's configuration.

    Raises
    ------
    ckpt_async.UnsupportedStore
        Nothing says where the storage account is.
    """
    from metaflow.metaflow_config import AZURE_STORAGE_BLOB_SERVICE_ENDPOINT
    from metaflow.plugins.azure.azure_credential import create_cacheable_azure_credential

    from ckpt_async import AzureAccess, UnsupportedStore

    if not AZURE_STORAGE_BLOB_SERVICE_ENDPOINT:
        raise UnsupportedStore(
            "reach the Azure datastore",
            cause="METAFLOW_AZURE_STORAGE_BLOB_SERVICE_ENDPOINT is not set",
            hint="Set it to that of the storage account: https://ACCOUNT.blob.core.windows.net.",
        )
    return AzureAccess(endpoint_url=AZURE_STORAGE_BLOB_SERVICE_ENDPOINT, credential=create_cacheable_azure_credential)


def metaflow_gcs_access() -> GcsAccess:
    """Return the access to the Google Cloud datastore of Metaflow's configuration."""
    from metaflow.plugins.gcp.gs_storage_client_factory import get_gs_storage_client

    from ckpt_async import GcsAccess

    # Endpoint and credentials are those of Metaflow's own client, whatever provider makes it.
    client = get_gs_storage_client()
    return GcsAccess(endpoint_url=client._connection.API_BASE_URL, credentials=lambda: client._credentials)
