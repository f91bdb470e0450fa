"""What every command works with: the store that is meant, a reader of it, the flow whose command it is, and the output."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, TypeVar

from ckpt_async.cli.rendering import Output
from ckpt_async.words.errors import InvalidArgument
from ckpt_async.words.settings import StoreAddress

if TYPE_CHECKING:
    from ckpt_async.reader import Reader
    from ckpt_async.stores.contract import Store
    from ckpt_async.words.records import CheckpointRecord

__all__ = ["Desk", "Options", "FlowPreset", "address_of", "open_desk"]

STORE_VARIABLE = "CKPT_ASYNC_STORE"
ACCESS_VARIABLE = "CKPT_ASYNC_ACCESS"
ENTRY_POINTS = "ckpt_async.default_store"

#: Metaflow's own folder in the one that users name as the root of a local datastore.
_METAFLOW_FOLDER = ".metaflow"
_OURS = "mf.checkpoints"

#: How long a command keeps trying a store that does not answer.
GIVE_UP_S = 30.0

_T = TypeVar("_T")


@dataclass(frozen=True)
class FlowPreset:
    """What is known where the command is one of a flow.

    Attributes
    ----------
    flow : str
        Its name.
    find_store : callable
        Returns its store; called where none is named. Raises InvalidArgument where it has none that can be used.
    """

    flow: str
    find_store: Callable[[], StoreAddress]


@dataclass(frozen=True)
class Options:
    """The options that every command has, as they were given before its name or behind it."""

    store: str = ""
    access: str = ""
    as_json: bool = False

    def over(self, earlier: Options) -> Options:
        """Return these, and where they say nothing the earlier ones."""
        return Options(self.store or earlier.store, self.access or earlier.access, self.as_json or earlier.as_json)


def address_of(options: Options, preset: FlowPreset | None) -> StoreAddress:
    """Return the store that is meant: the one that is named; that of the flow; that of the environment; the one that is configured.

    Raises
    ------
    InvalidArgument
        None is, or that of Metaflow's configuration can't be used.
    """
    access = options.access or os.environ.get(ACCESS_VARIABLE, "")
    if options.store:
        return StoreAddress(_root_of(options.store), access)
    if preset is not None:
        return preset.find_store()
    named = os.environ.get(STORE_VARIABLE, "")
    if named:
        return StoreAddress(_root_of(named), access)
    for entry in entry_points(group=ENTRY_POINTS):
        find: Callable[[], StoreAddress] = entry.load()
        return find()
    raise InvalidArgument(
        "find the checkpoints",
        cause="no store is named",
        hint=f"Pass --store s3://BUCKET/PREFIX, azure://CONTAINER/PREFIX, gs://BUCKET/PREFIX or a folder, or set {STORE_VARIABLE}.",
    )


def _root_of(url: str) -> str:
    """Return the root of a store: a folder may be named by the one that Metaflow's own folder stands in."""
    if "://" in url:
        return url
    folder = os.path.abspath(os.path.expanduser(url))
    inside = os.path.join(folder, _METAFLOW_FOLDER)
    if os.path.isdir(inside) and not os.path.isdir(os.path.join(folder, _OURS)):
        return inside
    return folder


@dataclass(frozen=True)
class Desk:
    """What a command works with.

    Attributes
    ----------
    address : StoreAddress
        Of the store.
    flow : str
        The flow whose command this is; empty: any.
    reader : Reader
        Of the store; it keeps its connections.
    out : Output
        Where the answer goes.
    """

    address: StoreAddress
    flow: str
    reader: Reader
    out: Output

    def find(self, reference: str) -> CheckpointRecord:
        """Return the record of what a reference on the command line names; see `ckpt_async.cli.naming`."""
        from ckpt_async.cli.naming import resolve_reference

        return self.run(lambda store: resolve_reference(store, reference, self.flow))

    def run(self, act: Callable[[Store], Awaitable[_T]]) -> _T:
        """Do work on the open store."""
        return self.reader.run(act)

    @property
    def url(self) -> str:
        """The store's address, as users see it."""
        return self.address.url


@contextlib.contextmanager
def open_desk(options: Options, preset: FlowPreset | None) -> Iterator[Desk]:
    """Yield a desk; the connections are closed with the block."""
    from ckpt_async.assembly import open_reader

    out = Output(as_json=options.as_json)
    address = address_of(options, preset)
    with open_reader(address, say=out.say, give_up_after_s=GIVE_UP_S).held_open() as reader:
        yield Desk(address, preset.flow if preset is not None else "", reader, out)
