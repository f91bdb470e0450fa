"""Credentials that servers for tests take. It travels to remote tasks: so it imports nothing of the tests."""

import base64
import json
import time

TENANT = "ab1f708d-50f6-404c-a006-d71b2ac7a606"


class Token:
    """What ``ckpt_async.testing.azurite.TestToken`` is."""

    def get_token(self, *scopes, **more):
        from azure.core.credentials import AccessToken

        now = int(time.time())
        issuer = f"https://sts.windows.net/{TENANT}/"
        claims = {"aud": "https://storage.azure.com", "iss": issuer, "tid": TENANT}
        claims |= {"iat": now - 60, "nbf": now - 60, "exp": now + 3600}
        parts = ({"alg": "RS256", "typ": "JWT"}, claims)
        text = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
        return AccessToken(f"{text}.c2lnbmF0dXJl", now + 3600)


class AzureForTests:
    name = "azure-for-tests"

    @staticmethod
    def create_cacheable_azure_credential(*args, **kwargs):
        return Token()


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
