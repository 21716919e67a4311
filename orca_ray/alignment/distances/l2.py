"""Squared distance between the means of source and target."""

from collections.abc import Mapping

from torch import Tensor

from orca_ray.alignment.distance import Distance


class L2(Distance):
    """Distance ‖mean(source) − mean(target)‖²; labels are ignored.

    A call costs O(n D) for n points of D features. The ORCA reference
    (arXiv:2302.05738) minimises the mean squared distance over all pairs of points
    instead. That is this distance plus both variances, so minimising the reference's
    distance also contracts the target to a point.
    """

    name = "l2"
    degree = 2

    def _prepare(self, x_ND: Tensor, y_N: Tensor, terms: Mapping[str, Tensor]) -> None:
        self._mean_D = x_ND.mean(0)

    def _distance(self, x_nD: Tensor, y_n: Tensor, shares_L: Tensor) -> Tensor:
        gap_D = x_nD.mean(0) - self._mean_D
        return gap_D @ gap_D


DISTANCE = L2
