"""What an extension of somebody else may register: how clouds are reached, and a datastore of a kind of its own."""

AZURE_CLIENT_PROVIDERS_DESC = [("azure-for-tests", ".providers.AzureForTests")]
GCP_CLIENT_PROVIDERS_DESC = [("gcp-for-tests", ".providers.GcpForTests")]
DATASTORES_DESC = [("shelf", ".shelf_storage.ShelfStorage")]
