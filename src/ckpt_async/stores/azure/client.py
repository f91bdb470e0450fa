"""A container of Azure Blob Storage, reached through azure-storage-blob. Blocks, so it runs in threads."""

from __future__ import annotations

import base64
import hashlib
import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from azure.core import MatchConditions
from azure.core.exceptions import AzureError, HttpResponseError
from azure.storage.blob import BlobBlock, BlobServiceClient, ContainerClient

from ckpt_async.stores.access import ask_for_credentials
from ckpt_async.stores.azure.access import ACCOUNT, CONNECTION_STRING, AzureAccess
from ckpt_async.stores.azure.errors import translate_azure
from ckpt_async.stores.contract import Body, Chunk
from ckpt_async.stores.in_threads import Call, Patience
from ckpt_async.words.errors import StoreError, UnsupportedStore

__all__ = ["AzureClient", "NoRanges", "md5_of"]

SCOPE = "https://storage.azure.com/.default"
#: What is asked for at once comes in one answer, and what is sent goes in one request.
IN_ONE_BYTES = 5 << 30
PIECE_BYTES = 4 << 20
PAGE_KEYS = 5000
BLOCK_BYTES = 256 * 1024
RENEW_BEFORE_S = 300.0


class NoRanges(AzureError):  # type: ignore[misc]
    """Ranges of a blob can't be copied with this kind of credential."""


def md5_of(chunks: Sequence[Chunk]) -> bytes:
    """Return the MD5 of some bytes: what the server compares with those that it has got."""
    md5 = hashlib.md5(usedforsecurity=False)
    for chunk in chunks:
        md5.update(chunk)
    return md5.digest()


