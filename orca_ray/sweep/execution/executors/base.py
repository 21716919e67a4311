"""The interface of executors, which run the trials of a sweep in this process or on a cluster."""

from abc import ABC, abstractmethod

from orca_ray.sweep.execution.conductor import Conductor
from orca_ray.sweep.planning.searches import NodeResources


class Executor(ABC):
    """Runs the trials that a `Conductor` chooses, and reports their progress to it.

    Use it as a context manager in one thread: call ``open`` once, then ``run`` once. Leaving the context ends all
    processes that the executor started, even after an exception or Ctrl-C.
    """

    where: str = ""
    """Where trials run, for users, e.g. "Ray cluster at 10.0.0.1:6379, 3 node(s), ..."; ``open`` sets it."""

    @abstractmethod
    def open(self, address: str | None) -> list[NodeResources]:
        """Join the cluster at ``address``, or start one if it is None, and return its nodes.

        Raises:
            UserError: the cluster cannot be reached.
        """

    @abstractmethod
    def run(self, conductor: Conductor, checkpoint_seconds: float) -> bool:
        """Run trials until the conductor is done, and return whether the user interrupted the run before that."""

    def close(self) -> None:
        """End all processes that this executor started."""
        return

    def __enter__(self) -> "Executor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
