"""Who the current task is: the identity under which its checkpoints are kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from ckpt_async import TaskIdentity, json_hash, short_hash

__all__ = ["TAG_PREFIX", "current_identity", "identifier_of", "node_of_gang", "scope_of"]

TAG_PREFIX = "checkpoint:"

_HASH_CHARS = 12


def scope_of(tags: Iterable[str], namespace: str) -> str:
    """Return the scope: of the run's tag ``checkpoint:<x>`` where it has one (of several, the first by name), else of the
    namespace.
    """
    marked = sorted(tag for tag in tags if tag.startswith(TAG_PREFIX))
    return short_hash(marked[0].removeprefix(TAG_PREFIX) if marked else namespace)


def identifier_of(step: str, foreach_stack: Sequence[Sequence[Any]] | None, *, gang: bool = False) -> str:
    """Return the task identifier: the same for the same task of another run.

    Parameters
    ----------
    step : str
        The name of the step.
    foreach_stack : sequence of (index, number of splits, value), or None
        Of the task; None or empty outside any foreach.
    gang : bool
        A node of a ``@parallel`` gang: all its nodes share one identifier.
    """
    stack = list(foreach_stack or ())
    if gang:
        parts = [_hash_of_frame(frame) for frame in stack[:-1]]
        parts += [json_hash(0), json_hash(json_hash("parallel-task-entropy"))]
    elif stack:
        parts = [_hash_of_frame(frame) for frame in stack]
        parts.append(json_hash(json_hash("foreach-task-entropy")))
    else:
        return json_hash(step)[:_HASH_CHARS]
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:_HASH_CHARS]


def _hash_of_frame(frame: Sequence[Any]) -> str:
    index, _, value = frame[:3]
    try:
        return json_hash(value)
    except (TypeError, ValueError, RecursionError):
        # A value that JSON can't hold has no text that is the same in every process; its place in the list is.
        return json_hash({"foreach-index": index})


def current_identity(flow: Any, *, attempt: int, parallel: bool, control: bool) -> TaskIdentity:
    """Return the identity of the task that this process runs.

    Parameters
    ----------
    flow : FlowSpec
        As a hook of a decorator gets it, its foreach stack being set.
    attempt : int
        Of the task, from 0.
    parallel, control : bool
        The step is a ``@parallel`` one; the task is its control task. A gang keeps its checkpoints under the control task.
    """
    from metaflow import current, get_namespace

    task = current.task_id
    if parallel and not control:
        # Older versions of Metaflow don't tell the workers who controls them; then each is a task of its own.
        control_task = current.parallel.control_task_id
        parallel, task = (True, control_task) if control_task else (False, task)
    return TaskIdentity(
        flow=current.flow_name,
        run=current.run_id,
        step=current.step_name,
        task=task,
        attempt=attempt,
        # The tags that the run was started with: at hand in the task, while asking for the run would cost a request.
        scope=scope_of(current.tags or (), get_namespace() or current.namespace),
        task_identifier=identifier_of(current.step_name, flow.foreach_stack(), gang=parallel),
    )


def node_of_gang(flow: Any, *, parallel: bool, control: bool) -> tuple[int, int]:
    """Return the index of this node and the number of nodes; ``(0, 1)`` outside of a gang, and where the node is a task of its own
    (see `current_identity`): its parts could never come together with those of the others.

    The control task asks before Metaflow has started the others, when only the flow knows how many they will be.
    """
    from metaflow import current

    from .output import say

    if not parallel:
        return 0, 1
    if control:
        return 0, int(flow._parallel_ubf_iter.num_parallel)
    if not current.parallel.control_task_id:
        say(
            f"Metaflow does not tell node {current.parallel.node_index} the control task of its gang. It saves under a task of its "
            "own, and group saves of this gang never become whole: don't use save(group=True) here, or upgrade Metaflow."
        )
        return 0, 1
    return int(current.parallel.node_index), int(current.parallel.num_nodes)
