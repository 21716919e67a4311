"""What all faults have in common: when they come and end, and how the disturbed command
may end.
"""

import contextlib
import random
import subprocess
from collections.abc import Collection

from benchmarks.faults.run import Run


class Fault:
    """A fault in a running sweep.

    Subclasses say what happens, and how the disturbed command may end.
    """

    codes: Collection[int] = (0,)
    """Exit codes that the disturbed command may have.

    With 0 among them it may go on, for as long as it takes.
    """
    messages: Collection[str] = ()
    """Texts that the command prints if it ends with another code than 0."""
    options: tuple[str, ...] = ()
    """More options of the disturbed command."""
    early = False
    """Whether the fault comes with the first trial, because it takes long to be felt.
    """
    before_trials = False
    """Whether the fault comes before the first trial, at a place that it knows itself.
    """

    def __init__(self, run: Run, chance: random.Random) -> None:
        """Store the arguments; ``chance`` decides everything that is random."""
        self.run = run
        self.chance = chance

    def prepare(self) -> str:
        """Prepare the surroundings before the first command; return the reason if this
        machine cannot, else "".
        """
        return ""

    def inject(self) -> bool:
        """Make the fault; return False if there is nothing (any more) that it could
        hit.
        """
        raise NotImplementedError

    def relieve(self) -> None:
        """End the fault; called once, after the disturbed command ended or the fault
        has lasted for `lasts`.
        """

    @property
    def lasts(self) -> float:
        """Seconds until `relieve` if the command still runs."""
        return float("inf")

    def problems(self) -> list[str]:
        """Return what went wrong beside the disturbed command; called after it has
        ended.
        """
        return []

    def clean(self) -> None:
        """Remove what `prepare` made, at the end of the run."""


def wait(command: "subprocess.Popen[bytes]", seconds: float) -> int | None:
    """Wait for a process to end, and return the exit code; None if it takes longer."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return command.wait(seconds)
    return None
