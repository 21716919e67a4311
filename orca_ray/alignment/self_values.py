"""A cloud's transport cost to itself down many ladders: solved at once, or a few of them and the rest interpolated.

The potential of a cloud with itself forgets where its ladder began: each half step at least halves what is left of it.
What counts are the last temperatures: how far d² is above EPSILON times a power of 4 (the phase, in (0, 1]), and, for
short ladders, their number of steps.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from orca_ray.alignment import cost_matrix, soft_minima
from orca_ray.alignment.cost_matrix import CostMatrix
from orca_ray.alignment.ladder import EPSILON, ladder, solve_self

_REMEMBERED = 5
_NUM_NODES = 6
_FEW_NODES, _NARROW = 3, 0.08  # what lies between phases that are close to each other is well described by fewer


def _chebyshev(num_nodes: int, low: float = 0.0, high: float = 1.0) -> list[float]:
    unit = [0.5 - 0.5 * math.cos(math.pi * (2 * k + 1) / (2 * num_nodes)) for k in range(num_nodes)]
    return [low + (high - low) * node for node in unit]


_NODES = _chebyshev(_NUM_NODES)


def by_phase(cost: CostMatrix, squared_diameter: float, factor: float = 1.0) -> Tensor:
    """Return mean f after the last step by steps and phase, float64 [5, 6], for `at_phase` to interpolate.

    Args:
        cost: symmetric.
        squared_diameter: of the cloud alone; rows for shorter ladders than it takes are copies.
        factor: scales the temperatures.
    """
    first = _steps_and_phase(squared_diameter)[0]
    rows = [_solved(cost, _diameters(steps, _NODES), factor) for steps in range(first, _REMEMBERED + 1)]
    return torch.tensor([rows[0]] * (first - 1) + rows, dtype=torch.float64)


def at_phase(values_SP: Sequence[Sequence[float]], squared_diameter: float) -> float:
    """Interpolate what `by_phase` returned for the ladder of a bounding box."""
    steps, phase = _steps_and_phase(squared_diameter)
    return _interpolated(_NODES, values_SP[steps - 1], phase)


def at_diameters(cost: CostMatrix, squared_diameters: Sequence[float], factor: float = 1.0) -> list[float]:
    """Return mean f after the last step for the ladders of several bounding boxes; arguments as in `by_phase`."""
    by_steps: dict[int, list[float]] = {}
    for squared in sorted(set(squared_diameters)):
        by_steps.setdefault(_steps_and_phase(squared)[0], []).append(squared)
    found: dict[float, float] = {}
    for steps, members in by_steps.items():
        phases = [_steps_and_phase(squared)[1] for squared in members]
        low, high = min(phases), max(phases)  # long ladders begin again where d² passes a power of 4
        # Below EPSILON, where the phase is zero, d² has a say of its own.
        if len(members) <= _FEW_NODES or not 0.0 < high - low <= _NARROW or low <= 0.0:
            found.update(zip(members, _solved(cost, members, factor), strict=True))
        else:
            nodes = _chebyshev(_FEW_NODES, low, high)
            values = _solved(cost, _diameters(steps, nodes), factor)
            found.update({m: _interpolated(nodes, values, phase) for m, phase in zip(members, phases, strict=True)})
    return [found[squared] for squared in squared_diameters]


def _interpolated(nodes: Sequence[float], values: Sequence[float], phase: float) -> float:
    """Return Lagrange's polynomial."""
    total = 0.0
    for value_at, node in zip(values, nodes, strict=True):
        others = [other for other in nodes if other != node]
        total += value_at * math.prod((phase - other) / (node - other) for other in others)
    return total


def _steps_and_phase(squared_diameter: float) -> tuple[int, float]:
    height = math.log(max(squared_diameter / EPSILON, 1.0)) / math.log(4.0)
    steps = max(1, math.ceil(height))
    return min(steps, _REMEMBERED), height - (steps - 1)


def _diameters(steps: int, phases: Sequence[float]) -> list[float]:
    return [EPSILON * 4.0 ** (steps - 1 + phase) for phase in phases]


def _solved(cost: CostMatrix, squared_diameters: Sequence[float], factor: float) -> list[float]:
    """Run the ladders' ends; small problems at once, for their steps cost more in calls than in arithmetic."""
    ladders = [[factor * e for e in ladder(squared)[-_REMEMBERED - 2 :]] for squared in squared_diameters]
    if len({len(each) for each in ladders}) == 1 and len(ladders) * cost.shape[0] ** 2 <= cost_matrix.BLOCK:
        values = _solved_at_once(cost.block(slice(None)), ladders)
        if values is not None:
            return values
    return [float(solve_self(cost, temperatures).f_N.mean()) for temperatures in ladders]


def _solved_at_once(cost_nn: Tensor, ladders: Sequence[Sequence[float]]) -> list[float] | None:
    """Return the same; None where a sum loses its precision (see `soft_minima.step`)."""
    e_SK1 = cost_nn.new_tensor(ladders).T[:, :, None]
    n = len(cost_nn)
    f_Kn = cost_nn.new_zeros(len(ladders), n)
    buffer_Knn = cost_nn.new_empty(len(ladders), n, n)
    extremes: list[Tensor] = []
    for step, e_K1 in enumerate([e_SK1[0], *e_SK1, e_SK1[-1]]):
        scale_K1 = soft_minima.LOG2_E / e_K1
        torch.sub((f_Kn * scale_K1)[:, None, :], cost_nn * scale_K1[:, :, None], out=buffer_Knn)
        buffer_Knn += (f_Kn * scale_K1)[:, :, None]
        sums_Kn = buffer_Knn.clamp_min_(soft_minima.FLOOR).exp2_().sum(2)
        extremes += torch.aminmax(sums_Kn)
        next_f_Kn = f_Kn - e_K1 * (torch.log(sums_Kn) - math.log(n))
        whole = step in (0, len(e_SK1) + 1)  # the first and the last step are whole ones
        f_Kn = next_f_Kn if whole else torch.lerp(f_Kn, next_f_Kn, 0.5)
    found = torch.stack(extremes)
    if not bool(((found > soft_minima.LEAST) & (found < soft_minima.MOST)).all()):
        return None
    values: list[float] = f_Kn.mean(1).tolist()
    return values
