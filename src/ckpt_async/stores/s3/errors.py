"""What a failure of botocore, of its lines or of the network means: the one place where S3's errors are read."""

from __future__ import annotations

import asyncio
import ssl

import urllib3.exceptions
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

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

try:
    import aiohttp
except ImportError:
    # It comes with aiobotocore. Where that is not installed, none of its errors can occur.
    aiohttp = None  # type: ignore[assignment]

__all__ = [
    "FOREIGN",
    "NO_CREDENTIALS",
    "code_of",
    "credentials_refused",
    "message_of",
    "sent_elsewhere",
    "translate",
    "translate_code",
]

#: What the lines of the client libraries raise; below OSError are the errors of sockets.
_LINE: tuple[type[Exception], ...] = (
    OSError, asyncio.TimeoutError, urllib3.exceptions.HTTPError, *(() if aiohttp is None else (aiohttp.ClientError,)),
)  # fmt: skip
#: What a request may raise. ValueError is what a URL that is none gives.
FOREIGN: tuple[type[Exception], ...] = (boto.BotoCoreError, boto.ClientError, ResponseParserError, ValueError, *_LINE)

# Newer credentials may be there already.
_RENEWABLE = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "InvalidAccessKeyId"}
_DENIED = _RENEWABLE | {
    "401", "403", "AccessDenied", "AccessDeniedException", "AllAccessDisabled", "AccountProblem", "AuthFailure",
    "AuthorizationHeaderMalformed", "Forbidden", "InvalidClientTokenId", "InvalidSecurity", "MissingAuthenticationToken",
    "MissingSecurityHeader", "NotSignedUp", "RequestExpired",
    "RequestTimeTooSkewed", "SignatureDoesNotMatch", "Unauthorized", "UnauthorizedAccess", "UnrecognizedClientException",
}  # fmt: skip
_BUSY = {
    "429", "503", "BandwidthLimitExceeded", "RequestLimitExceeded", "RequestThrottled", "ServiceUnavailable", "SlowDown",
    "Throttling", "ThrottlingException", "TooManyRequests", "TooManyRequestsException",
}  # fmt: skip
_PASSING = {
    "IncompleteBody", "InternalError", "InternalFailure", "OperationAborted", "RequestTimeout", "RequestTimeoutException",
}  # fmt: skip
_NO_OBJECT = {"404", "NoSuchKey", "NoSuchUpload", "NoSuchVersion", "NotFound"}
_ELSEWHERE = {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect", "TemporaryRedirect"}
_CONDITION = {"409", "412", "ConditionalRequestConflict", "PreconditionFailed"}
#: There are none, or they are wrong: somebody must do something.
NO_CREDENTIALS = (
    boto.NoCredentialsError, boto.PartialCredentialsError, boto.ProfileNotFound, boto.TokenRetrievalError, boto.NoAuthTokenError,
    boto.SSOError, boto.UnknownCredentialError,
)  # fmt: skip
_TRANSPORT = (
    boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError, ResponseParserError, *_LINE,
    # The service that gives them out did not answer, or not as it should: that passes.
    boto.CredentialRetrievalError,
)  # fmt: skip
_CERTIFICATE: tuple[type[Exception], ...] = (
    ssl.SSLCertVerificationError, *(() if aiohttp is None else (aiohttp.ClientConnectorCertificateError,)),
)  # fmt: skip
_NO_URL: tuple[type[Exception], ...] = (
    urllib3.exceptions.LocationValueError, *(() if aiohttp is None else (aiohttp.InvalidURL,)),
)  # fmt: skip
_HINT_DENIED = "Check the credentials, their expiry and their permissions for this bucket."
_HINT_CLOCK = "Set the clock of this machine: signatures hold for 15 minutes."
_HINT_BUCKET = "Make the bucket, or correct its name, the region or the endpoint."


def code_of(error: BaseException | None) -> str:
    """Return the code of an error answer, such as ``"NoSuchKey"``; empty where it is none."""
    if not isinstance(error, boto.ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Code", ""))


def message_of(error: BaseException | None) -> str:
    """Return the message of an error answer; empty where it is none."""
    if not isinstance(error, boto.ClientError):
        return ""
    return str(error.response.get("Error", {}).get("Message", ""))


def credentials_refused(error: BaseException) -> bool:
    """Whether fresh credentials may help."""
    return code_of(error) in _RENEWABLE


def sent_elsewhere(error: BaseException) -> bool:
    """Whether the bucket is at another place, or is signed for in another region, which botocore can find out."""
    if isinstance(error, boto.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status in (301, 302, 307, 308) or code_of(error) in _ELSEWHERE
    # aiohttp was to send a body once more, and can't; botocore, who can, never hears of it.
    inner = error.kwargs.get("error") if isinstance(error, boto.HTTPClientError) else None
    return aiohttp is not None and isinstance(inner, aiohttp.ClientPayloadError) and "redirect" in str(inner)


def translate(error: BaseException, attempted: str, on: str, secrets: tuple[str, ...] = ()) -> StoreError:
    """Return the store's error for a failure.

    Parameters
    ----------
    error : BaseException
        One of `FOREIGN`.
    attempted, on : str
        For the text.
    secrets : tuple of str
        What must not be in the text.
    """
    if isinstance(error, boto.ClientError):
        answer = error.response.get("Error", {})
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        message = clean(str(answer.get("Message", "")), secrets)
        return translate_code(code_of(error), status, message, attempted, on)
    cause = clean(f"{type(error).__name__}: {error}", secrets)
    if isinstance(error, NO_CREDENTIALS):
        return StoreAccessDenied(attempted, on=on, cause=cause, hint=_HINT_DENIED)
    if _certificate_refused(error):
        return StoreRejected(attempted, on=on, cause=cause, hint="Name the server's authority in the setting for certificates.")
    if isinstance(error, _TRANSPORT) and not _misused(error):
        return StoreUnavailable(attempted, on=on, cause=cause)
    return StoreRejected(attempted, on=on, cause=cause)


def translate_code(code: str, status: int, message: str, attempted: str, on: str) -> StoreError:
    """Return the store's error for an answer of the server: its code, its HTTP status (0: not known) and its message."""
    cause = f"{code}: {message}" if message else code or f"HTTP status {status}"
    if code == "NoSuchBucket":
        return StoreMissing(attempted, on=on, cause=cause, hint=_HINT_BUCKET)
    if code in _BUSY or status in (429, 503):
        return StoreBusy(attempted, on=on, cause=cause)
    if code in _PASSING or (status >= 500 and code not in ("NotImplemented", "501")):
        return StoreUnavailable(attempted, on=on, cause=cause)
    if code in _DENIED or status in (401, 403):
        skewed = code in ("RequestTimeTooSkewed", "RequestExpired")
        return StoreAccessDenied(attempted, on=on, cause=cause, hint=_HINT_CLOCK if skewed else _HINT_DENIED)
    if code in _CONDITION or status == 412:
        return StorePreconditionFailed(attempted, on=on, cause=cause)
    if code in _NO_OBJECT or status == 404:
        return StoreObjectMissing(attempted, on=on, cause=cause)
    return StoreRejected(attempted, on=on, cause=cause)


def _misused(error: BaseException) -> bool:
    """Whether it is no failure of the line, but one of the request or of the client: it would fail again."""
    if isinstance(error, boto.HTTPClientError) and type(error) is boto.HTTPClientError:
        # The client's name for whatever it does not know.
        inner = error.kwargs.get("error")
        if not isinstance(inner, _LINE):
            return True
        error = inner
    return isinstance(error, _NO_URL)


def _certificate_refused(error: BaseException | None) -> bool:
    seen = 0
    while error is not None and seen < 10:
        if isinstance(error, _CERTIFICATE):
            return True
        inner = getattr(error, "kwargs", None)
        nested = inner.get("error") if isinstance(inner, dict) else None
        error = nested if isinstance(nested, BaseException) else error.__cause__ or error.__context__
        seen += 1
    return False
