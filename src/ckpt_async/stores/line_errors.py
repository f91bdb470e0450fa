"""What failures of `requests` mean, which the official clients of Azure and Google send with."""

from __future__ import annotations

import ssl

import requests.exceptions
import urllib3.exceptions

from ckpt_async.stores.secrecy import clean
from ckpt_async.words.errors import StoreError, StoreRejected, StoreUnavailable

__all__ = ["LINE_ERRORS", "certificate_refused", "translate_line"]

#: `requests` raises the first, reading a stream the second; OSError is what sockets raise.
LINE_ERRORS: tuple[type[Exception], ...] = (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError)

_NO_URL: tuple[type[Exception], ...] = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    urllib3.exceptions.LocationValueError,
)


def translate_line(error: Exception, attempted: str, on: str) -> StoreError:
    """Return the store's error for one of `LINE_ERRORS`, or for what has one as its cause."""
    cause = clean(f"{type(error).__name__}: {error}")
    if certificate_refused(error):
        hint = "Name the server's authority in the variable REQUESTS_CA_BUNDLE."
        return StoreRejected(attempted, on=on, cause=cause, hint=hint)
    if isinstance(error, _NO_URL):
        return StoreRejected(attempted, on=on, cause=cause, hint="Correct the endpoint.")
    return StoreUnavailable(attempted, on=on, cause=cause)


def certificate_refused(error: BaseException) -> bool:
    """Whether a certificate was refused somewhere below this error."""
    todo: list[BaseException] = [error]
    seen: set[int] = set()
    while todo:
        inner = todo.pop()
        if isinstance(inner, ssl.SSLCertVerificationError):
            return True
        if id(inner) in seen:
            continue
        seen.add(id(inner))
        # They hold what they wrap in their arguments, or under names of their own.
        held = (
            *inner.args,
            inner.__cause__,
            inner.__context__,
            getattr(inner, "reason", None),
            getattr(inner, "inner_exception", None),
        )
        todo += [one for one in held if isinstance(one, BaseException)]
    return False
