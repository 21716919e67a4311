"""Sinkhorn as the reference runs it: a fixed ladder of temperatures that ends before it has converged.

Letters: n rows (target points), N columns (source points), D features. Weights are uniform; C_ji = ½‖y_j − x_i‖².

A step at temperature e replaces both potentials, from the old pair, by soft minima

    f~_i = −e log mean_j exp((g_j − C_ji) / e),    g~_j = −e log mean_i exp((f_i − C_ji) / e),

of which it takes half (f ← (f + f~) / 2) or all. With T_ji = exp((f_i + g_j − C_ji) / e) both are sums of one matrix,
f~_i = f_i − e log mean_j T_ji and g~_j = g_j − e log mean_i T_ji, which halves the exponentials. T does not overflow: a
half step leaves f_i + g_j − C_ji ≤ e (log N + log n) / 2, and the next temperature is at least e / 4. Rows and columns
of which too little is left (or, where C / e is beyond what the precision resolves, too much) are done again with their
maximum taken out.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from orca_ray.alignment import cost_matrix
from orca_ray.alignment.cost_matrix import Cost

EPSILON = 0.1
"""The last temperature, in units of squared features; the reference's ``entreg``."""

_CUDA_BLOCK = 2**21  # 8 MB
_MULTIPLIED = 2.5  # blocks of a plan that are multiplied at once: products of few rows are slow
_LOG2_E = math.log2(math.e)
_FLOOR = -125.0  # of exponents: float32 powers of two below it are denormal, and slow
_PLAN_FLOOR = -60.0  # of a plan's, which is multiplied on: its products must not be denormal either
_SPARSE = 16  # a product of which one in so many entries counts is cheaper without the rest
_LEAST, _MOST = 2.0**-60, 2.0**100  # sums outside are done again; the floor adds below 1e-14 of the least


def ladder(squared_diameter: float) -> list[float]:
    """Return the temperatures for a bounding box with diagonal d: d², then d², d²/4, … above EPSILON, then EPSILON."""
    if squared_diameter <= 0:
        return [EPSILON, EPSILON]
    steps = math.ceil(math.log(squared_diameter / EPSILON) / math.log(4.0))
    return [squared_diameter, *(squared_diameter * 0.25**k for k in range(steps)), EPSILON]


