"""Credentials that servers for tests take."""


class AzureForTests:
    name = "azure-for-tests"

    @staticmethod
    def create_cacheable_azure_credential(*args, **kwargs):
        from ckpt_async.testing.azurite import TestToken

        return TestToken()


class GcpForTests:
    name = "gcp-for-tests"

    @staticmethod
    def get_gs_storage_client(*args, **kwargs):
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage

        return storage.Client(project="tests", credentials=AnonymousCredentials())

    @staticmethod
    def get_credentials(scopes, *args, **kwargs):
        from google.auth.credentials import AnonymousCredentials

        return AnonymousCredentials(), "tests"
