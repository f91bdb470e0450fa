"""The step decorator `@checkpoint`: Metaflow's hooks, and nothing else. What they do is in `session`.

It is imported with Metaflow, also by remote tasks of flows without `@checkpoint`, which don't have the engine: so nothing of that
is imported here but inside functions.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from metaflow.decorators import StepDecorator
from metaflow.flowspec import INTERNAL_ARTIFACTS_SET

from .names import CARD_ID, DEFAULTS, LATEST, S3_OPTIONS, TASK_CHECKPOINTS

if TYPE_CHECKING:
    from .attributes import CheckpointAttributes
    from .session import TaskSession

__all__ = ["CheckpointDecorator"]


class CheckpointDecorator(StepDecorator):  # type: ignore[misc]
    """
    Saves checkpoints of a running step, and loads the newest one when the step is retried.

    With `async_upload=True`, `current.checkpoint.save()` returns as soon as the files are safe on local disk, and they are uploaded
    while the step goes on. When the step ends, in whatever way, everything saved is stored before the task ends.

    ```
    @checkpoint(async_upload=True)
    @retry
    @step
    def train(self):
        path = os.path.join(current.checkpoint.directory, "model.pt")
        if current.checkpoint.is_loaded:
            self.model.load(path)
        for epoch in range(100):
            ...
            self.model.write(path)
            self.newest = current.checkpoint.save(metadata={"epoch": epoch})
        self.next(self.end)
    ```

    Parameters
    ----------
    load_policy : str, optional, default "fresh"
        What is loaded when the step begins: "fresh", the newest checkpoint of the same task, saved by an earlier attempt;
        "eager", likewise, else the newest one of the same step of another run in the namespace; "none" or None, nothing.
    strict : bool, default False
        What happens where the newest checkpoint turns out damaged: False, the newest one that is whole is loaded, and that is
        said; True, the attempt fails.
    temp_dir_root : str, optional, default None
        The folder in which the checkpoint directory is made. Default: the system's folder for temporary files.
    show_card : bool, default True
        Whether a card shows the checkpoints. A task that neither loaded nor saved one has none.
    async_upload : bool, default False
        Whether `save()` returns before the checkpoint is in the datastore.
    worker : str, default "process"
        Where uploads run: "process", in a process beside the task; "thread", in a thread of the task.
    snapshot : str, default "auto"
        How `save()` takes the files: "auto", guarded links where they can be had, else copies; "copy", never links; "link", refuses
        a save in which a file of 256 KiB or more can't be linked.
    max_pending : int, default 16
        How many saves may wait for their upload on local disk.
    max_pending_bytes : int or str, optional, default None
        How many bytes may wait, for example "20GB". Default: free disk is the limit.
    max_lag : float, optional, default None
        How many seconds of progress may be at risk: `save()` waits while the oldest save that is not in the datastore is older.
    on_full : str, default "block"
        What `save()` does when that many wait: "block", it waits; "drop_oldest", it gives up the oldest one whose upload has not
        begun and which a later save of the same name replaces; "raise", it raises SaveRefused.
    max_bandwidth : int or str, optional, default None
        How many bytes per second uploads take at most, for example "200MB". Default: no cap.
    flush_timeout : float, default 3600
        How many seconds the end of the step waits for uploads.
    spool_dir : str, optional, default None
        The folder in which a private one is made for saves that wait. Default: beside the checkpoint directory.
    durability : str, default "process"
        What a save survives before it is in the datastore: "process", the death of every process; "machine", also a crash of the
        machine, once its `durable` says so.
    keep_local : int, default 0
        How many of the newest stored saves also stay on local disk, so that a retry on the same machine need not load them from the
        datastore. They take the room of as many checkpoints until the task has ended well, or `save()` needs it.
    keep_last : int, optional, default None
        How many of the newest checkpoints stay in the datastore, of each name. Without any of the `keep_` rules all stay.
        What any of them keeps stays, and so do the one that a retry begins with and what is pinned.
    keep_best : str, optional, default None
        Those with the best values of a number in their metadata: "loss:min", "accuracy:max:3", several separated by commas.
    keep_every : int or str, optional, default None
        Every so manieth save, for example 10, or the first of each period, for example "1h".
    on_event : str or function, optional, default None
        "module:function", or a function of the flow's file: called with each event of the engine, in a thread of it.
    watch : bool or str, default False
        Whether what is written into the checkpoint directory becomes a checkpoint by itself each time that it is complete; implies
        `async_upload`. A path, such as "/opt/ml/checkpoints", is where a writer that can't be told of the directory finds it: it
        must be missing or an empty folder, and is a symbolic link while the step runs.
    watch_quiet : float, default 2
        How many seconds nothing may have changed there, so that it counts as complete.
    watch_max_wait : float, default 60
        How many seconds something may stay incomplete before that is said; how long a missing marker is waited for, and, at the end
        of the step, what is still being written.
    watch_marker : str or list, optional, default None
        Patterns of the files that say that their folder is complete. Without one it is so only after `watch_max_wait` then.
        Default: the usual ones (".metadata", "_SUCCESS", "*.done", ...) are honoured where they are.
    watch_ignore : str or list, optional, default None
        Patterns of what makes no checkpoint and keeps none back, such as a log; it is saved along. Beside those that are known.
    watch_temporary : str or list, optional, default None
        Patterns of what is never saved, beside the usual ones ("*.tmp", "*.part", ...).
    s3_options : dict or str, optional, default None
        What the server is asked for where the datastore is S3, for example "checksums:md5,requester_pays:true". Default: what it
        can do is found out.

    MF Add To Current
    -----------------
    checkpoint -> metaflow_extensions.ckpt_async.plugins.checkpoint.current.CurrentCheckpoint
        Saves, lists and loads the checkpoints of the running task.

        @@ Returns
        -------
        CurrentCheckpoint
            `directory`, `is_loaded`, `info`, `save()`, `list()`, `load()`, `delete()`, `pin()`, `flush()`, `pending`, `stats`
    """

    name = "checkpoint"
    defaults = DEFAULTS
    attributes: dict[str, Any]

    def __init__(self, attributes: dict[str, Any] | None = None, statically_defined: bool = False, inserted_by: Any = None) -> None:
        # Unknown attributes are kept for `init`: refused there, they end in a message instead of a trace of the import of the flow.
        given = dict(attributes or {})
        self._unknown = {key: given.pop(key) for key in list(given) if key not in self.defaults and not key.startswith("_unpacked")}
        super().__init__(given, statically_defined, inserted_by)
        self._checked: CheckpointAttributes | None = None
        self._session: TaskSession | None = None
        self._flow_datastore: Any = None

    def init(self) -> None:
        """Check the attributes: once, before any hook, in the launching process and in the task."""
        from .attributes import check_environment, read_attributes

        check_environment(os.environ)
        self._checked = read_attributes({**self.attributes, **self._unknown})
        self.attributes = self._checked.to_attributes()

    def add_to_package(self) -> Iterable[tuple[str, str]]:
        """Have the engine travel in the code package, so that remote tasks can import it."""
        from ckpt_async import files_to_carry

        return files_to_carry()

    def step_init(
        self, flow: Any, graph: Any, step_name: str, decorators: Any, environment: Any, flow_datastore: Any, logger: Any
    ) -> None:
        """Refuse a datastore that can't hold checkpoints, and add the card."""
        from .store import address_of_datastore

        self._flow_datastore = flow_datastore
        address_of_datastore(flow_datastore)
        # Without this, `merge_artifacts` in a join would stumble over them.
        INTERNAL_ARTIFACTS_SET.update((TASK_CHECKPOINTS, LATEST))
        if self._attributes.show_card:
            _attach_card(flow, step_name)

    def task_pre_step(
        self,
        step_name: str,
        task_datastore: Any,
        metadata: Any,
        run_id: str,
        task_id: str,
        flow: Any,
        graph: Any,
        retry_count: int,
        max_user_code_retries: int,
        ubf_context: Any,
        inputs: Any,
    ) -> None:
        """Open the session and load, so that `current.checkpoint` is there for the step and for other decorators."""
        from metaflow import current
        from metaflow.unbounded_foreach import UBF_CONTROL

        from .artifact_store import metadata_fields
        from .artifacts import newest_in_store, store_artifacts
        from .directory import remove_directories_of_dead_attempts
        from .environment import TaskPlace
        from .gang import node_fields
        from .lineage import loaded_fields
        from .output import say
        from .scope import current_identity, node_of_gang
        from .session import TaskSession
        from .store import address_of_datastore, artifact_store_of, scratch_root

        if self._attributes.s3_options is not None:
            # For the process that uploads, and for child processes of the step.
            os.environ[S3_OPTIONS] = self._attributes.s3_options
        parallel = bool(graph[step_name].parallel_step)
        control = ubf_context == UBF_CONTROL
        identity = current_identity(flow, attempt=retry_count, parallel=parallel, control=control)
        address = address_of_datastore(self._flow_datastore)
        if (other := artifact_store_of(self._flow_datastore)) is not None:
            _register(metadata, (run_id, step_name, task_id), retry_count, "mf-checkpoint-artifact-store", metadata_fields(other))
        if identity.task != task_id:
            _register(metadata, (run_id, step_name, task_id), retry_count, "checkpoint", node_fields(identity.pathspec))
        node_index, num_nodes = node_of_gang(flow, parallel=parallel, control=control)
        # An attempt in which @catch steps in for the step runs none of the user's code: nothing to load, nothing to save.
        if retry_count > max_user_code_retries:
            remove_directories_of_dead_attempts(self._attributes.temp_dir_root, identity, node_index)
            store_artifacts(flow, [], newest_in_store(address, identity.pathspec, say))
            return
        scratch = scratch_root(self._attributes.settings.spool_dir, self._attributes.temp_dir_root)
        place = TaskPlace(address, scratch, node_index, num_nodes)
        with_card = self._attributes.show_card and node_index == 0
        self._session = TaskSession(
            flow,
            identity,
            place,
            self._attributes,
            with_card=with_card,
            leave_out_card=functools.partial(_leave_out_card, getattr(flow, step_name)),
            last_attempt=retry_count >= max_user_code_retries,
        )
        current._update_env({"checkpoint": self._session.current})
        if self._session.loaded is not None:
            _register(metadata, (run_id, step_name, task_id), retry_count, "checkpoint", loaded_fields(self._session.loaded))

    def task_decorate(
        self, step_func: Any, flow: Any, graph: Any, retry_count: int, max_user_code_retries: int, ubf_context: Any
    ) -> Callable[..., Any]:
        """Put the session around the step: the one place that sees every kind of exit."""
        session = self._session
        if session is None:
            return step_func  # type: ignore[no-any-return]

        @functools.wraps(step_func)
        def with_checkpoints(*args: Any, **kwargs: Any) -> Any:
            return session.run(step_func, args, kwargs)

        return with_checkpoints

    def task_post_step(self, step_name: str, flow: Any, graph: Any, retry_count: int, max_user_code_retries: int) -> None:
        """End a session that the step never reached."""
        if self._session is not None:
            self._session.end_unused(None)

    def task_exception(
        self, exception: BaseException, step_name: str, flow: Any, graph: Any, retry_count: int, max_user_code_retries: int
    ) -> bool:
        """End a session that the step never reached. Raises nothing: hooks of other decorators (`@catch`) follow."""
        if self._session is not None:
            self._session.end_unused(exception)
        return False

    @property
    def _attributes(self) -> CheckpointAttributes:
        assert self._checked is not None, "Metaflow calls init() before any hook"
        return self._checked


