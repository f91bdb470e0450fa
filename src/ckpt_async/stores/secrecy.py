"""Keeping credentials out of texts that others wrote."""

from __future__ import annotations

import re

__all__ = ["clean"]

_USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")
#: What signs a URL: of Azure's shared access signatures, and of signed URLs of Google and AWS.
_SIGNATURE = re.compile(r"(?i)\b(sig|x-goog-signature|x-amz-signature|access_token)=[^&\s'\"<>)]+")
_BEARER = re.compile(r"(?i)\b(bearer|sharedkey) +[^\s'\"<>,]+")


def clean(text: str, secrets: tuple[str, ...] = ()) -> str:
    """Return `text` without secrets, without the user and the password of a URL, and without its signature."""
    for secret in secrets:
        text = text.replace(secret, "***")
    text = _SIGNATURE.sub(r"\1=***", _USER_INFO.sub("***@", text))
    return _BEARER.sub(r"\1 ***", text)
