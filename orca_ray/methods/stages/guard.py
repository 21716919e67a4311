"""The guard of `orca_guarded`: chooses, along the path of aligning, the embedder that refining starts from."""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from orca_ray.training.probe import ProbePoint

POINTS = (0.0, 0.25, 1.0)
"""Shares of the align schedule after which the embedder is probed. More would cost more than 15 % of a short trial."""
MARGIN = 2.0
"""An embedder is chosen if its error is lower by this many standard errors of the paired difference."""


class Guard:
    """Probes the embedder at `POINTS` and keeps the weights of the choice.

    The first choice is the embedder before aligning. A later one replaces the present choice if its mean error over the
    probed samples is lower by more than `MARGIN` standard errors of the difference, which noise alone seldom causes. So
    aligning is discarded unless it clearly lowers the error (``docs/decisions/0012-guarded.md`` has measurements).
    """

    def __init__(self, embedder: nn.Module, probe: Callable[[], Tensor]) -> None:
        """Guard ``embedder``; ``probe()`` returns the errors [n] of its present weights, for the same samples."""
        self._embedder, self._probe = embedder, probe
        self._passed = 0
        self._errors_n: Tensor | None = None
        self._weights: dict[str, Tensor] = {}
        self.chosen = 0
        """Align epoch of the choice; 0: before aligning."""
        self.points: tuple[ProbePoint, ...] = ()

    @property
    def done(self) -> bool:
        """Whether all points have been probed."""
        return self._passed == len(POINTS)

    def due(self, progress: float) -> bool:
        """Return whether a probe is due at this share of the schedule; a plateau may skip points."""
        return bisect_right(POINTS, progress) > self._passed

    def step(self, progress: float, epoch: int) -> ProbePoint:
        """Probe the embedder as it is after ``epoch`` epochs, and choose it if it is better than the present choice."""
        errors_n = self._probe()
        if self._errors_n is None or _is_lower(errors_n, self._errors_n):
            self.chosen, self._errors_n = epoch, errors_n
            self._weights = {name: value.to("cpu", copy=True) for name, value in self._embedder.state_dict().items()}
        self._passed = bisect_right(POINTS, progress)
        point = ProbePoint(epoch, float(errors_n.mean()))
        self.points = (*self.points, point)
        return point

    def load_choice(self) -> None:
        """Load the chosen weights into the embedder."""
        self._embedder.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for an exact resume."""
        points = [(point.epoch, point.error) for point in self.points]
        state = {"passed": self._passed, "chosen": self.chosen, "errors": self._errors_n, "points": points}
        return state | {"weights": self._weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where the guard that returned ``state`` was."""
        self._passed, self.chosen, self._errors_n = state["passed"], state["chosen"], state["errors"]
        self._weights, self.points = state["weights"], tuple(ProbePoint(*point) for point in state["points"])


def _is_lower(errors_n: Tensor, than_n: Tensor) -> bool:
    difference_n = than_n - errors_n
    noise = float(difference_n.std(correction=0)) / math.sqrt(len(difference_n))
    return float(difference_n.mean()) > MARGIN * noise
