"""Sinkhorn as the reference runs it: a fixed ladder of temperatures that ends before it has converged.

Letters as in `soft_minima`: n rows (target points), N columns (source points), D features.

The first step at the first temperature and the last one at the last replace both potentials, from the old pair, by
their soft minima; the others, one at each temperature, go half the way (f ← (f + f~) / 2). T of `soft_minima` does not
overflow after them: a half step leaves f_i + g_j − C_ji ≤ e (log N + log n) / 2, and the next temperature is at least
e / 4. After whole steps, and where rounding has the last word, sums are checked.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from orca_ray.alignment import soft_minima
from orca_ray.alignment.cost_matrix import Cost, CostMatrix
from orca_ray.alignment.cumulants import Cumulants

EPSILON = 0.1
"""The last temperature, in units of squared features; the reference's ``entreg``."""


def ladder(squared_diameter: float) -> list[float]:
    """Return the temperatures for a bounding box with diagonal d: d², then d², d²/4, … above EPSILON, then EPSILON."""
    if squared_diameter <= 0:
        return [EPSILON, EPSILON]
    steps = math.ceil(math.log(squared_diameter / EPSILON) / math.log(4.0))
    return [squared_diameter, *(squared_diameter * 0.25**k for k in range(steps)), EPSILON]


def all_steps(temperatures: Sequence[float]) -> list[float]:
    """Return the temperatures of all steps, the whole ones at either end among them."""
    return [temperatures[0], *temperatures, temperatures[-1]]


@dataclass
class Solution:
    """How a ladder ended."""

    f_N: Tensor
    g_n: Tensor
    """Potentials after the last step."""
    _old_f_N: Tensor
    _cost: CostMatrix
    _e: float
    _kernel: soft_minima.Kernel | None

    @property
    def value(self) -> float:
        """Mean f + mean g."""
        return float(self.f_N.mean() + self.g_n.mean())

    def carry(self, x_ND: Tensor, onto_nD: Tensor | None, factor: float, *, coarse: bool = False) -> Tensor:
        """Add ``factor`` P X [n, D] onto a matrix, if any, and return the mean of P's rows [N].

        P_ji is the softmax over i of (f_i − C_ji) / e before the last step. It takes the place of kept costs and of
        what the ladder left; both would be computed again. ``coarse`` as in `soft_minima.carry`.
        """
        if self._kernel is None:
            plans = soft_minima.plans(self._cost, self._old_f_N, self._e)
        else:
            plans = iter([(slice(None), self._kernel.plan(self._old_f_N))])
        mass_N = soft_minima.carry(plans, x_ND, onto_nD, factor, coarse=coarse)
        self._kernel = None
        return mass_N / len(self.g_n)


def solve(
    cost: Cost, temperatures: Sequence[float], start_N: Tensor | None = None, *, spends: bool = False
) -> Solution:
    """Run a ladder.

    Args:
        cost: C.
        temperatures: of the half steps.
        start_N: minus what is added to the cost of each source point. The potentials come out as if it had been, less
            that addition, which is all that it does to f; to g it makes a difference in the first step only.
        spends: the last steps may take the place of kept costs, which would be computed again if needed.
    """
    f_N = cost.block(slice(0, 1))[0].new_zeros(cost.shape[1]) if start_N is None else start_N
    # Small costs are as fast to exponentiate once for all steps at a temperature.
    is_large = math.prod(cost.shape) > soft_minima.BESIDE
    cumulants = Cumulants.of(cost, temperatures[0], tolerances(temperatures, f_N.dtype)[0]) if is_large else None
    return _descend(cost, temperatures, f_N, f_N.new_zeros(cost.shape[0]), cumulants, spends=spends)


def solve_self(cost: CostMatrix, temperatures: Sequence[float], *, spends: bool = False) -> Solution:
    """Run a ladder for a symmetric cost, for which both potentials are the same."""
    f_n = cost.block(slice(0, 1))[0].new_zeros(cost.shape[0])
    return _descend(cost, temperatures, f_n, f_n, symmetric=True, spends=spends)


def tolerances(temperatures: Sequence[float], dtype: torch.dtype) -> list[float]:
    """Return what each step may leave out of its potentials: in the last, what rounding does to exponents of some tens.

    Half steps at least keep, and mostly halve, what those before them left out.
    """
    rounding, steps = 32 * torch.finfo(dtype).eps * temperatures[-1], len(temperatures)
    return [rounding * 2.0 ** (steps - k) for k in range(steps + 2)]


def _descend(
    cost: CostMatrix,
    temperatures: Sequence[float],
    f_N: Tensor,
    g_n: Tensor,
    cumulants: Cumulants | None = None,
    *,
    symmetric: bool = False,
    spends: bool = False,
) -> Solution:
    steps = all_steps(temperatures)
    last = len(steps) - 1
    allowed = tolerances(temperatures, f_N.dtype)
    kernel: soft_minima.Kernel | None = None
    for k, e in enumerate(steps):
        soft = None
        if kernel is not None and kernel.reaches(e, allowed[k]):
            soft = kernel.soft_minima(f_N, g_n, e)
        elif cumulants is not None:
            soft = cumulants.soft_minima(f_N, g_n, e, allowed[k])
        if soft is None:
            kernel = cumulants = None  # their memory goes first
            soft, kernel = soft_minima.step(
                cost, f_N, g_n, e, symmetric=symmetric,
                keeps=k < last and soft_minima.reaches(e, e, steps[k + 1], allowed[k + 1], f_N.dtype),
                spends=spends and e == steps[-1],
            )  # fmt: skip
        old_f_N = f_N
        f_N, g_n = soft if k in (0, last) else (torch.lerp(f_N, soft[0], 0.5), torch.lerp(g_n, soft[1], 0.5))
    return Solution(f_N, g_n, old_f_N, cost, steps[-1], kernel if spends else None)


def value(cost: Cost, temperatures: Sequence[float]) -> float:
    """Return mean f + mean g after the last step."""
    return solve(cost, temperatures).value
