"""CORAL, with means: distances between the moments of source and target."""

from collections.abc import Mapping

from torch import Tensor

from orca_ray.alignment.distance import Distance


class CORAL(Distance):
    """‖m − m'‖² + ‖C − C'‖² with the means m and (biased) covariances C of all points.

    Labels are ignored. The second term is that of Sun and Saenko, Deep CORAL, 2016,
    arXiv:1607.01719. A call costs O(n D²).
    """

    name = "coral"

    def _prepare(self, x_ND: Tensor, y_N: Tensor, terms: Mapping[str, Tensor]) -> None:
        self._mean_D, self._covariance_DD = _moments(x_ND)

    def _distance(self, x_nD: Tensor, y_n: Tensor, shares_L: Tensor) -> Tensor:
        mean_D, covariance_DD = _moments(x_nD)
        means = (mean_D - self._mean_D).square().sum()
        covariances = (covariance_DD - self._covariance_DD).square().sum()
        return means + covariances


def _moments(x_nD: Tensor) -> tuple[Tensor, Tensor]:
    mean_D = x_nD.mean(0)
    centred_nD = x_nD - mean_D
    return mean_D, centred_nD.T @ centred_nD / len(x_nD)


DISTANCE = CORAL
