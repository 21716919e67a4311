"""One step of Sinkhorn: both soft minima at one temperature, and the plan that its last step leaves.

Letters: n rows (target points), N columns (source points), D features. Weights are uniform; C_ji = ½‖y_j − x_i‖².

From potentials f, g a step at temperature e goes to the soft minima

    f~_i = −e log mean_j exp((g_j − C_ji) / e),    g~_j = −e log mean_i exp((f_i − C_ji) / e).

With T_ji = exp((f_i + g_j − C_ji) / e) both are sums of one matrix, f~_i = f_i − e log mean_j T_ji and
g~_j = g_j − e log mean_i T_ji, which halves the exponentials. Rows and columns of which too little is left (or, where
C / e is beyond what the precision resolves, too much) are done again with their maximum taken out. Where a step stays
at the temperature of the one before, T changes by a factor for each row and one for each column, and its sums are two
products with a vector.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from orca_ray.alignment import cost_matrix
from orca_ray.alignment.cost_matrix import CostMatrix
from orca_ray.devices import has_bfloat16_units

_CUDA_BLOCK = 2**21  # 8 MB
_MULTIPLIED = 2.5  # blocks of a plan that are multiplied at once: products of few rows are slow
BESIDE = 2**19  # a T up to this size, 2 MB, is kept beside its costs
LOG2_E = math.log2(math.e)
FLOOR = -125.0  # of exponents: float32 powers of two below it are denormal, and slow
_AVERAGED = 8.0  # times that a mean of many random errors is smaller than one
_PLAN_FLOOR = -60.0  # of a plan's, which is multiplied on: its products must not be denormal either
_ROUNDED_ROWS, _ROUNDED_COLUMNS = 64, 256  # of a plan that are multiplied at once in bfloat16
_ROUNDING = 1e-3  # of the norm of what comes out, which is a cosine of 1 − 5e-7
_SAMPLED = 8  # every eighth row tells how sparse a plan is, and what rounding does
_SPARSE = 16  # a product of which one in so many entries counts is cheaper without the rest
LEAST, MOST = 2.0**-60, 2.0**100  # sums outside are done again; the floor adds below 1e-14 of the least
_LEAST_KEPT, _MOST_FACTORS = 2.0**-40, 2.0**40  # the same for sums of a kept T, whose floor moves with its factors


@dataclass
class Kernel:
    """T of some potentials, kept for others at the same temperature."""

    t_nN: Tensor
    f_N: Tensor
    g_n: Tensor
    first_e: float
    """The temperature that T was computed at."""
    e: float
    symmetric: bool

    def reaches(self, e: float, tolerance: float) -> bool:
        """Tell whether T does for a step at this temperature, if need be as T⁴; see `reaches`."""
        return reaches(self.first_e, self.e, e, tolerance, self.t_nN.dtype)

    def soft_minima(self, f_N: Tensor, g_n: Tensor, e: float) -> tuple[Tensor, Tensor] | None:
        """Return f~ and g~ as `step` does; None where a sum loses its precision."""
        if e != self.e:
            self.t_nN.square_().square_()
            self.e = e
        column_factors_N, row_factors_n = self._factors(f_N, self.f_N), self._factors(g_n, self.g_n)
        sums = row_factors_n * (self.t_nN @ column_factors_N)
        if not self.symmetric:
            sums = torch.cat([sums, column_factors_N * (self.t_nN.T @ row_factors_n)])
        if not precise_kept([sums], [column_factors_N, row_factors_n]):
            return None
        return _from_sums(sums, f_N, g_n, self.e)

    def plan(self, f_N: Tensor) -> Tensor:
        """Return P_ji [n, N], the softmax over i of (f_i − C_ji) / e, in place of T."""
        column_factors_N = self._factors(f_N, self.f_N)
        for p_rN in torch.split(self.t_nN, max(1, _block_size(f_N) // len(f_N))):
            p_rN *= column_factors_N
            p_rN *= p_rN.sum(1, keepdim=True).reciprocal_()
        return self.t_nN

    def _factors(self, new: Tensor, old: Tensor) -> Tensor:
        return torch.sub(new, old).mul_(LOG2_E / self.e).exp2_()


def reaches(first_e: float, e: float, next_e: float, tolerance: float, dtype: torch.dtype) -> bool:
    """Tell whether T, computed at ``first_e`` and now at ``e``, does for a step at ``next_e``.

    It does at the same temperature, and at a quarter of it as T⁴, as long as its entries' rounding, which amounts to
    random errors of first_e eps in the costs, comes to less than the tolerance when averaged.
    """
    return next_e == e or (next_e == 0.25 * e and first_e * torch.finfo(dtype).eps <= _AVERAGED * tolerance)


def step(
    cost: CostMatrix,
    f_N: Tensor,
    g_n: Tensor,
    e: float,
    *,
    symmetric: bool = False,
    keeps: bool = False,
    spends: bool = False,
) -> tuple[tuple[Tensor, Tensor], Kernel | None]:
    """Return f~ [N] and g~ [n], and T if it is to be kept, there is room for it, and no sum lost its precision.

    Args:
        cost: C.
        f_N: potential of the columns.
        g_n: potential of the rows.
        e: temperature.
        symmetric: C is, and f is g; so are the results, then.
        keeps: T is wanted for another step at this temperature.
        spends: T may take the place of kept costs, which would be computed again if needed.
    """
    n, num_source = cost.shape
    t_nN = _room(cost, f_N, spends) if keeps else None
    sums = f_N.new_zeros(n if symmetric else n + num_source)  # of rows, then of columns
    for rows, t_rN in _kernels(cost, f_N, g_n, e, t_nN):
        torch.sum(t_rN, 1, out=sums[rows])
        if not symmetric:
            sums[n:] += t_rN.sum(0)
    if keeps and spends:
        cost.forget()
    soft = _from_sums(sums, f_N, g_n, e)
    if precise([sums]):
        return soft, None if t_nN is None else Kernel(t_nN, f_N, g_n, e, e, symmetric)
    del t_nN, t_rN  # their memory goes first
    redo_lost(cost, (f_N, g_n), e, sums, soft)
    return soft, None


def _room(cost: CostMatrix, like: Tensor, spends: bool) -> Tensor | None:
    if spends:
        return cost.spend()
    n, num_source = cost.shape
    return like.new_empty(n, num_source) if n * num_source <= BESIDE else None


def _from_sums(sums: Tensor, f_N: Tensor, g_n: Tensor, e: float) -> tuple[Tensor, Tensor]:
    """Return f~ and g~ from the sums of T's rows and columns, or of its rows alone where it is symmetric."""
    n, logs = len(g_n), torch.log(sums)
    next_g_n = torch.sub(g_n, logs[:n], alpha=e).add_(e * math.log(len(f_N)))
    if len(sums) == n:
        return next_g_n, next_g_n
    return torch.sub(f_N, logs[n:], alpha=e).add_(e * math.log(n)), next_g_n


