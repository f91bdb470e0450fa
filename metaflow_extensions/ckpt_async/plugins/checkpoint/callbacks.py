"""The attribute `on_event`: a function of the user's by its name, so that it survives Metaflow's command line."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable

from .errors import WrongCheckpointAttribute

__all__ = ["import_callback", "read_callback_name"]

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")

ALLOWED = (
    "'module:function', a function that stands in a module (or, as it is, in the file of the flow), or None; for others there is "
    "current.checkpoint.add_listener()"
)


def read_callback_name(value: object) -> str | None:
    """Return the name of a callback as ``module:function``; of a function itself, where it can be found by its name.

    Raises
    ------
    WrongCheckpointAttribute
        It can't be found by its name, or the text is none. Whether there is such a function, the task finds out when it begins: the
        module may be there alone.
    """
    if value is None or value in ("None", ""):
        return None
    name = value.strip() if isinstance(value, str) else ""
    if callable(value):
        name = f"{getattr(value, '__module__', '')}:{getattr(value, '__qualname__', '')}"
    if not _NAME.fullmatch(name):
        raise WrongCheckpointAttribute(f"@checkpoint(on_event={value!r}): the value is not allowed. Allowed: {ALLOWED}.")
    return name


def import_callback(name: str) -> Callable[[object], None]:
    """Return the function of this name.

    Raises
    ------
    WrongCheckpointAttribute
        There is none, or its module can't be imported.
    """
    module, _, inside = name.partition(":")
    try:
        found = importlib.import_module(module)
        for part in inside.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise WrongCheckpointAttribute(f"@checkpoint(on_event={name!r}): {type(error).__name__}: {error}") from error
    if not callable(found):
        raise WrongCheckpointAttribute(f"@checkpoint(on_event={name!r}): it is a {type(found).__name__}, which can't be called.")
    return found
