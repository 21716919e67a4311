"""2-Wasserstein distance between Gaussians fitted to all points of the two sides."""

from collections.abc import Mapping

from torch import Tensor

from orca_ray.alignment.distance import Distance
from orca_ray.alignment.gaussian import Gaussians


class Bures(Distance):
    """‖m − m'‖² + tr S + tr S' − 2 tr (S^½ S' S^½)^½, blind to labels.

    m and S are the mean and the covariance of all points of a side, divided by their number (Dowson & Landau 1982).
    Value and gradient are in closed form: O(N D²) once; a call costs O(n D²), an eigendecomposition of size min(n, D).
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