def precise(sums: Sequence[Tensor]) -> bool:
    """Tell whether all sums of a T keep their precision; NaN does not."""
    extremes = torch.stack([extreme for each in sums for extreme in torch.aminmax(each)]).tolist()
    return all(LEAST < extreme < MOST for extreme in extremes)


def precise_kept(sums: Sequence[Tensor], factors: Sequence[Tensor]) -> bool:
    """Tell the same of a T that is kept for other potentials, by what its rows and columns are multiplied with."""
    extremes = [*(extreme for each in sums for extreme in torch.aminmax(each)), *(each.amax() for each in factors)]
    found = torch.stack(extremes).tolist()  # one wait for the device
    sizes, largest = found[: 2 * len(sums)], found[2 * len(sums) :]
    return all(_LEAST_KEPT < size < MOST for size in sizes) and math.prod(largest) < _MOST_FACTORS


def redo_lost(
    cost: CostMatrix, old: tuple[Tensor, Tensor], e: float, sums: Tensor, soft: tuple[Tensor, Tensor]
) -> None:
    """Replace the soft minima whose sums have lost their precision (NaN counts)."""
    (f_N, g_n), (next_f_N, next_g_n), (n, num_source) = old, soft, cost.shape
    lost = ~((sums > LEAST) & (sums < MOST))
    size = _block_size(sums)
    for ids in _some_at_once(lost[:n], size // num_source):
        next_g_n[ids] = -e * (torch.logsumexp((f_N - cost.block(ids)) / e, 1) - math.log(num_source))
    for ids in _some_at_once(lost[n:], size // n):
        exponents = (g_n[:, None] - cost.block(slice(None), ids)) / e
        next_f_N[ids] = -e * (torch.logsumexp(exponents, 0) - math.log(n))


def _some_at_once(chosen: Tensor, number: int) -> Iterator[Tensor]:
    ids = chosen.nonzero()[:, 0]
    return (part for part in torch.split(ids, max(1, number)) if len(part))


def _kernels(
    cost: CostMatrix, f_N: Tensor, g_n: Tensor, e: float, t_nN: Tensor | None
) -> Iterator[tuple[slice, Tensor]]:
    """Yield T in bands of rows, with the rows' slice, in ``t_nN`` if given; else each is overwritten by the next."""
    scale = LOG2_E / e
    bands = _bands(cost, _block_size(f_N))
    buffer = f_N.new_empty(bands[0].stop if t_nN is None else 0, cost.shape[1])
    f_N, g_n1 = f_N * scale, (g_n * scale)[:, None]
    for rows in bands:
        t_rN = t_nN[rows] if t_nN is not None else buffer[: rows.stop - rows.start]
        torch.add(f_N, cost.block(rows), alpha=-scale, out=t_rN)
        t_rN += g_n1[rows]
        # exp2: exp is ten times slower where it underflows, and here it does nearly everywhere.
        yield rows, t_rN.clamp_min_(FLOOR).exp2_()


def blocks(cost: CostMatrix) -> Iterator[tuple[slice, Tensor]]:
    """Yield C in bands of rows, with the rows' slice; not to be written to."""
    for rows in _bands(cost, _block_size(cost.block(slice(0, 1)))):
        yield rows, cost.block(rows)


def _bands(cost: CostMatrix, block_size: int) -> list[slice]:
    n, num_source = cost.shape
    num_rows = max(1, block_size // num_source)
    return [slice(begin, min(begin + num_rows, n)) for begin in range(0, n, num_rows)]


def carry(
    plans: Iterator[tuple[slice, Tensor]], x_ND: Tensor, onto_nD: Tensor | None, factor: float, *, coarse: bool = False
) -> Tensor:
    """Add ``factor`` P X [n, D] onto a matrix, if any, and return the sum of P's rows [N]; P is overwritten.

    ``coarse``: what comes out may be a thousandth off; X is centred.
    """
    mass_N = x_ND.new_zeros(len(x_ND))
    for rows, p_rN in plans:
        for part_rN in torch.split(p_rN, max(1, _block_size(x_ND) // len(x_ND))):
            mass_N += part_rN.sum(0)
        if onto_nD is not None:
            _add_product(onto_nD[rows], p_rN, x_ND, factor, coarse)
    return mass_N


def plans(cost: CostMatrix, f_N: Tensor, e: float) -> Iterator[tuple[slice, Tensor]]:
    """Yield P in bands of rows, with the rows' slice. It takes the place of C, which would be computed again."""
    scale, block_size = LOG2_E / e, _block_size(f_N)
    f_N = f_N * scale
    for rows in _bands(cost, int(_MULTIPLIED * block_size)):
        p_nN = cost.take(rows)
        for p_rN in torch.split(p_nN, max(1, block_size // cost.shape[1])):
            torch.add(f_N, p_rN, alpha=-scale, out=p_rN)
            p_rN -= p_rN.amax(1, keepdim=True)
            p_rN.clamp_min_(_PLAN_FLOOR).exp2_()
            p_rN *= p_rN.sum(1, keepdim=True).reciprocal_()
        yield rows, p_nN
    cost.forget()


def _add_product(onto_rD: Tensor, p_rN: Tensor, x_ND: Tensor, factor: float, coarse: bool) -> None:
    """Add ``factor`` P X onto a matrix; P is overwritten.

    A plan is nearly sparse where costs are large beside its temperature: left out is what adds up, in a row, to less
    than the precision.
    """
    if p_rN.device.type == "cpu":
        torch.threshold_(p_rN, torch.finfo(p_rN.dtype).eps / p_rN.shape[1], 0.0)
        sample_sN = p_rN[::_SAMPLED]
        if int(torch.count_nonzero(sample_sN)) * _SPARSE <= sample_sN.numel():
            # A few rows at once: their indices and product take memory, too.
            rows = max(1, cost_matrix.BLOCK // (p_rN.shape[1] + 4 * x_ND.shape[1]))
            for part_rN, part_rD in zip(torch.split(p_rN, rows), torch.split(onto_rD, rows), strict=True):
                part_rD.add_(torch.sparse.mm(part_rN.to_sparse(), x_ND), alpha=factor)
            return
    if coarse and _rounds(p_rN):
        error = _add_rounded(onto_rD, p_rN, x_ND, factor)
        if error <= _ROUNDING * float(torch.linalg.vector_norm(onto_rD)):
            return
        _add_rounded(onto_rD, p_rN, x_ND, -factor)
    onto_rD.addmm_(p_rN, x_ND, alpha=factor)


def _add_rounded(onto_rD: Tensor, p_rN: Tensor, x_ND: Tensor, factor: float) -> float:
    """Add ``factor`` P X onto a matrix, for centred X, multiplied in bfloat16; return about the norm of the error.

    Factors are rounded, and so are the products of some columns each, but not the products' sum. All are about 2^-9 of
    what is rounded, and random. P goes in less its mean, 1 / N, of which X's mean makes nothing: a smooth plan would
    be rounded to a constant one.
    """
    mean = 1.0 / len(x_ND)
    squares = []  # of what is rounded, for some rows
    for part_rN, part_ND in zip(
        torch.split(p_rN, _ROUNDED_COLUMNS, 1), torch.split(x_ND, _ROUNDED_COLUMNS), strict=True
    ):
        rounded_ND = part_ND.bfloat16()
        sizes_N = torch.linalg.vector_norm(part_ND, dim=1)
        for part_sN, onto_sD in zip(
            torch.split(part_rN, _ROUNDED_ROWS), torch.split(onto_rD, _ROUNDED_ROWS), strict=True
        ):
            part_sN = part_sN - mean
            part_sD = (part_sN.bfloat16() @ rounded_ND).float()
            onto_sD.add_(part_sD, alpha=factor)
            squares.append(torch.linalg.vector_norm(part_sD[::_SAMPLED]).square())
            squares.append(2.0 * torch.linalg.vector_norm(part_sN[::_SAMPLED] * sizes_N).square())
    share = len(p_rN[::_SAMPLED]) / len(p_rN)
    return 2.0**-9 * abs(factor) * math.sqrt(float(torch.stack(squares).sum()) / share)


def _rounds(like: Tensor) -> bool:
    """Tell whether products may be in bfloat16: on CPUs that take half the time then. GPUs have no need of it."""
    on_cpu, is_single = like.device.type == "cpu", like.dtype is torch.float32
    return on_cpu and is_single and has_bfloat16_units(like.device) and not torch.are_deterministic_algorithms_enabled()


def _block_size(like: Tensor) -> int:
    return cost_matrix.BLOCK if like.device.type == "cpu" else _CUDA_BLOCK
