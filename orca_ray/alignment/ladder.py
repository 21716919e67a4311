"""Sinkhorn as the reference runs it: a fixed ladder of temperatures that ends before it has converged.

Letters: n rows (target points), N columns (source points), D features. Weights are uniform; C is a `Cost`.

From potentials f, g, a step at temperature e computes the soft minima

    f~_i = −e log mean_j exp((g_j − C_ji) / e),    g~_j = −e log mean_i exp((f_i − C_ji) / e).

The first step, at the first temperature, and the last one, at the last, replace both potentials by their soft minima;
the steps between, one at each temperature, go half the way: f ← (f + f~) / 2.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from orca_ray.alignment.cost import Cost

EPSILON = 0.1
"""The last temperature, in units of squared features; the reference's ``entreg``."""

_LOG2_E = math.log2(math.e)
_FLOOR = -90.0
"""Least exponent of 2: far smaller float32 numbers and their products are denormal, and slow."""
_LEAST, _MOST = 2.0**-50, 2.0**100
"""Sums outside are recomputed with their maximum taken out; the floor adds less than 1e-8 of the least."""
_REMEMBERED, _PHASES = 5, (0.017, 0.146, 0.371, 0.629, 0.854, 0.983)


def ladder(squared_diameter: float) -> list[float]:
    """Return the temperatures for a bounding box with diagonal d: d², then d², d²/4, … above EPSILON, then EPSILON."""
    if squared_diameter <= 0:
        return [EPSILON, EPSILON]
    steps = math.ceil(math.log(squared_diameter / EPSILON) / math.log(4.0))
    return [squared_diameter, *(squared_diameter * 0.25**k for k in range(steps)), EPSILON]


def self_values(cost: Cost, squared_diameter: float, factor: float = 1.0) -> Tensor:
    """Return mean f of a symmetric cost for ladders of 1 to 5 steps and 6 phases, float64 [5, 6]; see `self_value`.

    A target only changes the ladder of the costs within the source. Each half step at least halves the effect of those
    before, so mean f depends on the last temperatures alone: on the phase of d², its position in (0, 1] between EPSILON
    times two powers of 4, and on the number of steps of a short ladder. ``squared_diameter`` is the cloud's own, and
    shorter ladders are not computed; ``factor`` scales the temperatures.
    """
    first = _steps_and_phase(squared_diameter)[0]

    def mean_f(height: float) -> float:
        temperatures = [factor * e for e in ladder(EPSILON * 4.0**height)]
        return solve(cost, temperatures, symmetric=True).value / 2.0

    rows = [[mean_f(steps - 1 + phase) for phase in _PHASES] for steps in range(first, _REMEMBERED + 1)]
    return torch.tensor([rows[0]] * (first - 1) + rows, dtype=torch.float64)


def self_value(values_SP: Tensor, squared_diameter: float) -> float:
    """Interpolate `self_values` for a bounding box by a polynomial in the phase; the relative error is about 1e-6."""
    steps, phase = _steps_and_phase(squared_diameter)
    coefficients = np.linalg.solve(np.vander(_PHASES), values_SP[steps - 1].numpy())
    return float(np.polyval(coefficients, phase))


def _steps_and_phase(squared_diameter: float) -> tuple[int, float]:
    height = math.log(max(squared_diameter / EPSILON, 1.0)) / math.log(4.0)
    steps = max(1, math.ceil(height))
    return min(steps, _REMEMBERED), height - (steps - 1)