class AzureClient:
    """A container.

    Parameters
    ----------
    container : str
        Its name.
    access : AzureAccess
        How it is reached.
    """

    def __init__(self, container: str, access: AzureAccess) -> None:
        settings: dict[str, Any] = {
            # Repeating is left to `Retrying`.
            "retry_total": 0,
            "retry_to_secondary": False,
            "connection_timeout": access.connect_timeout_s,
            "read_timeout": access.read_timeout_s,
            "max_single_get_size": IN_ONE_BYTES,
            "max_single_put_size": IN_ONE_BYTES,
            "connection_data_block_size": BLOCK_BYTES,
            "connection_verify": access.verify,
        }
        self._credential: Any = None
        if access.connection_string is not None:
            service = BlobServiceClient.from_connection_string(access.connection_string, **settings)
        else:
            if access.account_url is None:
                raise UnsupportedStore(
                    "open a store",
                    on=f"azure://{container}",
                    cause="nothing says which storage account it is in",
                    hint=f"Set {ACCOUNT} or {CONNECTION_STRING}.",
                )
            self._credential = ask_for_credentials(access.credential or _default_credential, (AzureError,))
            service = BlobServiceClient(access.account_url, credential=self._credential, **settings)
        self._service = service
        self._container: ContainerClient = service.get_container_client(container)
        self._token: Any = None
        self._token_lock = threading.Lock()
        self._answered = False
        self.patience = Patience(access.max_connections, access.connect_timeout_s + access.read_timeout_s)

    def close(self) -> None:
        """Close the connections."""
        self._service.close()

    def refused(self, error: Exception) -> bool:
        """Whether the token was refused: the library has dropped it, and asks for another one."""
        return isinstance(error, HttpResponseError) and error.status_code == 401 and hasattr(self._credential, "get_token")

    def translate(self, error: Exception, attempted: str, on: str) -> StoreError | None:
        """As `translate_azure`."""
        return translate_azure(error, attempted, on, self._answered)

    def put(self, name: str, content: bytes, condition: Mapping[str, Any]) -> str:
        """Store a small blob by one request; return its etag."""
        headers = {"Content-MD5": base64.b64encode(md5_of([content])).decode()}
        overwrite = condition.get("match_condition") is not MatchConditions.IfMissing
        found = self._blob(name).upload_blob(content, length=len(content), overwrite=overwrite, headers=headers, **condition)
        return self._etag(found)

    def stage(self, call: Call, name: str, block_id: str, body: Body, md5: bytes) -> None:
        """Store a block, which is not seen until it is committed."""
        headers = {"Content-MD5": base64.b64encode(md5).decode()}
        self._blob(name).stage_block(block_id, call.stream(body), length=body.size_bytes, headers=headers)
        self._answered = True

    def stage_copy(self, name: str, block_id: str, source: str, etag: str, offset: int, size_bytes: int) -> None:
        """Store a block with bytes of another blob of this account."""
        more: dict[str, Any] = {}
        url = self._blob(source).url
        if (token := self._bearer()) is not None:
            more["source_authorization"] = f"Bearer {token}"
        elif "sig=" not in url:
            # A source takes a token, or a signature in its URL: not the key of the account, which signs requests.
            raise NoRanges("with the key of the account, ranges can't be copied")
        self._blob(name).stage_block_from_url(block_id, url, offset, size_bytes, headers={"x-ms-source-if-match": etag}, **more)
        self._answered = True

    def commit(self, name: str, block_ids: Sequence[str], condition: Mapping[str, Any]) -> str:
        """Make blocks a blob; return its etag."""
        return self._etag(self._blob(name).commit_block_list([BlobBlock(block_id) for block_id in block_ids], **condition))

    def look(self, name: str) -> Any:
        """Return a blob's properties."""
        found = self._blob(name).get_blob_properties()
        self._answered = True
        return found

    def read(
        self, call: Call, name: str, offset: int, size_bytes: int | None, condition: Mapping[str, Any], into: memoryview | None
    ) -> bytes | int:
        """Return a range of a blob, or put it into memory of the caller's and return its length; nothing behind the blob's end.

        In pieces, all of one state of the blob: the library holds each of them twice.
        """
        pieces: list[bytes] = []
        done = 0
        while size_bytes is None or done < size_bytes:
            length = PIECE_BYTES if size_bytes is None else min(PIECE_BYTES, size_bytes - done)
            try:
                found = self._blob(name).download_blob(offset=offset + done, length=length, max_concurrency=1, **condition)
                content: bytes = found.readall()
            except HttpResponseError as error:
                if error.status_code == 416:
                    break
                if error.status_code == 412 and done:
                    raise ConnectionError("the object was replaced while it was read") from error
                raise
            except ValueError as error:
                # The library misses what every answer of the store has. Its frames hold on to a connection that nobody has read to
                # its end.
                raise ConnectionError(f"that is no answer of the store: {error}") from error.with_traceback(None)
            call.moved()
            if into is None:
                pieces.append(content)
            else:
                call.fill(into[done:], content)
            done += len(content)
            condition = {"etag": found.properties.etag, "match_condition": MatchConditions.IfNotModified}
            if len(content) < length:
                break
        self._answered = True
        if into is not None:
            return done
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def below(self, prefix: str, token: str) -> tuple[Sequence[Any], str]:
        """Return the properties of some blobs below a prefix, and the token of the next ones."""
        blobs = self._container.list_blobs(name_starts_with=prefix, include=["metadata"], results_per_page=PAGE_KEYS)
        pages: Any = blobs.by_page(token or None)
        # The metadata tell folders, which are blobs where the account has a hierarchical namespace.
        found = [blob for blob in next(pages) if (blob.metadata or {}).get("hdi_isfolder") != "true"]
        self._answered = True
        return found, pages.continuation_token or ""

    def delete(self, name: str) -> None:
        """Delete a blob, with its snapshots."""
        self._blob(name).delete_blob(delete_snapshots="include")
        self._answered = True

    def delete_batch(self, names: Sequence[str]) -> list[tuple[str, int]]:
        """Delete up to 256 blobs by one request; return code and status of each."""
        answers = list(self._container.delete_blobs(*names, delete_snapshots="include", raise_on_any_failure=False))
        self._answered = True
        if len(answers) != len(names):
            raise ConnectionError(f"{len(answers)} answers to a batch of {len(names)}")
        return [(str(answer.headers.get("x-ms-error-code") or ""), int(answer.status_code)) for answer in answers]

    def begin_copy(self, name: str, source: str, etag: str) -> str:
        """Have a blob copied; return the copy's id."""
        found = self._blob(name).start_copy_from_url(
            self._blob(source).url, source_etag=etag, source_match_condition=MatchConditions.IfNotModified
        )
        self._answered = True
        return str(found["copy_id"])

    def abort_copy(self, name: str, copy_id: str) -> None:
        """Give up a copy that goes on."""
        self._blob(name).abort_copy(copy_id)

    def _blob(self, name: str) -> Any:
        return self._container.get_blob_client(name)

    def _etag(self, found: Mapping[str, Any]) -> str:
        self._answered = True
        etag = found.get("etag")
        if not etag:
            raise ConnectionError("the answer names no ETag: something else than the store has given it")
        return str(etag)

    def _bearer(self) -> str | None:
        """Return the token that a request may show for its source; None where the credential is none that has tokens."""
        if not hasattr(self._credential, "get_token"):
            return None
        with self._token_lock:
            if self._token is None or self._token.expires_on - time.time() < RENEW_BEFORE_S:
                self._token = self._credential.get_token(SCOPE)
            return str(self._token.token)


def _default_credential() -> Any:
    key = os.environ.get("AZURE_STORAGE_KEY") or os.environ.get("AZURE_STORAGE_SAS_TOKEN")
    if key:
        return key
    from azure.identity import DefaultAzureCredential  # slow to import: only where nothing else is told

    return DefaultAzureCredential()
