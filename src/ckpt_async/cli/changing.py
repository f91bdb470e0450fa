"""The commands that change what is stored: push, delete, prune, pin, unpin."""

from __future__ import annotations

import getpass
import json
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ckpt_async.cli.desk import Desk, open_desk
from ckpt_async.cli.exit_codes import NOT_DONE, OK
from ckpt_async.cli.options import (
    AccessOption,
    DryRunOption,
    JsonOption,
    ReferenceArgument,
    StoreOption,
    YesOption,
    given,
    preset_of,
)
from ckpt_async.cli.rendering import Column, Output, plural, printable, record_json, reference_of, saved_words, size_words
from ckpt_async.words.errors import CheckpointDamaged, CheckpointNotFound, InvalidArgument
from ckpt_async.words.names import DEFAULT_NAME

if TYPE_CHECKING:
    from ckpt_async.stores.contract import Store
    from ckpt_async.transfer.pruning import PruneResult
    from ckpt_async.words.records import CheckpointRecord
    from ckpt_async.words.retention import RetentionDecision

__all__ = ["register"]

ReferencesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="REF...",
        help="FLOW/RUN/STEP/TASK[:ATTEMPT[:NAME[:NUMBER]]], FLOW/RUN/STEP/TASK:latest, or a key.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(push)
    app.command()(delete)
    app.command()(prune)
    app.command()(pin)
    app.command()(unpin)


# push


def push(
    context: typer.Context,
    path: Annotated[str, typer.Argument(metavar="DIR", help="A folder, or a file.", show_default=False)],
    pathspec: Annotated[
        str,
        typer.Option(
            "--as",
            metavar="FLOW/RUN/STEP/TASK",
            help="The task that it is stored under. Default: push/USER/NAME-OF-DIR/1; of a flow: FLOW/push/NAME-OF-DIR/1.",
            show_default=False,
        ),
    ] = "",
    name: Annotated[str, typer.Option("--name", help="Of the checkpoint.")] = DEFAULT_NAME,
    metadata: Annotated[
        list[str], typer.Option("--metadata", metavar="KEY=VALUE", help="Kept with it; may be repeated.", show_default=False)
    ] = [],  # noqa: B006 - typer copies it
    storage_format: Annotated[
        str, typer.Option("--format", metavar="files|tar", help="An object for each file, or one archive.")
    ] = "files",
    latest: Annotated[bool, typer.Option("--latest/--no-latest", help="Whether it becomes the newest of that task.")] = True,
    namespace: Annotated[
        str,
        typer.Option(
            "--namespace",
            metavar="user:NAME",
            help="Let tasks of this namespace, flow and step begin with it, where they have load_policy='eager'.",
            show_default=False,
        ),
    ] = "",
    store: StoreOption = "",
    access: AccessOption = "",
    as_json: JsonOption = False,
) -> int:
    """Store a folder as a checkpoint, from outside of a flow: all of it, or nothing."""
    from ckpt_async.disk.scan import scan
    from ckpt_async.taking import SaveRequest
    from ckpt_async.transfer.pushing import push as push_tree
    from ckpt_async.words.identity import identity_outside_flow

    with open_desk(given(context, store, access, as_json), preset_of(context)) as desk:
        task = _task_to_push(desk, pathspec, path)
        identity_outside_flow(task, namespace=namespace or None)
        request = SaveRequest.checked(name, _read_metadata(metadata), latest=latest, storage_format=storage_format)
        tree = scan(path)
        with desk.out.progress("Storing", tree.size_bytes) as told:
            done = 0

            def on_progress(stored_bytes: int) -> None:
                nonlocal done
                told(stored_bytes - done, 0)
                done = stored_bytes

            record = desk.run(
                lambda opened: push_tree(
                    opened,
                    tree,
                    lambda attempt: identity_outside_flow(task, attempt=attempt, namespace=namespace or None),
                    name=request.name,
                    metadata=request.metadata,
                    storage_format=request.storage_format,
                    latest=request.latest,
                    on_progress=on_progress,
                )
            )
        desk.out.answer(
            {**record_json(record), "files": len(tree.files)},
            lambda out: out.line(
                f"{plural(len(tree.files), 'file')} with {size_words(tree.size_bytes)} stored as {printable(reference_of(record))}."
            ),
        )
    return OK


def _task_to_push(desk: Desk, pathspec: str, path: str) -> str:
    if pathspec:
        from ckpt_async.cli.naming import read_above

        return read_above(pathspec, desk.flow)
    folder = re.sub(r"[^\w.-]+", "-", os.path.basename(os.path.abspath(path))).strip(".-") or "files"
    return f"{desk.flow}/push/{folder}/1" if desk.flow else f"push/{getpass.getuser()}/{folder}/1"


