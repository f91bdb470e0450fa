"""A store that does not answer while a file is there: several processes see the same."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from ckpt_async import assembly
from ckpt_async.stores import opening, retrying
from ckpt_async.stores.contract import Store
from ckpt_async.testing.faulty_store import FaultyStore
from ckpt_async.words.errors import StoreUnavailable
from ckpt_async.worker import uploader

T = TypeVar("T")


class AwayStore(FaultyStore):
    def __init__(self, store: Store, flag: str) -> None:
        super().__init__(store)
        self._flag = flag

    async def _pass(self, operation: str, keys: Sequence[str], call: Callable[[], Awaitable[T]]) -> T:
        if os.path.exists(self._flag):  # noqa: ASYNC240 - a look that takes microseconds
            raise StoreUnavailable("reach the store", cause="it is away")
        return await call()


def be_away_while(flag: str, patch: Callable[[object, str, object], None] = setattr) -> None:
    """Let every store of this process be away while the file `flag` exists, and be tried again often."""
    patch(assembly, "open_store", lambda *given: AwayStore(opening.open_store(*given), flag))
    for module, name, seconds in (
        (retrying, "FIRST_BACKOFF_S", 0.005),
        (retrying, "LAST_BACKOFF_S", 0.02),
        (uploader, "ENTRY_RETRY_S", 0.01),
    ):
        patch(module, name, seconds)
