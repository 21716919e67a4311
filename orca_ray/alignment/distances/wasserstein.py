"""Exact optimal transport between source and target points, solved by POT."""

from collections.abc import Mapping
from typing import cast

import ot
from torch import Tensor

from orca_ray.alignment import distance
from orca_ray.alignment.cost import half_squared_distances
from orca_ray.alignment.distance import Diagnosis, Distance
from orca_ray.errors import UserError

_MAX_ITERATIONS = 10_000_000
"""Limit of iterations of the network simplex."""
_COPIES = 8
"""Peak memory of a call, in float64 matrices [n, N].

There are four matrices, and the solver takes 25 bytes per pair of points.
"""


class Wasserstein(Distance):
    """½ W₂² of the features: the minimum mean cost ½‖x − y‖² of transport.

    Transport is from target to source; labels are ignored. Without regularisation,
    nothing is to be tuned or debiased. POT's network simplex (Bonneel et al. 2011) runs
    on the CPU in about O(n N (n + N)); with thousands of points, it takes several times
    as long as `otdd`.
    """

    name = "wasserstein"
    version = 2
    degree = 2

    def _prepare(self, x_ND: Tensor, y_N: Tensor, terms: Mapping[str, Tensor]) -> None:
        self._center_D = x_ND.mean(0)
        self._x_ND = x_ND - self._center_D

    def _distance(self, x_nD: Tensor, y_n: Tensor, shares_L: Tensor) -> Tensor:
        """Return the exact transport cost.

        Raises UserError if it takes too much memory.
        """
        # 8 bytes a float64.
        needed_bytes = _COPIES * 8 * len(x_nD) * len(self._x_ND)
        limit = distance.MEMORY_BYTES
        if needed_bytes > limit:
            raise UserError(
                f"the transport between target and source ({len(x_nD)} x"
                f" {len(self._x_ND)} samples) takes {needed_bytes / 1e6:.1f} MB, more"
                f" than the {limit / 1e6:.1f} MB that a call may use; take fewer source"
                " samples (align.source_samples) or fewer target samples"
                " (align.samples_per_class), or align with otdd, l2 or mmd"
            )
        cost_nN = half_squared_distances(x_nD - self._center_D, self._x_ND)
        # The solver ignores cost differences below about 1e-16.
        scale = cost_nN.detach().mean().item()
        if scale == 0:
            scale = 1.0
        solved = ot.solve(cost_nN / scale, max_iter=_MAX_ITERATIONS)
        if solved.status != "Converged":
            note = (
                "the exact transport reached its limit of iterations: take fewer"
                " samples, or distance otdd"
            )
            self.diagnosis = Diagnosis(
                converged=False, iterations=_MAX_ITERATIONS, notes=(note,)
            )
        return cast(Tensor, solved.value) * scale


DISTANCE = Wasserstein
