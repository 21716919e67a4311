"""Optimal transport dataset distance: transport between labelled points, with costs that include class distances."""

from collections.abc import Mapping

from torch import Tensor

from orca_ray.alignment.cost import Gaussians
from orca_ray.alignment.distances.sinkhorn import Sinkhorn
from orca_ray.alignment.transport import SolverReport


class OTDD(Sinkhorn):
    """Debiased entropic OTDD (arXiv:2002.02923; debiasing arXiv:1810.08278), with all target classes in one problem.

    Points are (feature, class) pairs. The cost between two points is C = ½‖x − y‖² + ½ W[class of x, class of y], where
    W is the squared 2-Wasserstein distance between the Gaussians fitted to the two classes' points (`Gaussians`).
    Value, eps and solver are those of `Sinkhorn`. The gradient flows through both terms of C.

    The ORCA reference solves one problem per target class and treats W as constant, so labels do not affect its
    gradient. Here labels affect the gradient, because W depends on the target features. Computing W takes about as long
    as the transport if classes have 128 points.
    """

    name = "otdd"
    uses_labels = True

    def _source_labels(self, x_ND: Tensor, y_N: Tensor) -> tuple[Mapping[str, Tensor], Tensor]:
        terms = Gaussians.of(_classes(x_ND, y_N)).terms()
        return terms, Gaussians.from_terms(terms, x_ND).own_distances()

    def _prepare(self, x_ND: Tensor, y_N: Tensor, terms: Mapping[str, Tensor]) -> None:
        super()._prepare(x_ND, y_N, terms)
        self._classes = Gaussians.from_terms(terms, x_ND)

    def _label_distances(self, x_nD: Tensor, y_n: Tensor, report: SolverReport) -> tuple[Tensor, Tensor]:
        parts = _classes(x_nD, y_n)
        if singles := sum(len(part) == 1 for part in parts):
            report.notes.append(
                f"{singles} of {len(parts)} target classes have one sample: they count as points, without spread"
            )
        classes = Gaussians.of(parts)
        return self._classes.distances(classes).T, classes.own_distances()


def _classes(x_nD: Tensor, y_n: Tensor) -> list[Tensor]:
    return [x_nD[y_n == c] for c in range(int(y_n.max()) + 1)]


DISTANCE = OTDD
