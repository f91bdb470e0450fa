"""The commands that change nothing in the store: list, show, pull, verify, diff."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ckpt_async.cli.desk import open_desk
from ckpt_async.cli.exit_codes import FOUND, OK
from ckpt_async.cli.options import AccessOption, JsonOption, ReferenceArgument, StoreOption, given, preset_of
from ckpt_async.cli.rendering import Column, Output, plural, printable, record_json, reference_of, saved_words, size_words
from ckpt_async.words.errors import InvalidArgument

if TYPE_CHECKING:
    from ckpt_async.stores.contract import Store
    from ckpt_async.transfer.catalog import Listing
    from ckpt_async.words.records import CheckpointRecord

__all__ = ["register", "show_records"]

#: Files that `show` and `diff` name for people where not all are asked for.
FILES_SHOWN = 20


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("list")(list_)
    app.command()(show)
    app.command()(pull)
    app.command()(verify)
    app.command()(diff)


# list


def list_(
    context: typer.Context,
    above: Annotated[
        str, typer.Argument(metavar="[PATHSPEC]", help="FLOW[/RUN[/STEP[/TASK]]]: only what is below it.", show_default=False)
    ] = "",
    name: Annotated[str, typer.Option("--name", help="Only those of this name.", show_default=False)] = "",
    attempt: Annotated[int, typer.Option("--attempt", help="Only those of this attempt.", show_default=False, min=-1)] = -1,
    limit: Annotated[int, typer.Option("--limit", help="The newest so many; 0: all.", min=0)] = 0,
    store: StoreOption = "",
    access: AccessOption = "",
    as_json: JsonOption = False,
) -> int:
    """List checkpoints, newest first."""
    from ckpt_async.cli.naming import read_above
    from ckpt_async.transfer import browsing

    with open_desk(given(context, store, access, as_json), preset_of(context)) as desk:
        below = read_above(above, desk.flow)

        async def act(opened: Store) -> tuple[Listing, frozenset[str]]:
            listing = await browsing.list_below(opened, below, name=name or None, attempt=attempt if attempt >= 0 else None)
            return listing, await browsing.latest_of_tasks(opened, (record.pathspec for record in listing.records))

        listing, newest = desk.run(act)
        for damage in listing.damaged:
            desk.out.say(f"A damaged checkpoint record is left out: {damage}")
        records = listing.records[:limit] if limit else listing.records
        document = {
            "store": desk.url,
            "checkpoints": [{**record_json(record), "latest": record.key in newest} for record in records],
            "damaged": [{"record": damage.on, "error": str(damage)} for damage in listing.damaged],
        }

        def for_people(out: Output) -> None:
            if not records:
                out.line(f"No checkpoints{f' of {below}' if below else ''} in {desk.url}.")
                return
            show_records(out, records, newest)
            left = len(listing.records) - len(records)
            more = f"; {plural(left, 'older one')} not shown" if left else ""
            out.line(
                f"{plural(len(records), 'checkpoint')}, {size_words(sum(r.size_bytes for r in records))}{more}. Store: {desk.url}"
            )

        desk.out.answer(document, for_people)
    return FOUND if listing.damaged else OK


def show_records(out: Output, records: Sequence[CheckpointRecord], newest: frozenset[str] = frozenset()) -> None:
    """Print checkpoints as a table; the task stands above it where it is one."""
    tasks = {record.pathspec for record in records}
    columns = [Column("task", whole=False)] if len(tasks) > 1 else []
    columns += [
        Column("attempt", right=True),
        Column("name", whole=False),
        Column("number", right=True),
        Column("size", right=True),
        Column("saved"),
        Column("", whole=False),
    ]
    rows = []
    for record in records:
        row: list[object] = [record.pathspec] if len(tasks) > 1 else []
        row += [record.attempt, record.name, record.version_id, size_words(record.size_bytes), saved_words(record.saved_at_unix_ns)]
        rows.append([*row, ", ".join(_marks(record, newest))])
    if len(tasks) == 1:
        out.line(f"Task {printable(next(iter(tasks)))}")
    out.table(columns, rows)


def _marks(record: CheckpointRecord, newest: frozenset[str]) -> list[str]:
    marks = ["latest"] if record.key in newest else []
    if record.group:
        marks.append(f"of {record.num_nodes} nodes")
    if not record.latest:
        marks.append("not resumed from")
    if not record.manifest:
        marks.append("no checksums")
    return marks


# show


def show(
    context: typer.Context,
    reference: ReferenceArgument,
    all_files: Annotated[bool, typer.Option("--files", help="Name all files, and not only the first.", show_default=False)] = False,
    store: StoreOption = "",
    access: AccessOption = "",
    as_json: JsonOption = False,
) -> int:
    """Show one checkpoint: what it is, and its files."""
    from ckpt_async.transfer.comparing import contents_of

    with open_desk(given(context, store, access, as_json), preset_of(context)) as desk:
        record = desk.find(reference)
        contents = desk.run(lambda opened: contents_of(opened, record))
        files = [
            {"path": path, "size_bytes": facts.size_bytes, "crc32": facts.digest or None}
            for path, facts in sorted(contents.files.items())
        ]
        document = {**record_json(record), "files": files}

        def for_people(out: Output) -> None:
            facts = [
                ("reference", reference_of(record)),
                ("key", record.key),
                ("saved", saved_words(record.saved_at_unix_ns)),
                ("size", f"{size_words(record.size_bytes)} ({record.size_bytes:,} bytes), {plural(len(files), 'file')}"),
                ("format", record.storage_format),
            ]
            if record.group:
                facts.append(("nodes", str(record.num_nodes)))
            facts.append(("a retry", "may resume from it" if record.latest else "never resumes from it"))
            facts += [(f"metadata {name}", str(value)) for name, value in record.metadata.items()]
            for name, value in facts:
                out.line(f"{printable(name)}: {printable(value)}")
            if not contents.from_manifest:
                out.line("Another program saved it: there are no checksums.")
            shown = files if all_files else files[:FILES_SHOWN]
            out.table(
                [Column("size", right=True), Column("crc32"), Column("file", whole=False)],
                [(size_words(int(file["size_bytes"] or 0)), file["crc32"] or "", file["path"] or "(an archive)") for file in shown],
            )
            if len(shown) < len(files):
                out.line(f"and {plural(len(files) - len(shown), 'more file')}: --files names them all.")

        desk.out.answer(document, for_people)
    return OK


# pull


def pull(
    context: typer.Context,
    reference: ReferenceArgument,
    target: Annotated[str, typer.Argument(metavar="DIR", help="A folder that is empty, or does not exist.", show_default=False)],
    node: Annotated[
        int, typer.Option("--node", help="Of a group save, only the part of this node.", show_default=False, min=-1)
    ] = -1,
    store: StoreOption = "",
    access: AccessOption = "",
    as_json: JsonOption = False,
) -> int:
    """Load a checkpoint into a folder: all of it, verified, or nothing."""
    with open_desk(given(context, store, access, as_json), preset_of(context)) as desk:
        record = desk.find(reference)
        part = node if node >= 0 else None
        with desk.out.progress("Loading", record.size_bytes if part is None else None) as told:
            desk.reader.load(record.to_dict(), target, node=part, on_fetched=told)
        folder = os.path.abspath(target)
        desk.out.answer(
            {**record_json(record), "folder": folder, "verified": bool(record.manifest)},
            lambda out: out.line(f"{printable(reference_of(record))} ({size_words(record.size_bytes)}) is in {folder}."),
        )
    return OK


# verify


def verify(
    context: typer.Context,
    above: Annotated[
        str,
        typer.Argument(
            metavar="[PATHSPEC | REF]",
            help="What is below it, or one checkpoint. Default: everything in the store.",
            show_default=False,
        ),
    ] = "",
    sample: Annotated[
        str,
        typer.Option(
            "--sample",
            metavar="SHARE|NUMBER",
            help="Read the contents of this share of them (0.1), or of so many (5); the newest is always among them. 0: of none.",
        ),
    ] = "1.0",
    store: StoreOption = "",
    access: AccessOption = "",
    as_json: JsonOption = False,
) -> int:
    """Check stored checkpoints: that all is there, and that the contents have their checksums.

    Prints a line for each checkpoint as soon as it is known.
    """
    from ckpt_async.cli.verifying import verify_all

    with open_desk(given(context, store, access, as_json), preset_of(context)) as desk:
        return verify_all(desk, above, sample)


# diff


def diff(
    context: typer.Context,
    before: ReferenceArgument,
    after: ReferenceArgument,
    store: StoreOption = "",
    access: AccessOption = "",
    as_json: JsonOption = False,
) -> int:
    """Compare two checkpoints: files added, removed, changed. Exit status 1: they differ."""
    from ckpt_async.transfer.comparing import compare, contents_of

    with open_desk(given(context, store, access, as_json), preset_of(context)) as desk:
        old, new = desk.find(before), desk.find(after)
        old_contents = desk.run(lambda opened: contents_of(opened, old))
        new_contents = desk.run(lambda opened: contents_of(opened, new))
        if "" in old_contents.files or "" in new_contents.files:
            raise InvalidArgument(
                "compare two checkpoints",
                on=f"{before}, {after}",
                cause="another program saved one of them as an archive, without a list of its files",
                hint="Load both with pull, and compare the folders.",
            )
        found = compare(old_contents, new_contents)
        by_digest = old_contents.from_manifest and new_contents.from_manifest
        same = len(set(old_contents.files) & set(new_contents.files)) - sum(one.kind == "changed" for one in found)
        document = {
            "before": record_json(old),
            "after": record_json(new),
            "compared_by": "checksum" if by_digest else "size",
            "same_files": same,
            "differences": [
                {"path": one.path, "kind": one.kind, "before_bytes": one.before_bytes, "after_bytes": one.after_bytes}
                for one in found
            ],
        }

        def for_people(out: Output) -> None:
            if found:
                out.table(
                    [Column("what"), Column("before", right=True), Column("after", right=True), Column("file", whole=False)],
                    [(one.kind, _size_or_none(one.before_bytes), _size_or_none(one.after_bytes), one.path) for one in found],
                )
            counts = ", ".join(f"{sum(one.kind == kind for one in found):,} {kind}" for kind in ("added", "removed", "changed"))
            growth = new.size_bytes - old.size_bytes
            out.line(
                f"{counts}, {same:,} the same; {'+' if growth >= 0 else '-'}{size_words(abs(growth))} "
                f"({size_words(old.size_bytes)} before, {size_words(new.size_bytes)} after)."
            )
            if not by_digest:
                out.line("Another program saved one of them, without checksums: files of one size count as the same.")

        desk.out.answer(document, for_people)
    return FOUND if found else OK


def _size_or_none(size_bytes: int | None) -> str:
    return "" if size_bytes is None else size_words(size_bytes)
