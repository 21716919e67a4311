"""What an executor is: it runs the trials that the conductor hands out, somewhere."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from orca_ray.sweep.execution.conductor import Conductor
from orca_ray.sweep.planning.searches import NodeResources


class Executor(ABC):
    """Runs trials; decides nothing about them.

    Used as a context manager by one thread: ``open`` once, then ``run`` once. Leaving the context ends everything the
    executor started, also after an exception or Ctrl-C.
    """

    where: str = ""
    """The place in words, e.g. "Ray cluster at 10.0.0.1:6379, 3 nodes"."""

    @abstractmethod
    def open(self, address: str | None) -> list[NodeResources]:
        """Reach the place where trials will run and return its nodes.

        Raises:
            UserError: it cannot be reached.
        """

    @abstractmethod
    def run(self, conductor: Conductor, checkpoints: Path, checkpoint_seconds: float) -> bool:
        """Run until the conductor is done; return True if the user interrupted it."""

    def close(self) -> None:
        """End what this executor started."""
        return

    def __enter__(self) -> "Executor":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def stopped_early(report: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the last report of a trial into the one that ends it early."""
    return {**report, "done": True, "status": "stopped_early", "error": None}