def solve(cost: Cost, temperatures: Sequence[float], start_N: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the potentials f [N] and g [n] that go into the last step: a whole step, then a half one each temperature.

    ``start_N``: minus what is added to the cost of each source point. The potentials come out as if it had been, less
    that addition, which is all that it does to f; to g it makes a difference in the first step only.
    """
    f_N = cost.block(slice(0, 1))[0].new_zeros(cost.shape[1]) if start_N is None else start_N
    g_n = f_N.new_zeros(cost.shape[0])
    f_N, g_n = soft_minima(cost, f_N, g_n, temperatures[0])
    for e in temperatures:
        next_f_N, next_g_n = soft_minima(cost, f_N, g_n, e)
        f_N, g_n = torch.lerp(f_N, next_f_N, 0.5), torch.lerp(g_n, next_g_n, 0.5)
    return f_N, g_n


def solve_self(cost: Cost, temperatures: Sequence[float]) -> Tensor:
    """Return the potential f [n] of a symmetric cost that goes into the last step."""
    f_n = cost.block(slice(0, 1))[0].new_zeros(cost.shape[0])
    _, f_n = soft_minima(cost, f_n, f_n, temperatures[0])
    for e in temperatures:
        f_n = torch.lerp(f_n, soft_minima(cost, f_n, f_n, e)[1], 0.5)
    return f_n


def value(cost: Cost, temperatures: Sequence[float]) -> float:
    """Return mean f + mean g after the last step."""
    f_N, g_n = soft_minima(cost, *solve(cost, temperatures), temperatures[-1])
    return float(f_N.mean() + g_n.mean())


def self_value(cost: Cost, temperatures: Sequence[float]) -> float:
    """Return mean f of a symmetric cost after the last step."""
    f_n = solve_self(cost, temperatures)
    return float(soft_minima(cost, f_n, f_n, temperatures[-1])[1].mean())


def self_values(cost: Cost, ladders: Sequence[Sequence[float]]) -> list[float]:
    """Return `self_value` for each of several ladders; small problems are solved at once, for their steps cost more in
    calls than in arithmetic."""
    at_once = len({len(temperatures) for temperatures in ladders}) == 1
    if at_once and len(ladders) * cost.shape[0] ** 2 <= cost_matrix.BLOCK:
        values = _solved_at_once(cost.block(slice(None)), ladders)
        if values is not None:
            return values
    return [self_value(cost, temperatures) for temperatures in ladders]


def _solved_at_once(cost_nn: Tensor, ladders: Sequence[Sequence[float]]) -> list[float] | None:
    """Return `self_value` for ladders of equal length; None where a sum loses its precision (see `soft_minima`)."""
    e_SK1 = cost_nn.new_tensor(ladders).T[:, :, None]
    n = len(cost_nn)
    f_Kn = cost_nn.new_zeros(len(ladders), n)
    buffer_Knn = cost_nn.new_empty(len(ladders), n, n)
    extremes: list[Tensor] = []
    for step, e_K1 in enumerate([e_SK1[0], *e_SK1, e_SK1[-1]]):
        scale_K1 = _LOG2_E / e_K1
        torch.sub((f_Kn * scale_K1)[:, None, :], cost_nn * scale_K1[:, :, None], out=buffer_Knn)
        buffer_Knn += (f_Kn * scale_K1)[:, :, None]
        sums_Kn = buffer_Knn.clamp_min_(_FLOOR).exp2_().sum(2)
        extremes += torch.aminmax(sums_Kn)
        next_f_Kn = f_Kn - e_K1 * (torch.log(sums_Kn) - math.log(n))
        whole = step in (0, len(e_SK1) + 1)  # the first and the last step are whole ones
        f_Kn = next_f_Kn if whole else torch.lerp(f_Kn, next_f_Kn, 0.5)
    found = torch.stack(extremes)
    if not bool(((found > _LEAST) & (found < _MOST)).all()):
        return None
    values: list[float] = f_Kn.mean(1).tolist()
    return values


def soft_minima(cost: Cost, f_N: Tensor, g_n: Tensor, e: float) -> tuple[Tensor, Tensor]:
    """Return f~ [N] and g~ [n]."""
    n, num_source = cost.shape
    sums = f_N.new_zeros(n + num_source)  # of rows, then of columns
    for rows, t_rN in kernels(cost, f_N, g_n, e):
        torch.sum(t_rN, 1, out=sums[rows])
        sums[n:] += t_rN.sum(0)
    logs = torch.log(sums)
    next_g_n = torch.sub(g_n, logs[:n], alpha=e).add_(e * math.log(num_source))
    next_f_N = torch.sub(f_N, logs[n:], alpha=e).add_(e * math.log(n))
    least, most = torch.stack(torch.aminmax(sums)).tolist()  # one wait for the device
    if not (least > _LEAST and most < _MOST):
        _again(cost, (f_N, g_n), e, sums, (next_f_N, next_g_n))
    return next_f_N, next_g_n


def _again(cost: Cost, old: tuple[Tensor, Tensor], e: float, sums: Tensor, soft: tuple[Tensor, Tensor]) -> None:
    """Replace the soft minima whose sums have lost their precision (NaN counts)."""
    (f_N, g_n), (next_f_N, next_g_n), (n, num_source) = old, soft, cost.shape
    lost = ~((sums > _LEAST) & (sums < _MOST))
    size = _block_size(sums)
    for ids in torch.split(lost[:n].nonzero()[:, 0], max(1, size // num_source)):
        next_g_n[ids] = -e * (torch.logsumexp((f_N - cost.block(ids)) / e, 1) - math.log(num_source))
    for ids in torch.split(lost[n:].nonzero()[:, 0], max(1, size // n)):
        exponents = (g_n[:, None] - cost.block(slice(None), ids)) / e
        next_f_N[ids] = -e * (torch.logsumexp(exponents, 0) - math.log(n))


def kernels(cost: Cost, f_N: Tensor, g_n: Tensor, e: float) -> Iterator[tuple[slice, Tensor]]:
    """Yield T in bands of rows, with the rows' slice; each band is overwritten by the next."""
    scale = _LOG2_E / e
    bands = _bands(cost, _block_size(f_N))
    buffer = f_N.new_empty(bands[0].stop, cost.shape[1])
    f_N, g_n1 = f_N * scale, (g_n * scale)[:, None]
    for rows in bands:
        t_rN = buffer[: rows.stop - rows.start]
        torch.add(f_N, cost.block(rows), alpha=-scale, out=t_rN)
        t_rN += g_n1[rows]
        # exp2: exp is ten times slower where it underflows, and here it does nearly everywhere.
        yield rows, t_rN.clamp_min_(_FLOOR).exp2_()


def _bands(cost: Cost, block_size: int) -> list[slice]:
    n, num_source = cost.shape
    num_rows = max(1, block_size // num_source)
    return [slice(begin, min(begin + num_rows, n)) for begin in range(0, n, num_rows)]


def carry(cost: Cost, f_N: Tensor, e: float, x_ND: Tensor, onto_nD: Tensor | None, factor: float) -> Tensor:
    """Add ``factor`` P X [n, D] onto a matrix, if any, and return the mean of P's rows [N].

    P_ji is the softmax over i of (f_i − C_ji) / e. It takes the place of C, which would be computed again if needed.
    """
    scale, block_size = _LOG2_E / e, _block_size(f_N)
    f_N, mass_N = f_N * scale, torch.zeros_like(f_N)
    for group in _bands(cost, int(_MULTIPLIED * block_size)):
        p_nN = cost.take(group)
        for p_rN in torch.split(p_nN, max(1, block_size // cost.shape[1])):
            torch.add(f_N, p_rN, alpha=-scale, out=p_rN)
            p_rN -= p_rN.amax(1, keepdim=True)
            p_rN.clamp_min_(_PLAN_FLOOR).exp2_()
            p_rN *= p_rN.sum(1, keepdim=True).reciprocal_()
            mass_N += p_rN.sum(0)
        if onto_nD is not None:
            _add_product(onto_nD[group], p_nN, x_ND, factor)
    cost.forget()
    return mass_N / cost.shape[0]


def _add_product(onto_rD: Tensor, p_rN: Tensor, x_ND: Tensor, factor: float) -> None:
    """Add ``factor`` P X onto a matrix; P is overwritten.

    A plan is nearly sparse where costs are large beside its temperature: left out is what adds up, in a row, to less
    than the precision.
    """
    if p_rN.device.type == "cpu":
        torch.threshold_(p_rN, torch.finfo(p_rN.dtype).eps / p_rN.shape[1], 0.0)
        if int(torch.count_nonzero(p_rN)) * _SPARSE <= p_rN.numel():
            # A few rows at once: their indices and product take memory, too.
            rows = max(1, cost_matrix.BLOCK // (p_rN.shape[1] + 4 * x_ND.shape[1]))
            for part_rN, part_rD in zip(torch.split(p_rN, rows), torch.split(onto_rD, rows), strict=True):
                part_rD.add_(torch.sparse.mm(part_rN.to_sparse(), x_ND), alpha=factor)
            return
    onto_rD.addmm_(p_rN, x_ND, alpha=factor)


def _block_size(like: Tensor) -> int:
    return cost_matrix.BLOCK if like.device.type == "cpu" else _CUDA_BLOCK


# The potential of a cloud with itself forgets where its ladder began: each half step at least halves what is left of
# it. What counts are the last temperatures: how far d² is above EPSILON times a power of 4 (the phase, in (0, 1]), and,
# for short ladders, their number of steps.
_REMEMBERED = 5
_NUM_NODES = 6
_NODES = [0.5 - 0.5 * math.cos(math.pi * (2 * k + 1) / (2 * _NUM_NODES)) for k in range(_NUM_NODES)]  # Chebyshev's


def self_values_by_phase(cost: Cost, squared_diameter: float, factor: float = 1.0) -> Tensor:
    """Return `self_value` by steps and phase, float64 [5, 6], for `at_phase` to interpolate.

    Args:
        cost: symmetric.
        squared_diameter: of the cloud alone; rows for shorter ladders than it takes are copies.
        factor: scales the temperatures.
    """
    first = _steps_and_phase(squared_diameter)[0]
    rows = []
    for steps in range(first, _REMEMBERED + 1):
        ladders = [ladder(EPSILON * 4.0 ** (steps - 1 + node)) for node in _NODES]
        rows.append([self_value(cost, [factor * e for e in temperatures]) for temperatures in ladders])
    return torch.tensor([rows[0]] * (first - 1) + rows, dtype=torch.float64)


def at_phase(values_SP: Sequence[Sequence[float]], squared_diameter: float) -> float:
    """Interpolate what `self_values_by_phase` returned for the ladder of a bounding box (Lagrange)."""
    steps, phase = _steps_and_phase(squared_diameter)
    total = 0.0
    for value_at, node in zip(values_SP[steps - 1], _NODES, strict=True):
        others = [other for other in _NODES if other != node]
        total += value_at * math.prod((phase - other) / (node - other) for other in others)
    return total


def _steps_and_phase(squared_diameter: float) -> tuple[int, float]:
    height = math.log(max(squared_diameter / EPSILON, 1.0)) / math.log(4.0)
    steps = max(1, math.ceil(height))
    return min(steps, _REMEMBERED), height - (steps - 1)


def remembered(temperatures: Sequence[float]) -> Sequence[float]:
    """Return the end of a ladder, which is all that a cloud's potential with itself depends on."""
    return temperatures[-_REMEMBERED - 1 :]
