"""The cause of a failure that Ray reports instead of the trial's worker."""

from collections.abc import Callable

from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

from orca_ray.sweep.execution.failures import CAUSES, Cause, Failure, bounded
from orca_ray.sweep.execution.trial_runner import classify

_MEMORY_MONITOR = ("running low on memory", "OutOfMemoryError", "NODE_OUT_OF_MEMORY")
"""Parts of messages about a worker that Ray's memory monitor killed. Those about any dead worker mention the kernel's
OOM killer, as one of several possible reasons."""


def failure_of(error: Exception | None, text: str, node: str = "") -> Failure:
    """Return the failure that ended a trial on the node with the id ``node``.

    ``error`` is Ray's exception, or None if only its ``text`` is known.
    """
    text = text or str(error or "no message from Ray")
    cause = next(cause for applies, cause in _SIGNS if applies(error, text))
    if cause is None:  # an exception in the worker, outside of the trial
        raised = getattr(error, "cause", None)
        cause = CAUSES[classify(raised)] if isinstance(raised, Exception) else Cause.CODE
    return Failure(cause, bounded(text.strip()), node)


def _preempted(error: Exception | None, text: str) -> bool:
    return isinstance(error, RayActorError) and bool(error.preempted)


def _out_of_memory(error: Exception | None, text: str) -> bool:
    return isinstance(error, OutOfMemoryError) or any(sign in text for sign in _MEMORY_MONITOR)


def _raised(error: Exception | None, text: str) -> bool:
    if isinstance(error, RayActorError):
        return bool(error.actor_init_failed)
    return isinstance(error, RayTaskError) and not isinstance(error.cause, RayActorError)


_SIGNS: tuple[tuple[Callable[[Exception | None, str], bool], Cause | None], ...] = (
    (_preempted, Cause.PREEMPTED),
    (_raised, None),
    (_out_of_memory, Cause.MEMORY),
    (lambda error, text: True, Cause.LOST),
)
