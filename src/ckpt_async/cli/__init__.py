"""The command line, ``ckpt-async``: a function for each command, above all the rest of the engine.

What typer and rich are needed for stays in here; `docs/cli.md` has every command with an example. The names listed here are public:
for whoever carries the commands inside another program.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckpt_async.cli.app import run_command_line as run_command_line
    from ckpt_async.cli.desk import FlowPreset as FlowPreset

_HOMES = {"FlowPreset": "ckpt_async.cli.desk", "run_command_line": "ckpt_async.cli.app"}

__all__ = ["FlowPreset", "run_command_line"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
