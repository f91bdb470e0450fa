"""What a failure of Google Cloud Storage, of its credentials or of the line to it means: the one place where they are read."""

from __future__ import annotations

import json
from typing import Any

import google.auth.exceptions

from ckpt_async.stores.line_errors import LINE_ERRORS, translate_line
from ckpt_async.stores.secrecy import clean
from ckpt_async.words.errors import (
    StoreAccessDenied,
    StoreBusy,
    StoreError,
    StoreMissing,
    StoreObjectMissing,
    StorePreconditionFailed,
    StoreRejected,
    StoreUnavailable,
)

__all__ = ["GcsRefusal", "translate_gcs", "translate_status"]

_HINT_DENIED = "Check the credentials and their permissions for this bucket (storage.objects.create, get, list and delete)."
HINT_BUCKET = "Make the bucket, or correct its name."
_TOO_FAST = {"rateLimitExceeded", "userRateLimitExceeded", "quotaExceeded"}


class GcsRefusal(Exception):
    """An answer that is no success.

    Attributes
    ----------
    status : int
        Of HTTP.
    reason : str
        Google's word for it, such as ``"rateLimitExceeded"``; empty where there is none.
    message : str
        For people.
    """

    def __init__(self, status: int, content: bytes) -> None:
        self.status = status
        self.reason, self.message = _said(content)
        super().__init__(f"{self.reason or status}: {self.message}")


def _said(content: bytes) -> tuple[str, str]:
    """Return reason and message of an answer: JSON as a rule, sometimes plain text, from a proxy anything."""
    try:
        error: Any = json.loads(content)["error"]
        first = (error.get("errors") or [{}])[0]
        return str(first.get("reason", "")), str(error.get("message", ""))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return "", content[:200].decode(errors="replace").strip()


def translate_gcs(error: Exception, attempted: str, on: str) -> StoreError | None:
    """Return the store's error for what a request has raised; None for what no request raises."""
    if isinstance(error, GcsRefusal):
        return translate_status(error.status, error.reason, error.message, attempted, on)
    if isinstance(error, google.auth.exceptions.GoogleAuthError):
        cause = clean(f"{type(error).__name__}: {error}")
        # The service that gives out tokens did not answer, or says itself that this passes.
        if isinstance(error, google.auth.exceptions.TransportError) or error.retryable:
            return StoreUnavailable(attempted, on=on, cause=cause)
        return StoreAccessDenied(attempted, on=on, cause=cause, hint=_HINT_DENIED)
    if isinstance(error, LINE_ERRORS):
        return translate_line(error, attempted, on)
    return None


def translate_status(status: int, reason: str, message: str, attempted: str, on: str) -> StoreError:
    """Return the store's error for an answer: its HTTP status, Google's reason and its message."""
    cause = clean(f"{reason or f'HTTP status {status}'}: {message}" if message else reason or f"HTTP status {status}")
    if status in (429, 503) or (status == 403 and reason in _TOO_FAST):
        return StoreBusy(attempted, on=on, cause=cause)
    if status == 408 or (status >= 500 and status != 501):
        return StoreUnavailable(attempted, on=on, cause=cause)
    if status in (401, 403):
        return StoreAccessDenied(attempted, on=on, cause=cause, hint=_HINT_DENIED)
    if status == 412:
        return StorePreconditionFailed(attempted, on=on, cause=cause)
    if status == 404:
        if "bucket does not exist" in message:
            return StoreMissing(attempted, on=on, cause=cause, hint=HINT_BUCKET)
        return StoreObjectMissing(attempted, on=on, cause=cause)
    return StoreRejected(attempted, on=on, cause=cause)
