"""Entropic optimal transport between uniform measures on points, differentiated by the envelope theorem.

With a_i = 1/n and b_j = 1/m, the problem is  OT = min_P <P, C> + eps KL(P | a b^T)  over plans P with marginals a and
b. Sinkhorn's iterations find its potentials f, g without autograd; at the optimum OT = <a, f> + <b, g>, and dOT/dC = P,
because the potentials are stationary (Feydy et al. 2019, arXiv:1810.08278). For the cost of `Kernel`, the gradient in
the points and in the distances between classes is thus one more pass over the rows.

The iterations are POT's `sinkhorn_stabilized` (Schmitzer 2019, arXiv:1610.06519), with three differences: rows go in
blocks, each read once for both half-steps; the marginals' error comes with an iteration instead of with a whole plan;
and where the matrix does not fit the memory of a call, its blocks are computed anew at each iteration.

Letters: n rows, m columns, D features, L and K classes of rows and columns.
"""

import math
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from orca_ray.alignment import distance, newton
from orca_ray.alignment.distance import Diagnosis
from orca_ray.alignment.kernel import Kernel, Side

RELATIVE_EPSILON = 0.05
"""eps as a share of the mean cost within the source: small against class gaps, large enough for tens of iterations."""

TOLERANCE = 1e-7
"""L1 error of a plan's marginals, of at most 2."""

_FIRST_ITERATIONS = 60
_ALONE_ITERATIONS = 500
_ANNEALING = (64.0, 16.0, 4.0)  # times eps
_ANNEALING_TOLERANCE = 1e-3
_CHECK_EVERY = 5  # a check waits for the device
_UNDERFLOW = 300.0  # e to the minus this leaves room for the scalings
_ABSORB_ABOVE = 180.0  # logarithm of scalings; up to here they leave the kernel 1e-150 of double precision's range


@dataclass
class Ledger:
    """How the problems of one call ended, gathered for its `Diagnosis`."""

    iterations: int = 0
    error: float = 0.0
    notes: list[str] = field(default_factory=list)

    def enter(self, what: str, ending: "Ending", kernel: Kernel) -> None:
        """Take note of a solved problem; ``what`` it moves between is told where something was amiss."""
        self.iterations = max(self.iterations, ending.iterations)
        self.error = max(self.error, math.inf if math.isnan(ending.error) else ending.error)
        n, m = kernel.shape
        if not ending.error <= TOLERANCE:
            self.note(
                f"the transport between {what} ended before its tolerance and its gradient is approximate: where that "
                "lasts, bring the two sides to a like scale, or align with bures or sliced"
            )
        if not kernel.kept:
            self.note(
                f"the transport between {what} ({n} x {m} points) is larger than the memory of a call and computes its "
                "costs anew at each iteration: fewer samples (align.samples, align.source_samples) are much faster"
            )

    def note(self, note: str) -> None:
        """Keep a sentence, once."""
        if note not in self.notes:
            self.notes.append(note)

    def diagnosis(self) -> Diagnosis:
        """Sum up."""
        return Diagnosis(self.error <= TOLERANCE, self.iterations, self.error, tuple(self.notes))


@dataclass(frozen=True)
class Ending:
    """A solved problem: scalings of the kernel [n] and [m], and how far it got."""

    u_n: Tensor
    v_m: Tensor
    iterations: int
    error: float
    excess: float = 0.0
    """What the plan's mass exceeds 1 by."""


@dataclass(frozen=True)
class _Problem:
    y_n: Tensor | None
    """Class ids of the rows."""
    y_m: Tensor | None
    """And of the columns."""
    epsilon: float
    start_m: Tensor | None
    what: str
    ledger: Ledger

    def solve(self, x_nD: Tensor, z_mD: Tensor | None, w_LK: Tensor | None) -> tuple[Kernel, Ending]:
        columns = None if z_mD is None else Side(z_mD, self.y_m)
        kernel = Kernel(Side(x_nD, self.y_n), columns, w_LK, self.what)
        alone = columns is None
        ending = _solve_alone(kernel, self.epsilon) if alone else _solve(kernel, self.epsilon, self.start_m)
        self.ledger.enter(self.what, ending, kernel)
        return kernel, ending


def epsilon_for(mean_cost: float, x_ND: Tensor) -> float:
    """Return the regularisation: `RELATIVE_EPSILON` of the mean cost between all pairs of points of the source.

    A source ``x_ND`` without any spread (one point, or copies of one) takes its mean square instead.
    """
    mean_square = float((x_ND * x_ND).sum(1).mean())
    # Centring leaves 1e-16 of the points, squared.
    return RELATIVE_EPSILON * (mean_cost if mean_cost > 1e-24 * mean_square else mean_square or 1.0)


