"""The interface of executors."""

from abc import ABC, abstractmethod

from orca_ray.sweep.execution.conductor import Conductor
from orca_ray.sweep.planning.searches import NodeResources


class Executor(ABC):
    """Runs the trials that the conductor hands out; it decides nothing about them.

    Used as a context manager by one thread: ``open`` once, then ``run`` once. Leaving the context ends everything that
    the executor started, also after an exception or Ctrl-C.
    """

    where: str = ""
    """Description for users, e.g. "Ray cluster at 10.0.0.1:6379, 3 nodes"; set by ``open``."""

    @abstractmethod
    def open(self, address: str | None) -> list[NodeResources]:
        """Join or start the cluster at ``address`` and return its nodes.

        Raises:
            UserError: the cluster cannot be reached.
        """

    @abstractmethod
    def run(self, conductor: Conductor, checkpoint_seconds: float) -> bool:
        """Run until the conductor is done; return True if the user interrupted it."""

    def close(self) -> None:
        """End everything that this executor started."""
        return

    def __enter__(self) -> "Executor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
