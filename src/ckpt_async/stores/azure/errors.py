"""What a failure of Azure's libraries means: the one place where they are read."""

from __future__ import annotations

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    IncompleteReadError,
    ServiceRequestError,
    ServiceResponseError,
)

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

__all__ = ["code_of", "translate_azure", "translate_code"]

_HINT_DENIED = "Check the credential, its expiry and its role for this container (Storage Blob Data Contributor)."
_HINT_CONTAINER = "Make the container, or correct its name, the account or the endpoint."
_NO_CONTAINER = {"ContainerNotFound", "ContainerBeingDeleted", "ContainerDisabled", "ResourceTypeMismatch"}
_BUSY = {"ServerBusy", "TooManyRequests"}
_PASSING = {"InternalError", "OperationTimedOut", "PendingCopyOperation", "ContainerBeingCreated", "IncompleteBody"}
_CONDITION = {
    "BlobAlreadyExists", "ConditionNotMet", "SourceConditionNotMet", "TargetConditionNotMet", "UnsatisfiableCondition",
}  # fmt: skip
_NO_OBJECT = {"BlobNotFound", "ResourceNotFound", "CannotVerifyCopySource", "NoPendingCopyOperation"}
_DENIED = {
    "AuthenticationFailed", "AuthorizationFailure", "AuthorizationPermissionMismatch", "AuthorizationProtocolMismatch",
    "AuthorizationResourceTypeMismatch", "AuthorizationServiceMismatch", "AuthorizationSourceIPMismatch",
    "InsufficientAccountPermissions", "InvalidAuthenticationInfo", "NoAuthenticationInformation", "PublicAccessNotPermitted",
    "AccountIsDisabled",
}  # fmt: skip


def code_of(error: BaseException | None) -> str:
    """Return Azure's code of an error answer, such as ``"BlobNotFound"``; empty where it has none."""
    code = getattr(error, "error_code", None)
    return str(getattr(code, "value", code) or "")


def translate_azure(error: Exception, attempted: str, on: str, answered: bool = False) -> StoreError | None:
    """Return the store's error for what a request has raised; None for what no request raises.

    Parameters
    ----------
    answered : bool
        Whether a request was answered before: then there are credentials, and where they come from is away for a moment.
    """
    status = error.status_code if isinstance(error, HttpResponseError) else None
    if isinstance(error, (IncompleteReadError, ServiceRequestError, ServiceResponseError)):
        return translate_line(error, attempted, on)
    if isinstance(error, HttpResponseError) and status is not None and not 200 <= status < 300:
        message = (error.message or "").partition("\n")[0]
        return translate_code(code_of(error), status, message, attempted, on)
    cause = clean(f"{type(error).__name__}: {error}".partition("\n")[0])
    if isinstance(error, ClientAuthenticationError):
        # No answer of the store: azure-identity could not get a token.
        if answered:
            return StoreUnavailable(attempted, on=on, cause=cause)
        return StoreAccessDenied(attempted, on=on, cause=cause, hint=_HINT_DENIED)
    if isinstance(error, HttpResponseError):
        # An answer that broke off, or was none of the store's.
        return StoreUnavailable(attempted, on=on, cause=cause)
    if isinstance(error, LINE_ERRORS):
        return translate_line(error, attempted, on)
    if isinstance(error, (AzureError, ValueError)):
        return StoreRejected(attempted, on=on, cause=cause)
    return None


def translate_code(code: str, status: int, message: str, attempted: str, on: str) -> StoreError:
    """Return the store's error for an answer: Azure's code (empty: none), its HTTP status and its message."""
    cause = clean(f"{code}: {message}" if code and message else code or message or f"HTTP status {status}")
    if code in _NO_CONTAINER:
        return StoreMissing(attempted, on=on, cause=cause, hint=_HINT_CONTAINER)
    if code in _BUSY or status in (429, 503):
        return StoreBusy(attempted, on=on, cause=cause)
    if code in _PASSING or status == 408 or (status >= 500 and status != 501):
        return StoreUnavailable(attempted, on=on, cause=cause)
    if code in _DENIED or (status in (401, 403) and code not in _NO_OBJECT):
        return StoreAccessDenied(attempted, on=on, cause=cause, hint=_HINT_DENIED)
    # A lease or a policy that forbids a change is answered with the same statuses.
    if code in _CONDITION or (status in (304, 412) and not code.startswith("Lease")):
        return StorePreconditionFailed(attempted, on=on, cause=cause)
    if code in _NO_OBJECT or status == 404:
        return StoreObjectMissing(attempted, on=on, cause=cause)
    return StoreRejected(attempted, on=on, cause=cause)
