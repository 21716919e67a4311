"""Squared 2-Wasserstein distance between one Gaussian fitted to the source and one fitted to the target."""

from collections.abc import Mapping

from torch import Tensor

from orca_ray.alignment.cost import Gaussians
from orca_ray.alignment.distance import Distance


class Bures(Distance):
    """Distance ‖m − m'‖² + tr S + tr S' − 2 tr (S^½ S' S^½)^½ (Dowson & Landau 1982); labels are ignored.

    m, S and m', S' are the mean and the (biased) covariance of all points of source and target. Value and gradient are
    in closed form. `fit` costs O(N D²); a call costs O(n D²) and an eigendecomposition of size min(n, D).
    """

    name = "bures"
    version = 2
    degree = 2

    def _source_terms(self, x_ND: Tensor, y_N: Tensor) -> Mapping[str, Tensor]:
        return Gaussians.of([x_ND - x_ND.mean(0)]).terms()

    def _prepare(self, x_ND: Tensor, y_N: Tensor, terms: Mapping[str, Tensor]) -> None:
        self._center_D = x_ND.mean(0)
        self._gaussian = Gaussians.from_terms(terms, x_ND)

    def _distance(self, x_nD: Tensor, y_n: Tensor, shares_L: Tensor) -> Tensor:
        return self._gaussian.distances(Gaussians.of([x_nD - self._center_D])).sum()


DISTANCE = Bures
