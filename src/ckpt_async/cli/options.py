"""The options that several commands share, as typer reads them."""

from __future__ import annotations

from typing import Annotated

import typer

from ckpt_async.cli.desk import FlowPreset, Options

__all__ = [
    "AccessOption",
    "DryRunOption",
    "JsonOption",
    "ReferenceArgument",
    "SpoolDirOption",
    "StoreOption",
    "YesOption",
    "given",
    "preset_of",
]

StoreOption = Annotated[
    str,
    typer.Option(
        "--store",
        metavar="URL",
        help="Where the checkpoints are: s3://BUCKET/PREFIX, azure://CONTAINER/PREFIX, gs://BUCKET/PREFIX, or a folder. "
        "Default: CKPT_ASYNC_STORE, else Metaflow's datastore.",
        show_default=False,
    ),
]
AccessOption = Annotated[
    str,
    typer.Option(
        "--access",
        metavar="MODULE:FUNCTION",
        help="What tells how that store is reached. Default: CKPT_ASYNC_ACCESS, else what its client library finds by itself.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Answer with JSON.", show_default=False)]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.", show_default=False)]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.", show_default=False)]
SpoolDirOption = Annotated[
    str,
    typer.Option(
        "--spool-dir",
        metavar="DIR",
        help="The folder in which the spools' folder stands, as in @checkpoint(spool_dir=...). Default: that for temporary files.",
        show_default=False,
    ),
]
ReferenceArgument = Annotated[
    str,
    typer.Argument(
        metavar="REF",
        help="FLOW/RUN/STEP/TASK[:ATTEMPT[:NAME[:NUMBER]]], FLOW/RUN/STEP/TASK:latest, or a key.",
        show_default=False,
    ),
]


def given(context: typer.Context, store: str, access: str, as_json: bool) -> Options:
    """Return the options of a command: those behind its name, else those before it."""
    return Options(store, access, as_json).over(context.find_root().meta.get("options", Options()))


def preset_of(context: typer.Context) -> FlowPreset | None:
    """Return what the flow has set whose command this is; None outside of one."""
    preset = context.find_root().obj
    return preset if isinstance(preset, FlowPreset) else None
