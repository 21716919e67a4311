"""Newton's method for entropic transport where Sinkhorn's iterations crawl.

Few points, or classes that hardly see each other, make the plan nearly a matching; alternating updates then move mass
by ever smaller shares. With one side's potentials eliminated, the dual objective is concave in the other's: gradient
a − P 1, Hessian −(diag(P 1) − P diag(1/b) P^T) / eps (Cuturi & Peyré, "Semidual regularized optimal transport", SIAM
Review 60(4), 2018). A step costs O(n² m + n³) for n on the smaller side.

Letters: n points of the smaller side, whose potentials are moved, m of the other.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST = 2048
"""Points of the smaller side up to which a step is quick enough."""
NUM_MATRICES = 8
"""[n, m] that it takes, those of the caller included."""

_STEPS = 40
_HALVINGS = 12
_LARGEST_MOVE = 50.0  # of a potential, in eps
_JITTERS = (1e-15, 1e-12, 1e-9, 1e-6)  # of the diagonal: groups that see nothing of each other make it singular


@dataclass(frozen=True)
class _Point:
    f_n: Tensor
    g_m: Tensor
    """Belongs to f_n: the columns' marginals are exact."""
    plan_nm: Tensor
    gap_n: Tensor
    """What the rows lack."""

    @property
    def objective(self) -> float:
        """The dual's, in eps."""
        return float(self.f_n.mean() + self.g_m.mean())

    @property
    def error(self) -> float:
        """L1 error of the rows' marginals."""
        return float(self.gap_n.abs().sum())


def polish(scaled_nm: Tensor, f_n: Tensor, g_m: Tensor, tolerance: float) -> tuple[Tensor, Tensor, int]:
    """Return better potentials, in eps, and the steps it took.

    Args:
        scaled_nm: costs over eps.
        f_n: potentials over eps to start from.
        g_m: likewise; need not be near.
        tolerance: L1 error of the marginals at which to stop.
    """
    point = _at(scaled_nm, f_n, g_m)
    for step in range(_STEPS):
        if not point.error > tolerance:
            return point.f_n, point.g_m, step
        better = _search(scaled_nm, point, _direction(point))
        if better is None:
            return point.f_n, point.g_m, step
        point = better
    return point.f_n, point.g_m, _STEPS


def _at(scaled_nm: Tensor, f_n: Tensor, g_m: Tensor) -> _Point:
    n, m = scaled_nm.shape
    plan_nm = (f_n[:, None] + g_m - scaled_nm).exp_()
    v_m = n / plan_nm.sum(0)
    plan_nm *= v_m / (n * m)
    return _Point(f_n, g_m + v_m.log(), plan_nm, 1.0 / n - plan_nm.sum(1))


def _direction(point: _Point) -> Tensor:
    n, m = point.plan_nm.shape
    diagonal_n = 1.0 / n - point.gap_n
    # A constant may be added to all potentials: the last term fixes it.
    matrix_nn = torch.diag(diagonal_n) - m * (point.plan_nm @ point.plan_nm.T) + 1.0 / n**2
    for jitter in _JITTERS:
        factor_nn, failed = torch.linalg.cholesky_ex(matrix_nn + torch.diag(diagonal_n.abs() * jitter + 1e-300))
        if not bool(failed):
            break
    else:
        return point.gap_n * n
    move_n = torch.cholesky_solve(point.gap_n[:, None], factor_nn)[:, 0]
    move_n -= move_n.mean()
    return move_n * min(1.0, _LARGEST_MOVE / float(move_n.abs().max()))


def _search(scaled_nm: Tensor, point: _Point, move_n: Tensor) -> _Point | None:
    """Halve the step until the objective gains enough of what its slope promises, or the error halves."""
    slope = float(point.gap_n @ move_n)
    for halvings in range(_HALVINGS):
        share = 0.5**halvings
        tried = _at(scaled_nm, point.f_n + share * move_n, point.g_m)
        if tried.error < 0.5 * point.error or tried.objective - point.objective > 1e-4 * share * slope > 0:
            return tried
    return None
