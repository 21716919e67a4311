"""Squared distance between the means of source and target."""

from collections.abc import Mapping

from torch import Tensor

from orca_ray.alignment.distance import Distance


class L2(Distance):
    """‖mean(source) − mean(target)‖², blind to labels. O(n D) a call.

    The reference minimises the mean squared distance over all pairs. That is this plus the two variances, which make
    the distance of a set from itself positive and pull the target together to a point; subtracting half of each side's
    own pairwise mean, as in an energy distance, leaves exactly this (the reference: ORCA, arXiv:2302.05738).
    """

    name = "l2"
    degree = 2

    def _prepare(self, x_ND: Tensor, y_N: Tensor, terms: Mapping[str, Tensor]) -> None:
        self._mean_D = x_ND.mean(0)

    def _distance(self, x_nD: Tensor, y_n: Tensor, shares_L: Tensor) -> Tensor:
        gap_D = x_nD.mean(0) - self._mean_D
        return gap_D @ gap_D


DISTANCE = L2
