"""2-Wasserstein distance between Gaussians fitted to all points of the two sides."""

from collections.abc import Mapping

from torch import Tensor

from orca_ray.alignment.distance import Distance
from orca_ray.alignment.entropic import Ledger
from orca_ray.alignment.inner import GaussianLabels


class Bures(Distance):
    """‖m − m'‖² + tr S + tr S' − 2 tr (S^½ S' S^½)^½, blind to labels.

    m and S are the mean and the covariance of all points of a side (divided by their number). It sees first and second
    moments only, in the units of squared features (Dowson & Landau 1982). Closed form, and so is the gradient: the
    polar factor of the product of the sides' factors, of minimum norm where they have fewer points than features. The
    source is kept as at most D rows: O(N D²) once; a call costs O(n D²), an eigendecomposition of size min(n, D).
    """

    name = "bures"
    degree = 2

    def __init__(self) -> None:
        super().__init__()
        self._gaussian = GaussianLabels()

    def _source_terms(self, x_ND: Tensor, y_N: Tensor) -> Mapping[str, Tensor]:
        return self._gaussian.source_terms([x_ND - x_ND.mean(0)], Ledger())

    def _prepare(self, x_ND: Tensor, y_N: Tensor, terms: Mapping[str, Tensor]) -> None:
        self._center_D = x_ND.mean(0)
        self._source_side = self._gaussian.restore([x_ND], terms)

    def _distance(self, x_nD: Tensor, y_n: Tensor, shares_L: Tensor) -> Tensor:
        ledger = Ledger()
        target = self._gaussian.summarise([x_nD - self._center_D], ledger)
        return self._gaussian.between(self._source_side, target, ledger).sum()


DISTANCE = Bures