def _read_metadata(pairs: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator or not name:
            raise InvalidArgument("use an option", on=f"--metadata {pair}", cause="it has not the form KEY=VALUE")
        try:
            # A number stays one, so that rules and readers can compare it.
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


# delete


def delete(
    context: typer.Context,
    references: ReferencesArgument,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    store: StoreOption = "",
    access: AccessOption = "",
    as_json: JsonOption = False,
) -> int:
    """Delete checkpoints. Shows what it would delete, and asks."""
    with open_desk(given(context, store, access, as_json), preset_of(context)) as desk:
        doomed = {target.key: target for target in (_target(desk, reference) for reference in references)}
        known = [target.record for target in doomed.values() if target.record is not None]
        if not desk.out.as_json:
            _show_doomed(desk.out, known)
            for target in doomed.values():
                if target.record is None:
                    desk.out.line(f"What is left of {printable(target.key)}")
        what = f"{plural(len(doomed), 'checkpoint')} with {size_words(sum(record.size_bytes for record in known))}"
        go_on = not dry_run and desk.out.confirm(f"Delete {what} from {desk.url}?", yes=yes)
        deleted = []
        if go_on:
            for target in doomed.values():
                desk.reader.delete(target.record.to_dict() if target.record is not None else target.key)
                deleted.append(target.key)
        desk.out.answer(
            {
                "store": desk.url,
                "doomed": [record_json(record) for record in known],
                "deleted": deleted,
                "dry_run": dry_run,
            },
            lambda out: out.line(f"Deleted {what}." if go_on else f"Would delete {what}.") if go_on or dry_run else None,
        )
    return OK if go_on or dry_run else NOT_DONE


class _Target:
    """A checkpoint to be deleted; without a record, what an interrupted deletion has left of one."""

    def __init__(self, key: str, record: CheckpointRecord | None) -> None:
        self.key = key
        self.record = record


def _target(desk: Desk, reference: str) -> _Target:
    from ckpt_async.cli.naming import parse_reference

    named = parse_reference(reference, desk.flow)
    try:
        record = desk.find(reference)
    except (CheckpointNotFound, CheckpointDamaged):
        # By its key, also what a call has left that was interrupted; where that is nothing, the deletion says so.
        if not named.key or not desk.run(lambda store: _is_marked(store, named.key)):
            raise
        return _Target(named.key, None)
    return _Target(record.key, record)


async def _is_marked(store: Store, key: str) -> bool:
    from ckpt_async.words.keys import deletion_key

    return await store.head(deletion_key(key)) is not None


def _show_doomed(out: Output, records: Sequence[CheckpointRecord], why: Sequence[str] = ()) -> None:
    if records:
        out.table(
            [Column("size", right=True), Column("saved"), Column("checkpoint", whole=False)],
            [(size_words(record.size_bytes), saved_words(record.saved_at_unix_ns), reference_of(record)) for record in records],
        )


# prune


def prune(
    context: typer.Context,
    above: Annotated[
        str, typer.Argument(metavar="PATHSPEC", help="FLOW[/RUN[/STEP[/TASK]]]: of each task below it.", show_default=False)
    ] = "",
    keep_last: Annotated[
        str, typer.Option("--keep-last", metavar="NUMBER", help="Keep so many of the newest.", show_default=False)
    ] = "",
    keep_best: Annotated[
        str,
        typer.Option(
            "--keep-best", metavar="METRIC:min|max[:NUMBER]", help="Keep the best by a number in the metadata.", show_default=False
        ),
    ] = "",
    keep_every: Annotated[
        str,
        typer.Option(
            "--keep-every", metavar="NUMBER|PERIOD", help="Keep every so manieth, or one of each '1h'.", show_default=False
        ),
    ] = "",
    name: Annotated[str, typer.Option("--name", help="Only those of this name.", show_default=False)] = "",
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    store: StoreOption = "",
    access: AccessOption = "",
    as_json: JsonOption = False,
) -> int:
    """Delete what rules don't keep. Shows what becomes of each checkpoint and why, and asks."""
    from ckpt_async.words.keep_rules import KeepRules

    rules = KeepRules.read(keep_last=keep_last, keep_best=keep_best, keep_every=keep_every)
    if not rules:
        raise InvalidArgument(
            "prune",
            cause="no rule says what is kept",
            hint="Pass --keep-last, --keep-best or --keep-every, for example --keep-last 3.",
        )
    with open_desk(given(context, store, access, as_json), preset_of(context)) as desk:
        decision = _plan(desk, above, rules, name)
        for notice in decision.notices:
            desk.out.say(notice)
        doomed = decision.doomed
        what = f"{plural(len(doomed), 'checkpoint')} with {size_words(sum(record.size_bytes for record in doomed))}"
        if not desk.out.as_json:
            _show_decision(desk.out, decision)
        go_on = bool(doomed) and not dry_run and desk.out.confirm(f"Delete {what} from {desk.url}?", yes=yes)
        result = desk.reader.prune(decision) if go_on else None
        desk.out.answer(_prune_json(desk, decision, result, dry_run), lambda out: _show_pruned(out, what, result, doomed))
    return OK if result is not None or dry_run or not doomed else NOT_DONE


def _plan(desk: Desk, above: str, rules: Any, name: str) -> RetentionDecision:
    from ckpt_async.cli.naming import read_above
    from ckpt_async.transfer import browsing, pruning

    below = read_above(above, desk.flow)
    if not below:
        raise InvalidArgument(
            "prune", cause="it is not said of what", hint="Name a flow, a run, a step or a task: FLOW[/RUN[/STEP[/TASK]]]."
        )

    async def act(store: Store) -> tuple[RetentionDecision, tuple[CheckpointDamaged, ...]]:
        # All names: what a retry begins with is the newest of any.
        listing = await browsing.list_below(store, below)
        return await pruning.plan_prune(store, listing.records, rules), listing.damaged

    decision, damaged = desk.run(act)
    for damage in damaged:
        desk.out.say(f"A damaged checkpoint record is left alone: {damage}")
    return decision.only(name) if name else decision


def _show_decision(out: Output, decision: RetentionDecision) -> None:
    if decision.judged:
        out.table(
            [
                Column(""),
                Column("size", right=True),
                Column("saved"),
                Column("checkpoint", whole=False),
                Column("why", whole=False),
            ],
            [
                (
                    "keep" if one.kept else "delete",
                    size_words(one.record.size_bytes),
                    saved_words(one.record.saved_at_unix_ns),
                    reference_of(one.record),
                    ", ".join(one.reasons),
                )
                for one in decision.judged
            ],
        )


def _show_pruned(out: Output, what: str, result: PruneResult | None, doomed: Sequence[CheckpointRecord]) -> None:
    if result is None:
        out.line(f"Nothing was deleted; {what} would be." if doomed else "Nothing is to be deleted.")
        return
    size_bytes = sum(record.size_bytes for record in result.deleted)
    out.line(f"Deleted {plural(len(result.deleted), 'checkpoint')} with {size_words(size_bytes)}.")
    if result.spared:
        out.line(
            f"{plural(len(result.spared), 'checkpoint')} spared: pinned or the latest by now, or nothing kept beside it is whole."
        )
    if result.finished:
        out.line(f"What interrupted deletions had left of {plural(len(result.finished), 'checkpoint')} is gone too.")
    for problem in result.problems:
        out.line(f"Not whole: {problem}")


def _prune_json(desk: Desk, decision: RetentionDecision, result: PruneResult | None, dry_run: bool) -> dict[str, Any]:
    return {
        "store": desk.url,
        "rules": str(decision.rules),
        "dry_run": dry_run,
        "judged": [{**record_json(one.record), "kept": one.kept, "why": list(one.reasons)} for one in decision.judged],
        "deleted": [record.key for record in result.deleted] if result is not None else [],
        "spared": [record.key for record in result.spared] if result is not None else [],
        "finished": [record.key for record in result.finished] if result is not None else [],
        "problems": list(result.problems) if result is not None else [],
    }


# pin, unpin


def pin(
    context: typer.Context,
    reference: ReferenceArgument,
    store: StoreOption = "",
    access: AccessOption = "",
    as_json: JsonOption = False,
) -> int:
    """Keep a checkpoint from being deleted by rules. `delete` deletes it all the same."""
    with open_desk(given(context, store, access, as_json), preset_of(context)) as desk:
        record = desk.find(reference)
        desk.reader.pin(record.key)
        _tell_pinned(desk, record, pinned=True)
    return OK


def unpin(
    context: typer.Context,
    reference: ReferenceArgument,
    store: StoreOption = "",
    access: AccessOption = "",
    as_json: JsonOption = False,
) -> int:
    """Take the pin of a checkpoint away."""
    with open_desk(given(context, store, access, as_json), preset_of(context)) as desk:
        record = desk.find(reference)
        desk.reader.unpin(record.key)
        _tell_pinned(desk, record, pinned=False)
    return OK


def _tell_pinned(desk: Desk, record: CheckpointRecord, *, pinned: bool) -> None:
    desk.out.answer(
        {**record_json(record), "pinned": pinned},
        lambda out: out.line(f"{printable(reference_of(record))} is {'pinned' if pinned else 'not pinned'}."),
    )
