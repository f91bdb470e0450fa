"""The command that looks through a whole store for what is not as it should be: doctor."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ckpt_async.cli.desk import Desk, open_desk
from ckpt_async.cli.exit_codes import FOUND, NOT_DONE, OK
from ckpt_async.cli.local import scratch_root
from ckpt_async.cli.options import AccessOption, JsonOption, SpoolDirOption, StoreOption, YesOption, given, preset_of
from ckpt_async.cli.rendering import Column, Output, plural, size_words
from ckpt_async.words import keys
from ckpt_async.words.errors import CheckpointDamaged, InvalidArgument

if TYPE_CHECKING:
    from ckpt_async.transfer.diagnosis import Finding, Protected

__all__ = ["read_age", "register"]

_AGE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(s|min|h|d)")
_NO_AGES = "This store does not tell when something was stored: what was left behind can't be told from what is under way."
_UNITS_S = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def read_age(text: str) -> float:
    """Return an age in seconds. Raises InvalidArgument where it is none."""
    found = _AGE.fullmatch(text.strip().lower())
    if found is None:
        raise InvalidArgument(
            "use an option", on=f"--older-than {text}", cause="it is no age", hint="Allowed are, for example, 90min, 12h and 1d."
        )
    return float(found[1]) * _UNITS_S[found[2]]


@dataclass(frozen=True)
class Outcome:
    """What became of a finding with ``--fix``: ``"fixed"``, ``"nothing to do"`` (any more), ``"failed"``, or ``""``: not tried."""

    finding: Finding
    status: str = ""
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "kind": self.finding.kind,
            "on": self.finding.on,
            "what": self.finding.what,
            "size_bytes": self.finding.size_bytes,
            "fix": self.finding.fix or None,
            "outcome": self.status or None,
            "problem": self.problem or None,
        }


def doctor(
    context: typer.Context,
    fix: Annotated[bool, typer.Option("--fix", help="Mend what can be mended, after asking.", show_default=False)] = False,
    yes: YesOption = False,
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="AGE", help="Leave alone what may be under way: what is younger than this.")
    ] = "1d",
    quick: Annotated[
        bool, typer.Option("--quick", help="Don't compare what is there with the manifests.", show_default=False)
    ] = False,
    spool_dir: SpoolDirOption = "",
    store: StoreOption = "",
    access: AccessOption = "",
    as_json: JsonOption = False,
) -> int:
    """Look through the whole store for what is not as it should be, and mend it.

    Found are checkpoints that lack something, data of no checkpoint, deletions and group saves that were interrupted, latest
    pointers that are missing or wrong, and uploads in parts that nobody goes on with. What waits on this machine for its upload is
    left alone, and so is what belongs to a task that lives here.
    """
    from ckpt_async.transfer.diagnosis import diagnose
    from ckpt_async.transfer.survey import survey

    older_than_s = read_age(older_than)
    with open_desk(given(context, store, access, as_json), preset_of(context)) as desk:
        # Before anything is listed: what enters the spool later is younger.
        protected = _protected(desk, spool_dir)
        with desk.out.counted("Looking at checkpoints") as told:
            found = desk.run(lambda opened: survey(opened, deep=not quick, on_looked=told))
        findings = diagnose(found, now_unix_s=time.time(), older_than_s=older_than_s, protected=protected)
        tells_ages, tells_uploads = found.tells_ages, found.uploads is not None
        checkpoints = sum(facts.read is not None for facts in found.checkpoints.values())
        del found
        if not desk.out.as_json:
            _show(desk.out, findings)
            if not tells_ages:
                desk.out.line(_NO_AGES)
            if not tells_uploads:
                desk.out.line("This store does not tell of unfinished uploads in parts.")
        mendable = [finding for finding in findings if finding.fix]
        go_on = fix and bool(mendable) and desk.out.confirm(f"Mend {plural(len(mendable), 'finding')} in {desk.url}?", yes=yes)
        outcomes = _mend(desk, findings) if go_on else [Outcome(finding) for finding in findings]
        left = [outcome for outcome in outcomes if outcome.status not in ("fixed", "nothing to do")]
        desk.out.answer(
            {
                "store": desk.url,
                "checkpoints": checkpoints,
                "tells_ages": tells_ages,
                "lists_uploads": tells_uploads,
                "findings": [outcome.to_json() for outcome in outcomes],
            },
            lambda out: _summarize(out, desk.url, checkpoints, outcomes, fix=fix, sees_all=tells_ages and tells_uploads),
        )
    if fix and mendable and not go_on:
        return NOT_DONE
    return FOUND if left else OK


def _protected(desk: Desk, spool_dir: str) -> Protected:
    """Return what waits on this machine for its upload, and the tasks that live here."""
    from ckpt_async.spool.overview import look_at_spools
    from ckpt_async.transfer.diagnosis import Protected
    from ckpt_async.words.names import readable_folder

    waiting, tasks, names = set(), set(), set()
    for state in look_at_spools(scratch_root(spool_dir)):
        if state.alive:
            names.add(readable_folder(state.task))
        for save in state.saves:
            waiting.add(save.record.key)
            if state.alive:
                parsed = keys.parse_data_key(save.record.key)
                tasks.add((parsed.flow, parsed.step, parsed.pathspec_hash))
        for problem in state.problems:
            desk.out.say(f"A spool can't be read, and what it holds is not known: {problem}")
    return Protected(frozenset(waiting), frozenset(tasks), frozenset(names))


def _mend(desk: Desk, findings: Sequence[Finding]) -> list[Outcome]:
    from ckpt_async.transfer.mending import mend

    outcomes = []
    with desk.out.counted("Mending") as told:
        for finding in findings:
            told(1, len(findings))
            try:
                done = desk.run(lambda store, finding=finding: mend(store, finding))  # type: ignore[misc]
                outcomes.append(Outcome(finding, "fixed" if done else "nothing to do" if finding.fix else ""))
            except CheckpointDamaged as error:
                # One that can't be mended is no reason to leave the others.
                outcomes.append(Outcome(finding, "failed", str(error)))
    return outcomes


def _show(out: Output, findings: Sequence[Finding]) -> None:
    if findings:
        out.table(
            [
                Column("kind"),
                Column("size", right=True),
                Column("where", whole=False),
                Column("what", whole=False),
                Column("--fix would", whole=False),
            ],
            [
                (
                    finding.kind,
                    size_words(finding.size_bytes) if finding.size_bytes else "",
                    finding.on.removeprefix(f"{keys.ROOT}/"),
                    finding.what,
                    finding.fix or "leave it to you",
                )
                for finding in findings
            ],
        )


def _summarize(out: Output, url: str, checkpoints: int, outcomes: Sequence[Outcome], *, fix: bool, sees_all: bool) -> None:
    for outcome in outcomes:
        if outcome.problem:
            out.line(f"Not mended: {outcome.problem}")
    if fix and outcomes:
        counts = Counter(outcome.status or "left to you" for outcome in outcomes)
        out.line(f"{plural(len(outcomes), 'finding')}: {', '.join(f'{count:,} {status}' for status, count in counts.items())}.")
    elif outcomes:
        mendable = sum(bool(outcome.finding.fix) for outcome in outcomes)
        out.line(f"{plural(len(outcomes), 'finding')}; --fix would mend {mendable:,} of them.")
    else:
        out.line("Nothing is wrong." if sees_all else "Nothing wrong was found.")
    out.line(f"{plural(checkpoints, 'checkpoint')}. Store: {url}")
