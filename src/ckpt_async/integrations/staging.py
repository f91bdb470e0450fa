"""Copies of a state in host memory: tensors inside nested dicts, lists and tuples, taken at one moment, into memory that is used
again.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Any

import torch

from ckpt_async.words.errors import InvalidArgument

__all__ = ["Staging"]

#: What is no container, can't be changed, and can be loaded without executing anything.
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.Size, torch.dtype, torch.device)


class Staging:
    """Host memory for one state at a time.

    Storages are copied whole and once: tensors that share memory (tied weights, views) share it in the copy, and in the file.

    Attributes
    ----------
    size_bytes : int
        Of the tensors that it holds.
    """

    def __init__(self) -> None:
        self._buffers: list[torch.UntypedStorage] = []
        self._copied: dict[tuple[torch.device, int, int], torch.UntypedStorage] = {}
        self._events: list[torch.cuda.Event] = []
        self._streams: set[torch.device] = set()
        self.size_bytes = 0

    def stage(self, state: object) -> Any:
        """Return a copy of `state`, in the memory of the copy before it. It may be read once `wait_copied` has returned.

        Copies from a GPU run in its current stream: what that stream does from now on, such as the next step, comes after them.

        Raises
        ------
        InvalidArgument
            Something in it could not be loaded again with ``torch.load(weights_only=True)``. Nothing was copied.
        """
        _check(state, "state")
        self._copied.clear()
        self._streams.clear()
        copy = self._copy(state)
        del self._buffers[len(self._copied) :]
        self.size_bytes = sum(buffer.nbytes() for buffer in self._buffers)
        self._events = []
        for device in self._streams:
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(device))
            self._events.append(event)
        return copy

    def wait_copied(self) -> None:
        """Wait until the GPU has done the copies."""
        for event in self._events:
            event.synchronize()

    def _copy(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._copy_tensor(value)
        if isinstance(value, dict):
            # A state dict of a module carries more than its items: the versions of its layers.
            copy: Any = value.copy()
            if hasattr(value, "_metadata"):
                copy._metadata = value._metadata.copy()
            for key, item in value.items():
                copy[key] = self._copy(item)
            return copy
        if type(value) in (list, tuple):
            return type(value)(self._copy(item) for item in value)
        return set(value) if type(value) is set else bytearray(value) if type(value) is bytearray else value

    def _copy_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        plain = tensor.detach()
        if plain.layout is not torch.strided or plain.is_quantized or plain.is_conj() or plain.is_neg():
            # Rare ones, which have more to them than a storage: new memory each time.
            copy = plain.resolve_conj().resolve_neg().to("cpu", copy=True)
        else:
            host = self._copy_storage(plain.untyped_storage())
            copy = torch.empty(0, dtype=plain.dtype)
            copy.set_(host, plain.storage_offset(), plain.size(), plain.stride())
        if isinstance(tensor, torch.nn.Parameter):
            return torch.nn.Parameter(copy, requires_grad=tensor.requires_grad)
        return copy

    def _copy_storage(self, storage: torch.UntypedStorage) -> torch.UntypedStorage:
        key = storage.device, storage.data_ptr(), storage.nbytes()
        if key not in self._copied:
            on_gpu = storage.device.type == "cuda"
            host = self._buffer(len(self._copied), storage.nbytes(), pinned=on_gpu)
            host.copy_(storage, non_blocking=on_gpu)
            self._copied[key] = host
            if on_gpu:
                self._streams.add(storage.device)
        return self._copied[key]

    def _buffer(self, number: int, size_bytes: int, *, pinned: bool) -> torch.UntypedStorage:
        """A state has the same storages in the same order each time, so that each finds its buffer again."""
        if number < len(self._buffers):
            old = self._buffers[number]
            if old.nbytes() == size_bytes and old.is_pinned() == pinned:
                return old
        # Pinned memory is what a GPU can copy into by itself.
        new = torch.empty(size_bytes, dtype=torch.uint8, pin_memory=pinned).untyped_storage()
        self._buffers[number : number + 1] = [new]
        return new


def _check(value: Any, where: str) -> None:
    """Refuse what ``torch.load(weights_only=True)`` would refuse: it would be too late then."""
    kind = type(value)
    if kind in (dict, OrderedDict, Counter):
        for key, item in value.items():
            if not _is_plain(key):
                raise _refused(key, f"a key of {where}", "Use text or numbers as keys.")
            _check(item, f"{where}[{key!r}]")
    elif kind in (list, tuple):
        for number, item in enumerate(value):
            _check(item, f"{where}[{number}]")
    elif isinstance(value, torch.Tensor):
        if kind not in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer):
            raise _refused(value, where, "Save the states of sharded models with ckpt_async.integrations.distributed.")
        if value.device.type == "meta":
            raise InvalidArgument("save a state", on=where, cause="it is on the device 'meta': it has no data")
    elif not _is_plain(value) and not (kind is set and all(map(_is_plain, value))) and kind is not bytearray:
        raise _refused(value, where, "Turn it into tensors, numbers, text, or dicts, lists and tuples of these.")


def _is_plain(value: object) -> bool:
    return type(value) in _PLAIN or (type(value) is tuple and all(map(_is_plain, value)))


def _refused(value: object, where: str, hint: str) -> InvalidArgument:
    kind = type(value)
    return InvalidArgument(
        "save a state",
        on=where,
        cause=f"it is a {kind.__module__}.{kind.__qualname__}, which can't be loaded without executing what the file says",
        hint=hint,
    )