@dataclass(frozen=True)
class Solution:
    """Potentials after the last step of a ladder."""

    f_N: Tensor
    g_n: Tensor
    _cost: Cost
    _last_f_N: Tensor
    _e: float

    @property
    def value(self) -> float:
        """Mean f + mean g."""
        return float(self.f_N.mean() + self.g_n.mean())

    def barycentres(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Return P X [n, D] and the mean of P's rows [N].

        P_ji is the softmax over i of (f_i − C_ji) / e, with f before the last step, the only one with autograd in the
        reference.
        """
        product_nD, mass_N = x_ND.new_empty(len(self.g_n), x_ND.shape[1]), torch.zeros_like(self.f_N)
        for rows, cost_rN in self._cost:
            plan_rN, _ = _exponentials((self._last_f_N - cost_rN).mul_(1.0 / self._e), 1)
            plan_rN *= plan_rN.sum(1, keepdim=True).reciprocal_()
            mass_N += plan_rN.sum(0)
            torch.mm(plan_rN, x_ND, out=product_nD[rows])
        return product_nD, mass_N / len(self.g_n)


def solve(
    cost: Cost, temperatures: Sequence[float], start_N: Tensor | None = None, symmetric: bool = False
) -> Solution:
    """Run a ladder with half steps at ``temperatures``; ``symmetric``: f and g are the same.

    A start at −h gives the potentials of C + h, where h_i is a cost of each source point, except that f lacks h.
    """
    f_N = cost.x_nD.new_zeros(cost.shape[1]) if start_N is None else start_N
    g_n = f_N if symmetric else f_N.new_zeros(cost.shape[0])
    steps, last_f_N = [temperatures[0], *temperatures, temperatures[-1]], f_N
    for k, e in enumerate(steps):
        soft_f_N, soft_g_n = soft_minima(cost, f_N, g_n, e, symmetric)
        last_f_N, share = f_N, 1.0 if k in (0, len(steps) - 1) else 0.5
        f_N = torch.lerp(f_N, soft_f_N, share)
        g_n = f_N if symmetric else torch.lerp(g_n, soft_g_n, share)
    return Solution(f_N, g_n, cost, last_f_N, steps[-1])


def soft_minima(cost: Cost, f_N: Tensor, g_n: Tensor, e: float, symmetric: bool = False) -> tuple[Tensor, Tensor]:
    """Return f~ and g~; ``symmetric``: f~ twice.

    Both are sums of one matrix T_ji = exp((f_i + g_j − C_ji) / e), namely f~_i = f_i − e log mean_j T_ji, which halves
    the exponentials. T does not overflow after half steps; sums that lose their precision are recomputed.
    """
    n, num_source = cost.shape
    scale = _LOG2_E / e
    scaled_f_N, scaled_g_n1 = f_N * scale, (g_n * scale)[:, None]
    sums_n, sums_N = torch.empty_like(g_n), torch.zeros_like(f_N)
    for rows, cost_rN in cost:
        t_rN = torch.add(scaled_f_N, cost_rN, alpha=-scale).add_(scaled_g_n1[rows])
        t_rN.clamp_min_(_FLOOR).exp2_()  # exp is ten times slower where it underflows, as it mostly does
        sums_n[rows] = t_rN.sum(1)
        if not symmetric:
            sums_N += t_rN.sum(0)
    sums_N = sums_n if symmetric else sums_N
    found = torch.stack([*torch.aminmax(sums_n), *torch.aminmax(sums_N)]).tolist()
    if not all(_LEAST < each < _MOST for each in found):
        return _robust_minima(cost, f_N, g_n, e)
    return f_N - e * (sums_N.log() - math.log(n)), g_n - e * (sums_n.log() - math.log(num_source))


def _robust_minima(cost: Cost, f_N: Tensor, g_n: Tensor, e: float) -> tuple[Tensor, Tensor]:
    logs_n, logs_N = torch.empty_like(g_n), torch.full_like(f_N, -torch.inf)
    for rows, cost_rN in cost:
        exponents_rN, peaks_r1 = _exponentials((f_N - cost_rN).mul_(1.0 / e), 1)
        logs_n[rows] = exponents_rN.sum(1).log() + peaks_r1[:, 0]
        exponents_rN, peaks_1N = _exponentials((g_n[rows, None] - cost_rN).mul_(1.0 / e), 0)
        logs_N = torch.logaddexp(logs_N, exponents_rN.sum(0).log() + peaks_1N[0])
    return -e * (logs_N - math.log(len(g_n))), -e * (logs_n - math.log(len(f_N)))


def _exponentials(exponents: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return exp(x − max x), in place of x, and max x along ``dim``."""
    peaks = exponents.amax(dim, keepdim=True)
    return exponents.sub_(peaks).mul_(_LOG2_E).clamp_min_(_FLOOR).exp2_(), peaks
