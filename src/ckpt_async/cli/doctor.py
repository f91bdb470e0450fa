"""The commands for what lies on this machine: spool, drain."""

from __future__ import annotations
import typer


def register(app: typer.Typer) -> None:
    """Add the commands."""
