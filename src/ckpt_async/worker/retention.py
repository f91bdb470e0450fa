"""Deleting what the rules don't keep, after commits and beside the uploads, which never wait for it.

One pass at a time, with one request at a time: it costs the uploads nothing that could be measured. Commits that come during a pass
are followed by one pass together. A worker under a deadline uploads first. A pass that fails is told of, and the next commit is
followed by another.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.to_thread

from ckpt_async.stores.contract import Store
from ckpt_async.transfer.catalog import KnownRecords, list_task
from ckpt_async.transfer.deletion import is_of_task, is_visible
from ckpt_async.transfer.pruning import finish_deletions, plan_prune, prune
from ckpt_async.words import keys
from ckpt_async.words.errors import CheckpointError
from ckpt_async.words.events import CheckpointPruned, Event, Notice
from ckpt_async.words.keep_rules import KeepRules
from ckpt_async.words.records import CheckpointRecord
from ckpt_async.words.retention import decide_retention

__all__ = ["Retention"]

#: Checkpoints that are decided on in one pass: those of a task and a node of it (-1: group saves).
_Part = tuple[str, int]


class Retention:
    """Keeps the rules of one worker. All methods belong to the loop that runs it.

    Parameters
    ----------
    store : Store
        Open; with retries of its own.
    rules : KeepRules
        Without any, nothing is done.
    emit : callable
        Takes events; must not block.
    drop_local : callable
        Called in a thread with the record of a checkpoint that was deleted: what is kept of it on local disk goes too.
    """

    def __init__(
        self,
        store: Store,
        rules: KeepRules,
        emit: Callable[[Event], None],
        drop_local: Callable[[CheckpointRecord], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._rules = rules
        self._emit = emit
        self._drop_local = drop_local
        #: What was committed since the last pass, by the part that it belongs to.
        self._due: dict[_Part, list[CheckpointRecord]] = {}
        self._known: dict[bool, KnownRecords] = {False: {}, True: {}}
        #: What of this pass is deleted, or about to be.
        self._begun: list[CheckpointRecord] = []
        #: The tasks of which interrupted deletions were looked for.
        self._swept: set[str] = set()
        self._told: set[str] = set()
        self._wake = anyio.Event()
        self._held = False
        self._closing = False

    def committed(self, record: CheckpointRecord) -> None:
        """A checkpoint is visible, and whole."""
        if self._rules:
            self._due.setdefault((record.pathspec, record.node_index), []).append(record)
            self._wake.set()

    def hold(self) -> None:
        """A deadline presses: begin no pass before `finish`."""
        self._held = True

    def close(self) -> None:
        """Have `run` end after the pass that it is in."""
        self._closing = True
        self._wake.set()

    async def run(self) -> None:
        """Make a pass after commits, until closed."""
        while not self._closing:
            self._wake = anyio.Event()
            if self._due and not self._held:
                await self._pass()
            else:
                await self._wake.wait()

    async def finish(self) -> None:
        """Make the passes that are still due."""
        while self._due:
            await self._pass()

    async def _pass(self) -> None:
        (pathspec, node_index), fresh = next(iter(self._due.items()))
        del self._due[pathspec, node_index]
        try:
            await self._prune(pathspec, node_index, fresh)
        except CheckpointError as error:
            self._tell_once(f"What {self._rules} does not keep could not be deleted; the next save has it tried again. {error}")
            await self._take_back()
            self._begun.clear()
        except anyio.get_cancelled_exc_class():
            self._tell_once(
                f"Not all that {self._rules} does not keep is deleted: the time is over. A later attempt of the task goes on with "
                "it, or Checkpoint().prune()."
            )
            raise

    async def _take_back(self) -> None:
        """Tell of the deletion that has failed that it has taken nothing, where that is so."""
        try:
            for record in self._begun[-1:]:
                if await is_visible(self._store, record):
                    self._emit(CheckpointPruned(record.key, str(self._rules), deleted=False))
        except CheckpointError:
            pass  # A store that can't tell: what it has refused is told, and the checkpoint is not relied on.

    async def _prune(self, pathspec: str, node_index: int, fresh: list[CheckpointRecord]) -> None:
        if pathspec not in self._swept:
            await finish_deletions(self._store, [keys.deletions_prefix_of(fresh[-1].key)], pathspec, self._begin)
            self._swept.add(pathspec)
        groups = node_index < 0
        listing = await list_task(self._store, pathspec, groups_only=groups, known=self._known[groups])
        mine = [record for record in listing.records if record.node_index == node_index and is_of_task(record, pathspec)]
        trusted = {record.key for record in fresh}
        first = decide_retention(mine, self._rules)
        for text in first.notices:
            self._tell_once(text)
        # Pointers and pins only add to what is kept: where nothing is to go, nobody asks for them.
        if first.doomed:
            decision = await plan_prune(self._store, mine, self._rules, trusted=trusted)
            try:
                result = await prune(self._store, decision, trusted=trusted, begin=self._begin)
            except BaseException:
                # What it has begun is found by its marks.
                self._swept.discard(pathspec)
                raise
            for text in result.problems:
                self._tell_once(f"A checkpoint is damaged: {text}")
        begun, self._begun = self._begun, []
        for record in begun:
            await anyio.to_thread.run_sync(self._drop_local, record)

    def _begin(self, record: CheckpointRecord) -> None:
        self._emit(CheckpointPruned(record.key, str(self._rules)))
        self._begun.append(record)

    def _tell_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._emit(Notice(text))