def _attach_card(flow: Any, step_name: str) -> None:
    """Add the card's decorator to the step, unless it has it. To be called in ``step_init``."""
    from metaflow.decorators import _attach_decorators_to_step

    for step in flow:
        if step.name != step_name:
            continue
        if any(_is_our_card(deco) for deco in step.decorators):
            return
        _attach_decorators_to_step(step, [f"card:type=blank,id={CARD_ID},refresh_interval=2"])


def _leave_out_card(step: Any) -> None:
    """Have Metaflow make no card of ours for a step that has ended; other cards are made."""
    for deco in step.decorators:
        if _is_our_card(deco):
            # All of it but the making of the card, for which Metaflow has no switch.
            deco.card_creator = _NoCreator()


def _is_our_card(deco: Any) -> bool:
    return bool(deco.name == "card" and deco.attributes.get("id") == CARD_ID)


class _NoCreator:
    def create(self, **_: object) -> None:
        """Do nothing."""


def _register(metadata: Any, task: tuple[str, str, str], attempt: int, kind: str, fields: Mapping[str, str]) -> None:
    """Write metadata of one attempt of a task (run, step, task)."""
    from metaflow.metadata_provider import MetaDatum

    tags = [f"attempt_id:{attempt}"]
    metadata.register_metadata(*task, [MetaDatum(field=name, value=value, type=kind, tags=tags) for name, value in fields.items()])