def transport(
    rows: Side,
    columns: Side,
    w_LK: Tensor | None,
    epsilon: float,
    ledger: Ledger,
    what: str,
    start_m: Tensor | None = None,
) -> Tensor:
    """Return OT between two sides, a scalar differentiable in the points of both and in ``w_LK``.

    O(n m D) once and O(n m) an iteration, or O(n m D) an iteration where n m numbers do not fit; tens of iterations
    where eps is about 0.05 of the mean cost. Problems that are not done after 60, as with few points or classes far
    apart, take Newton's steps up to 2048 points on the smaller side; failing that, they start again from the solution
    at larger eps. They end after 500 at the latest.

    Args:
        rows: the target; plans are exact in the rows' marginals whatever the error of the columns'.
        columns: the source.
        w_LK: distances between the classes of rows and columns, or None where labels play no part.
        epsilon: the regularisation, in units of the cost.
        ledger: is told how it went.
        what: names the two sides, for messages.
        start_m: the columns' potential to start from, where a near one is known.
    """
    problem = _Problem(rows.y_n, columns.y_n, epsilon, start_m, what, ledger)
    return cast(Tensor, _Transport.apply(rows.x_nD, columns.x_nD, w_LK, problem))  # type: ignore[no-untyped-call]


def self_transport(side: Side, w_LL: Tensor | None, epsilon: float, ledger: Ledger, what: str) -> Tensor:
    """Return OT between a side and itself, differentiable as `transport` is; ``w_LL`` is zero on its diagonal.

    The iteration is the symmetric u ← (u a / K u)^½, whose error halves at least in each where the kernel is positive
    semi-definite (Feydy et al. 2019).
    """
    problem = _Problem(side.y_n, None, epsilon, None, what, ledger)
    return cast(Tensor, _Transport.apply(side.x_nD, None, w_LL, problem))  # type: ignore[no-untyped-call]


@torch.no_grad()
def self_potential(side: Side, w_LL: Tensor | None, epsilon: float, ledger: Ledger, what: str) -> tuple[Tensor, Tensor]:
    """Return `self_transport` without a gradient, and its potential [n]."""
    kernel, ending = _Problem(side.y_n, None, epsilon, None, what, ledger).solve(side.x_nD, None, w_LL)
    return _value(kernel, ending), epsilon * ending.u_n.log()


class _Transport(torch.autograd.Function):
    """The value, with its gradients taken along while the kernel is at hand."""

    @staticmethod
    def forward(ctx: FunctionCtx, x_nD: Tensor, z_mD: Tensor | None, w_LK: Tensor | None, problem: _Problem) -> Tensor:
        kernel, ending = problem.solve(x_nD, z_mD, w_LK)
        needed: tuple[bool, ...] = ctx.needs_input_grad  # type: ignore[attr-defined]
        if any(needed):
            gradients = kernel.gradients(ending.u_n, ending.v_m, of_columns=needed[1])
            kept = (gradients.x_nD, gradients.z_mD, gradients.w_LK)
            ctx.save_for_backward(*kept)  # type: ignore[arg-type]  # None is allowed
        return _value(kernel, ending)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved: tuple[Tensor | None, ...] = ctx.saved_tensors  # type: ignore[attr-defined]
        return *(None if partial is None else grad * partial for partial in saved), None


def _potentials(kernel: Kernel, ending: Ending) -> tuple[Tensor, Tensor]:
    return kernel.f_n + kernel.epsilon * ending.u_n.log(), kernel.g_m + kernel.epsilon * ending.v_m.log()


def _value(kernel: Kernel, ending: Ending) -> Tensor:
    """The dual objective; it is below the optimum by a multiple of the error's square."""
    f_n, g_m = _potentials(kernel, ending)
    return f_n.mean() + g_m.mean() - kernel.epsilon * ending.excess


def _solve(kernel: Kernel, epsilon: float, start_m: Tensor | None) -> Ending:
    """Iterate; where that crawls, take Newton's steps, or anneal, and go on from there."""
    start_m = torch.zeros_like(kernel.g_m) if start_m is None else start_m
    ending = _alternate(kernel, epsilon, start_m, TOLERANCE, _FIRST_ITERATIONS)
    iterations = ending.iterations
    for prepare in (_newton, _anneal, _newton):
        if ending.error <= TOLERANCE:
            break
        near_m, spent = prepare(kernel, epsilon, ending)
        ending = _alternate(kernel, epsilon, near_m, TOLERANCE, _FIRST_ITERATIONS)
        iterations += spent + ending.iterations
    return replace(ending, iterations=iterations)


