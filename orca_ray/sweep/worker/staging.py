"""Staging of a task on one node, and the interface of stagers.

To stage a task is to bring its data, bodies and sources to a node (`staging_items`).
Stagers stage the tasks of a sweep on the nodes that run trials.
"""

import logging
import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from orca_ray.data import cache
from orca_ray.data.prepared import PreparedData
from orca_ray.errors import UserError
from orca_ray.process import noting_progress
from orca_ray.sweep.messages.causes import StagingError
from orca_ray.sweep.worker.staging_items import Item, SharedFolder, StagingRequest
from orca_ray.tasks.registry import get_task, is_own

logger = logging.getLogger(__name__)


_staged: set[tuple[Path, StagingRequest]] = (
    set()
)  # cache directory and request of what this process has staged


def stage(
    request: StagingRequest,
    staging: str | None,
    progress: Callable[[str], None] = logger.info,
) -> str:
    """Stage data, bodies and sources on this node; return the data's fingerprint.

    Each item is staged once per node: one process works on it under a lock, and other
    processes wait. An item that is present with the right hash is used. Otherwise, it
    is copied from the shared folder ``staging`` (a URI). If it is not there either, it
    is fetched and prepared from its origin, and published in the shared folder.

    Raises StagingError if this node can get an item neither from the shared folder nor
    from its origin, or gets it with another hash or fingerprint than required.
    """
    try:
        shared = SharedFolder(staging) if staging else None
        for item in request.items():
            with cache.lock(
                cache.home() / "staged" / item.name.replace("/", "+"), item.name
            ):
                _stage_item(item, shared, progress)
        data = get_task(request.task).prepared(request.protocol)
    except (UserError, OSError) as error:
        raise StagingError(
            f"{request.task} on node {platform.node()}: {error}"
        ) from error
    if data is None:
        raise StagingError(
            f"{request.task} on node {platform.node()}: prepared data are gone: another"
            " process removed"
        )
    return data.fingerprint


def staged_data(request: StagingRequest, staging: str | None) -> PreparedData:
    """Return a trial's prepared data.

    They are staged first, unless this process has staged them before. Raises
    StagingError.
    """
    staged_key = (cache.home(), request)
    for _ in range(
        2
    ):  # twice, since files may have been removed or replaced since they were staged
        if staged_key not in _staged:
            with noting_progress():
                stage(request, staging)
            _staged.add(staged_key)
        try:
            data = get_task(request.task).prepared(request.protocol)
        except UserError:
            if not is_own(request.task):
                raise
            data = None  # the declaration of an own task was removed with its data
        if data is not None and data.fingerprint == request.fingerprint:
            return data
        _staged.discard(staged_key)
    raise StagingError(
        f"{request.task} on node {platform.node()}: its data are removed or replaced"
        " again and again"
    )


def _stage_item(
    item: Item, shared: SharedFolder | None, progress: Callable[[str], None]
) -> None:
    """Get an item from the shared folder, else from its origin, and publish it.

    Raises UserError if the fetched item is not the one that the sweep was planned with.
    """
    was_made = False
    if not item.present():
        if shared is not None:
            item.bring(shared, progress)
        if not item.present():
            progress(f"{platform.node()}: preparing {item.name}")
            item.make(progress)
            was_made = True
            if not item.present():
                wanted = f"what the sweep was planned with{item.advice}"
                raise UserError(f"{item.name}, fetched again, are still not {wanted}")
    if shared is not None:
        try:
            item.publish(shared, replace=was_made)
        except (UserError, OSError) as error:
            progress(f"{item.name} cannot be published in {shared.name}: {error}")


class Staged(NamedTuple):
    """Result of staging one task: the fingerprint of its data, or an error."""

    task: str
    fingerprint: str = ""
    """Fingerprint of the prepared data."""
    error: str = ""
    """Why the task cannot be staged; "" if it is staged."""


def staged(
    request: StagingRequest, staging: str | None, progress: Callable[[str], None]
) -> Staged:
    """Stage a task on this node by `stage`, and return the result.

    The result has the fingerprint of the data, or an error, which is not raised.
    """
    try:
        return Staged(request.task, stage(request, staging, progress))
    except StagingError as error:
        return Staged(request.task, error=str(error))
    except Exception as error:
        logger.exception("%s cannot be staged", request.task)
        return Staged(
            request.task, error=f"{request.task}: {type(error).__name__}: {error}"
        )


class Stager(ABC):
    """Base class of stagers, which stage the tasks of a sweep.

    One thread of the driver uses a stager.
    """

    def __init__(self, requests: Sequence[StagingRequest]) -> None:
        self._unresolved = {request.task for request in requests}
        self._kept: list[Staged] = []
        self.interrupted = False
        """Whether `first` must return now; another thread may set it."""

    def first(self) -> list[Staged]:
        """Wait until a task is staged or all tasks have failed.

        Return the results so far. The next `poll` returns them again.
        """
        while (
            self._unresolved
            and all(result.error for result in self._kept)
            and not self.interrupted
        ):
            results = self._poll(idle=True)
            self._unresolved -= {result.task for result in results}
            self._kept += results
            if not results:
                time.sleep(0.1)
        return list(self._kept)

    def poll(self, *, idle: bool = False) -> list[Staged]:
        """Return the results of tasks that were staged or failed since the last call.

        ``idle``: no trial of the staged tasks can start.
        """
        results = [*self._kept, *self._poll(idle=idle)]
        self._kept = []
        self._unresolved -= {result.task for result in results}
        return results

    @abstractmethod
    def _poll(self, *, idle: bool) -> list[Staged]:
        """Return the results of tasks that were staged or failed since the last call.

        Each task is returned once, when the first node has staged it, or when it has
        failed.
        """

    def close(self) -> None:
        """End all processes that the stager started."""
        return


class InlineStager(Stager):
    """Stager that stages tasks one by one in the calling process.

    It stages the next task when no trial of the staged tasks can start.
    """

    def __init__(
        self,
        requests: Sequence[StagingRequest],
        staging: str | None,
        progress: Callable[[str], None],
    ) -> None:
        super().__init__(requests)
        self._waiting = list(requests)
        self._staging = staging
        self._progress = progress

    def _poll(self, *, idle: bool) -> list[Staged]:
        if not (idle and self._waiting):
            return []
        return [staged(self._waiting.pop(0), self._staging, self._progress)]
