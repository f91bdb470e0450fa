"""Access functions: how a process that holds no credentials in its files finds the way to a store."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TypeVar

from ckpt_async.words.errors import CheckpointError, StoreUnavailable, UnsupportedStore

__all__ = ["ask_for_credentials", "load_access"]

T = TypeVar("T")


def load_access(spec: str, kind: type[T], *arguments: str) -> T:
    """Import ``"module:function"`` and call the function for the access.

    Parameters
    ----------
    spec : str
        Of a `StoreAddress`.
    kind : type
        What it must return: `S3Access`, `AzureAccess` and so on.
    arguments : str
        For the function.

    Raises
    ------
    UnsupportedStore
        It can't be imported, or it returns something else.
    StoreUnavailable
        The function raised: it may have asked a service that is away for a moment.
    """
    module_name, _, function_name = spec.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except Exception as error:
        # A module may raise anything while it is imported.
        raise UnsupportedStore(
            "find a store's access",
            on=spec,
            cause=str(error) if isinstance(error, (ImportError, AttributeError, ValueError)) else type(error).__name__,
            hint="It is written 'module:function', a function.",
        ) from error
    try:
        access = function(*arguments)
    except CheckpointError:
        raise
    except Exception as error:
        # Whatever a configured function raises; its type alone is told, since its text may hold credentials.
        raise StoreUnavailable("make a store's access", on=spec, cause=f"the function raised {type(error).__name__}") from error
    if not isinstance(access, kind):
        cause = f"it returned a {type(access).__name__}, where the store needs an access of the type {kind.__name__}"
        raise UnsupportedStore("make a store's access", on=spec, cause=cause)
    return access


def ask_for_credentials(source: Callable[[], T], known: tuple[type[Exception], ...]) -> T:
    """Return what a configured function returns; raises what it raises of `known`, and StoreUnavailable for anything else."""
    try:
        return source()
    except CheckpointError:
        raise
    except known:
        raise
    except Exception as error:
        # It may pass. Its type alone is told: its text may hold credentials.
        cause = f"their source raised {type(error).__name__}"
        raise StoreUnavailable("get the credentials of the store", cause=cause) from error