def _newton(kernel: Kernel, epsilon: float, ending: Ending) -> tuple[Tensor, int]:
    """Return the columns' potentials after Newton's steps, and how many: none where the problem is too large."""
    f_n, g_m = _potentials(kernel, ending)
    n, m = kernel.shape
    too_large = newton.NUM_MATRICES * kernel.f_n.element_size() * n * m > distance.MEMORY_BYTES
    if too_large or min(n, m) > newton.LARGEST:
        return g_m, 0
    scaled_nm = kernel.scaled_costs(epsilon)
    if n <= m:
        _, g_m, steps = newton.polish(scaled_nm, f_n / epsilon, g_m / epsilon, TOLERANCE)
    else:
        g_m, _, steps = newton.polish(scaled_nm.T, g_m / epsilon, f_n / epsilon, TOLERANCE)
    return epsilon * g_m, steps


def _anneal(kernel: Kernel, epsilon: float, ending: Ending) -> tuple[Tensor, int]:
    """Return potentials of the columns at a larger eps, where mass between far-off classes settles quickly."""
    iterations, near_m = 0, torch.zeros_like(kernel.g_m)
    for factor in _ANNEALING:
        ending = _alternate(kernel, factor * epsilon, near_m, _ANNEALING_TOLERANCE, _FIRST_ITERATIONS)
        _, near_m = _potentials(kernel, ending)
        iterations += ending.iterations
    return near_m, iterations


def _alternate(kernel: Kernel, epsilon: float, start_m: Tensor, tolerance: float, max_iterations: int) -> Ending:
    """Scale rows and columns by turns until the columns' marginals are right; the rows' always are."""
    n, m = kernel.shape
    kernel.rebase(*_start(kernel, start_m, epsilon), epsilon)
    u_n, v_m = torch.ones_like(kernel.f_n), torch.ones_like(kernel.g_m)
    for iteration in range(1, max_iterations + 1):
        v_over_m, sums_m = v_m / m, torch.zeros_like(v_m)
        for block, kernel_rm in kernel.blocks():
            u_n[block] = 1.0 / (kernel_rm @ v_over_m)
            sums_m += kernel_rm.T @ u_n[block]
        sums_m /= n
        if iteration % _CHECK_EVERY == 0 or iteration == max_iterations:
            error = float((v_m * sums_m - 1.0).abs().mean())
            if error <= tolerance:
                break
            if float(torch.cat([u_n, v_m]).log().abs().max()) > _ABSORB_ABOVE:
                kernel.rebase(kernel.f_n + epsilon * u_n.log(), kernel.g_m + epsilon * v_m.log(), epsilon)
                sums_m *= v_m
                u_n, v_m = torch.ones_like(u_n), torch.ones_like(v_m)
        if iteration < max_iterations:
            v_m = 1.0 / sums_m
    return Ending(u_n, v_m, iteration, error)


def _start(kernel: Kernel, start_m: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """C-transforms: each row of the kernel then holds a 1, and no column underflows as a whole."""
    f_n, g_m = torch.empty_like(kernel.f_n), torch.full_like(start_m, torch.inf)
    for block, cost_rm in kernel.costs():
        f_n[block] = (cost_rm - start_m).min(dim=1).values
        g_m = torch.minimum(g_m, (cost_rm - f_n[block, None]).min(dim=0).values)
    return f_n, torch.where(g_m - start_m > _UNDERFLOW * epsilon, g_m, start_m)


def _solve_alone(kernel: Kernel, epsilon: float) -> Ending:
    n, _ = kernel.shape
    kernel.rebase(kernel.f_n, kernel.g_m, epsilon)  # zero potentials: its diagonal is 1
    u_n, sums_n = torch.ones_like(kernel.f_n), torch.empty_like(kernel.f_n)
    for iteration in range(1, _ALONE_ITERATIONS + 1):
        for block, kernel_rm in kernel.blocks():
            sums_n[block] = kernel_rm @ (u_n / n)
        if iteration % _CHECK_EVERY == 0:
            error = float((u_n * sums_n - 1.0).abs().mean())
            if error <= TOLERANCE or iteration == _ALONE_ITERATIONS:
                break
        u_n = (u_n / sums_n).sqrt()
    return Ending(u_n, u_n, iteration, error, float((u_n * sums_n).mean()) - 1.0)
