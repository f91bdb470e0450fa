"""Metrics of checkpoints for OpenTelemetry: counted by events, and looked at when they are exported."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from ckpt_async.words.errors import InvalidArgument
from ckpt_async.words.events import CheckpointPruned, EntryCommitted, EntryDropped, EntryFailed, EntrySaved, SaveReturned

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation

    from ckpt_async.reference import Pending

__all__ = ["record_metrics"]

SCOPE = "ckpt_async"


class _Checkpoint(Protocol):
    """What is needed of `current.checkpoint`, or of a `ckpt_async.Checkpointer`."""

    @property
    def pending(self) -> Pending: ...

    def add_listener(self, callback: Callable[[object], None]) -> None: ...


def record_metrics(
    checkpoint: _Checkpoint,
    *,
    meter_provider: MeterProvider | None = None,
    attributes: Mapping[str, str | bool | int | float] | None = None,
) -> None:
    """Record metrics of the saves of a task from now on, until it has ended. One line at the beginning of a step.

    A ``save()`` counts three numbers, and no exporter holds it up. What is pending is looked at when the metrics are exported.
    Without a meter provider of yours nothing is recorded, as OpenTelemetry has it.

    Parameters
    ----------
    checkpoint : current.checkpoint or Checkpointer
        Whose saves.
    meter_provider : MeterProvider, optional
        Default: the global one.
    attributes : mapping, optional
        Of every measurement, for example of the flow and the run.

    Raises
    ------
    InvalidArgument
        The package ``opentelemetry-api`` is not installed.
    """
    try:
        from opentelemetry import metrics
    except ImportError as error:
        raise InvalidArgument(
            "record metrics", cause=str(error), hint="Install ckpt-async[otel], in the image of a remote task too."
        ) from error
    from ckpt_async import __version__

    said = dict(attributes or {})
    meter = metrics.get_meter(SCOPE, __version__, meter_provider=meter_provider)
    _observe_pending(meter, checkpoint, said, metrics.Observation)
    checkpoint.add_listener(_Counting(meter, said))


class _Counting:
    """A listener that counts."""

    def __init__(self, meter: Meter, attributes: dict[str, Any]) -> None:
        self._attributes = attributes

        def counter(name: str, unit: str, description: str) -> Callable[..., None]:
            return meter.create_counter(f"{SCOPE}.{name}", unit, description).add

        self._saves = counter("save.count", "{save}", "Saves that were taken.")
        self._size = counter("save.size", "By", "Bytes that were taken by save().")
        self._blocked = meter.create_histogram(f"{SCOPE}.save.duration", "s", "Time that a save() held the training up.").record
        self._dropped = counter("save.dropped", "{save}", "Saves that were given up for a later one.")
        self._failures = counter("upload.failures", "{failure}", "Uploads that the store refused, or that were lost.")
        self._committed = counter("upload.count", "{save}", "Saves that were stored, also those that earlier attempts left.")
        self._sent = counter("upload.sent", "By", "Bytes that went over the line.")
        self._copied = counter("upload.copied", "By", "Bytes that the store copied, because they had not changed.")
        self._upload = meter.create_histogram(
            f"{SCOPE}.upload.duration", "s", "Time from the start of an upload to its end."
        ).record
        self._pruned = counter("checkpoint.pruned", "{checkpoint}", "Checkpoints that were deleted by the rules.")

    def __call__(self, event: object) -> None:
        said = self._attributes
        if isinstance(event, EntrySaved):
            self._saves(1, said)
            self._size(event.size_bytes, said)
        elif isinstance(event, SaveReturned):
            self._blocked(event.blocked_s, said)
        elif isinstance(event, EntryCommitted):
            self._committed(1, said)
            self._sent(event.sent_bytes, said)
            self._copied(event.copied_bytes, said)
            self._upload(event.seconds, said)
        elif isinstance(event, EntryFailed):
            self._failures(1, said)
        elif isinstance(event, EntryDropped):
            self._dropped(1, said)
        elif isinstance(event, CheckpointPruned) and event.deleted:
            self._pruned(1, said)


def _observe_pending(
    meter: Meter, checkpoint: _Checkpoint, attributes: dict[str, Any], observation: Callable[..., Observation]
) -> None:
    # Instruments live as long as the process; what they look at need not.
    known = weakref.ref(checkpoint)

    def gauge(name: str, unit: str, description: str, value: Callable[[Pending], float]) -> None:
        def look(_: CallbackOptions) -> Iterable[Observation]:
            found = known()
            return [] if found is None else [observation(value(found.pending), attributes)]

        meter.create_observable_gauge(f"{SCOPE}.pending.{name}", [look], unit, description)

    gauge("count", "{save}", "Saves that are not in the store yet.", lambda pending: pending.saves)
    gauge("size", "By", "Bytes that the store does not have yet.", lambda pending: pending.size_bytes)
    gauge(
        "lag",
        "s",
        "Age of the oldest save that is not in the store yet.",
        lambda pending: pending.lag_s,
    )
