"""Stages the tasks of a sweep, one by one, and says when their trials may start."""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

from orca_ray.sweep.worker.staging.node import StagingError, StagingRequest, stage

logger = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.1


class Staged(NamedTuple):
    """A task whose trials can start, or which cannot be staged."""

    task: str
    fingerprint: str = ""
    """Fingerprint of the prepared data."""
    error: str = ""
    """Why the task cannot be staged; "" if it is."""


def staged(request: StagingRequest, staging: str | None, progress: Callable[[str], None]) -> Staged:
    """Stage a task on this node, see `stage`; an error of one task must not end the others, so none is raised."""
    try:
        return Staged(request.task, stage(request, staging, progress))
    except StagingError as error:
        return Staged(request.task, error=str(error))
    except Exception as error:
        logger.exception("%s cannot be staged", request.task)
        return Staged(request.task, error=f"{request.task}: {type(error).__name__}: {error}")


class Stager(ABC):
    """Stages the tasks of a sweep. Used in one thread of the driver; `close` ends what it started."""

    def __init__(self, requests: Sequence[StagingRequest]) -> None:
        self._unresolved = {request.task for request in requests}
        self._kept: list[Staged] = []
        self.interrupted = False
        """Whether `first` must return now."""

    def first(self) -> list[Staged]:
        """Wait until a task is staged or all have failed; return what is known then, which `poll` returns again."""
        while self._unresolved and all(each.error for each in self._kept) and not self.interrupted:
            found = self._poll(idle=True)
            self._unresolved -= {each.task for each in found}
            self._kept += found
            if not found:
                time.sleep(_PAUSE_SECONDS)
        return list(self._kept)

    def interrupt(self) -> None:
        """Make `first` return now. May be called in another thread."""
        self.interrupted = True

    def poll(self, *, idle: bool = False) -> list[Staged]:
        """Return the tasks that were staged or failed since the last call; ``idle``: no other trial can start."""
        found, self._kept = [*self._kept, *self._poll(idle=idle)], []
        self._unresolved -= {each.task for each in found}
        return found

    @abstractmethod
    def _poll(self, *, idle: bool) -> list[Staged]:
        """Return each task once, when it is staged on a node, or has failed."""

    def close(self) -> None:
        """End all processes that the stager started."""
        return


class InlineStager(Stager):
    """Stages one task after another in the calling process, when no trial of an earlier one is left to start."""

    def __init__(
        self, requests: Sequence[StagingRequest], staging: str | None, progress: Callable[[str], None]
    ) -> None:
        super().__init__(requests)
        self._waiting, self._staging, self._progress = list(requests), staging, progress

    def _poll(self, *, idle: bool) -> list[Staged]:
        if not (idle and self._waiting):
            return []
        request = self._waiting.pop(0)
        return [staged(request, self._staging, self._progress)]
