"""The matrix that Sinkhorn's iterations work on, in blocks of rows.

Letters: n rows, m columns, r rows of a block, D features, L and K classes of rows and columns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from orca_ray.alignment import distance
from orca_ray.alignment.blocks import half_squared_distances, half_squares, row_blocks


@dataclass(frozen=True)
class Side:
    """Points of one side and, where labels are at work, their class ids."""

    x_nD: Tensor
    y_n: Tensor | None = None


@dataclass
class Gradients:
    """What the transport cost changes by."""

    x_nD: Tensor
    """With the rows' points: sum_j P_ij (x_i − z_j)."""
    z_mD: Tensor | None
    """With the columns' points, where they are others, and asked for."""
    w_LK: Tensor | None
    """With the distances between classes: half of the mass between them."""


class Kernel:
    """G_ij = exp((f_i + g_j − C_ij) / eps) for C_ij = ½‖x_i − z_j‖² + ½ W[label_i, label_j].

    The kernel is kept where it fits half of the memory of a call, and the costs where both do; what is not kept is
    computed anew in each pass, block by block, with the same result.

    Args:
        rows: points [n, D].
        columns: points [m, D], or None for ``rows`` themselves: no point then costs anything to itself.
        w_LK: distances between the classes of rows and columns, or None where labels play no part.
        what: names the two sides, for messages.
    """

    def __init__(self, rows: Side, columns: Side | None, w_LK: Tensor | None, what: str) -> None:
        self._rows, self._columns = rows, columns or rows
        self._alone = columns is None
        self._half_w_LK = None if w_LK is None else 0.5 * w_LK
        self._half_z_m = half_squares(self._columns.x_nD)
        n, m = self.shape
        element = rows.x_nD.element_size()
        self._slices = row_blocks(n, element * m, rows.x_nD.device, what=what)
        total = element * n * m
        self.kept = total <= distance.MEMORY_BYTES // 2
        keeps_costs = 2 * total <= distance.MEMORY_BYTES // 2
        self._costs = [self._cost(block) for block in self._slices] if keeps_costs else None
        self._blocks: list[Tensor] = []
        self.f_n, self.g_m = rows.x_nD.new_zeros(n), rows.x_nD.new_zeros(m)
        self.epsilon = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self._rows.x_nD), len(self._columns.x_nD)

    def rebase(self, f_n: Tensor, g_m: Tensor, epsilon: float) -> None:
        """Set the potentials and the regularisation."""
        self.f_n, self.g_m, self.epsilon = f_n, g_m, epsilon
        if self.kept:
            spare: Sequence[Tensor | None] = self._blocks or [None] * len(self._slices)
            pairs = zip(self.costs(), spare, strict=True)
            self._blocks = [self._exponentiate(block, cost_rm, out_rm) for (block, cost_rm), out_rm in pairs]

    def costs(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield slices of rows and their costs [r, m], to be left unchanged."""
        for i, block in enumerate(self._slices):
            yield block, self._cost(block) if self._costs is None else self._costs[i]

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield slices of rows and their kernel [r, m], to be left unchanged."""
        for i, block in enumerate(self._slices):
            if self.kept:
                yield block, self._blocks[i]
            else:
                cost_rm = self._cost(block)
                yield block, self._exponentiate(block, cost_rm, cost_rm)

    def scaled_costs(self, epsilon: float) -> Tensor:
        """Return all costs over eps, [n, m], newly made."""
        return torch.cat([cost_rm / epsilon for _, cost_rm in self.costs()])

    def gradients(self, u_n: Tensor, v_m: Tensor, *, of_columns: bool) -> Gradients:
        """Return those of <P, C> with the plan P = u G v / (n m) held fixed."""
        n, m = self.shape
        x_nD, z_mD = self._rows.x_nD, self._columns.x_nD
        plan = Gradients(torch.empty_like(x_nD), torch.zeros_like(z_mD) if of_columns else None, None)
        if self._half_w_LK is not None:
            plan.w_LK = torch.zeros_like(self._half_w_LK)
            one_hot_mK = _one_hot(self._columns.y_n, plan.w_LK.shape[1]).to(x_nD)
        for block, kernel_rm in self.blocks():
            plan_rm = kernel_rm * (v_m / m)
            plan_rm *= u_n[block, None] / n
            plan.x_nD[block] = plan_rm.sum(1, keepdim=True) * x_nD[block] - plan_rm @ z_mD
            if plan.z_mD is not None:
                plan.z_mD += plan_rm.sum(0)[:, None] * z_mD - plan_rm.T @ x_nD[block]
            if plan.w_LK is not None:
                one_hot_rL = _one_hot(self._rows.y_n, len(plan.w_LK), block).to(x_nD)
                plan.w_LK += 0.5 * one_hot_rL.T @ (plan_rm @ one_hot_mK)
        if self._alone:
            plan.x_nD *= 2.0  # moving a point moves a row and a column
        return plan

    def _exponentiate(self, block: slice, cost_rm: Tensor, out_rm: Tensor | None) -> Tensor:
        out_rm = torch.sub(self.g_m, cost_rm, out=out_rm)
        return out_rm.add_(self.f_n[block, None]).mul_(1.0 / self.epsilon).exp_()

    def _cost(self, block: slice) -> Tensor:
        cost_rm = half_squared_distances(self._rows.x_nD[block], self._columns.x_nD, self._half_z_m)
        if self._half_w_LK is not None:
            assert self._rows.y_n is not None
            assert self._columns.y_n is not None
            cost_rm += self._half_w_LK[self._rows.y_n[block]][:, self._columns.y_n]
        if self._alone:
            cost_rm.diagonal(block.start).zero_()
        return cost_rm


def _one_hot(y_n: Tensor | None, num_classes: int, block: slice = slice(None)) -> Tensor:
    # Adding by index would do, but not in a fixed order on a GPU.
    assert y_n is not None
    return torch.nn.functional.one_hot(y_n[block], num_classes)
