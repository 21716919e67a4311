"""Halved squared distances between two clouds, kept or computed block by block; letters as in `soft_minima`."""

import torch
from torch import Tensor

KEPT_BYTES = 12 * 2**20
"""Costs up to this size are kept between steps; larger ones are computed again at each step, block by block."""

BLOCK = 2**18  # numbers: 1 MB, a core's cache; smaller ones cost more in calls than they save
_COLUMNS = 512  # of costs that are computed at once: up to a tenth faster than all


class CostMatrix:
    """C [n, N] between two clouds, centred near the origin; kept when small, otherwise computed block by block.

    ``half_x_N`` and ``half_y_n``: `half_squares` of the columns' and the rows' points, where they are known.
    """

    def __init__(
        self,
        y_nD: Tensor,
        x_ND: Tensor,
        kept_bytes: int | None = None,
        half_x_N: Tensor | None = None,
        half_y_n: Tensor | None = None,
    ) -> None:
        self._y_nD, self._x_ND = y_nD, x_ND
        self._half_y_n1 = (half_squares(y_nD) if half_y_n is None else half_y_n)[:, None]
        self._half_x_N = half_squares(x_ND) if half_x_N is None else half_x_N
        limit = KEPT_BYTES if kept_bytes is None else kept_bytes
        self._keeps = len(y_nD) * len(x_ND) * y_nD.element_size() <= limit
        self._kept_nN: Tensor | None = None
        self._is_view = False

    @property
    def shape(self) -> tuple[int, int]:
        """(n, N)."""
        return len(self._y_nD), len(self._x_ND)

    @property
    def kept_bytes(self) -> int:
        """Bytes that are kept, or will be."""
        return len(self._y_nD) * len(self._x_ND) * self._y_nD.element_size() if self._keeps else 0

    def block(self, rows: slice | Tensor, columns: slice | Tensor = slice(None)) -> Tensor:
        """Return C of some rows and columns, of which one at most is given as ids; not to be written to."""
        kept_nN = self.keep()
        return self._compute(rows, columns) if kept_nN is None else kept_nN[rows, columns]

    def keep(self) -> Tensor | None:
        """Compute what is kept, unless it is there, and return it."""
        if self._keeps and self._kept_nN is None:
            self._kept_nN = self._compute(slice(None), slice(None))
        return self._kept_nN

    def spend(self) -> Tensor | None:
        """Return what is kept, to be written to, unless it is another's; `forget` must follow before other uses."""
        return None if self._is_view else self.keep()

    def take(self, rows: slice) -> Tensor:
        """Return C of some rows to be written to; `forget` must follow before other uses."""
        if self._is_view:
            return self.block(rows).clone()
        kept_nN = self.keep()
        return self._compute(rows, slice(None)) if kept_nN is None else kept_nN[rows]

    def forget(self) -> None:
        """Let go of what is kept, unless it is another's."""
        if not self._is_view:
            self._kept_nN = None

    def _compute(self, rows: slice | Tensor, columns: slice | Tensor) -> Tensor:
        half_x_N, y_nD, x_ND = self._half_x_N[columns], self._y_nD[rows], self._x_ND[columns]
        half_y_n1 = self._half_y_n1[rows]
        block = y_nD.new_empty(len(y_nD), len(x_ND))
        width = _COLUMNS if block.device.type == "cpu" else max(1, len(x_ND))
        for begin in range(0, len(x_ND), width):
            part = slice(begin, begin + width)
            torch.add(half_y_n1, half_x_N[part], out=block[:, part]).addmm_(y_nD, x_ND[part].T, alpha=-1)
        return block


def half_squares(x_ND: Tensor) -> Tensor:
    """Return ½‖x_i‖² [N] without a copy of the points."""
    norms_N: Tensor = torch.linalg.vector_norm(x_ND, dim=1)
    return 0.5 * norms_N.square()


class Cost(CostMatrix):
    """C of nothing but the points."""

    def columns(self, columns: slice) -> "Cost":
        """Return C of some columns; a view of what is kept."""
        part = Cost(self._y_nD, self._x_ND[columns], 0, self._half_x_N[columns], self._half_y_n1[:, 0])
        if self._keeps:
            part._keeps, part._kept_nN, part._is_view = True, self.block(slice(None), columns), True
        return part

    def times(self, v_N: Tensor) -> Tensor:
        """Return C v [n]."""
        kept_nN = self.keep()
        if kept_nN is not None:
            return kept_nN @ v_N
        return self._half_y_n1[:, 0] * v_N.sum() + self._half_x_N @ v_N - self._y_nD @ (self._x_ND.T @ v_N)

    def times_T(self, v_n: Tensor) -> Tensor:
        """Return C^T v [N]."""
        kept_nN = self.keep()
        if kept_nN is not None:
            return kept_nN.T @ v_n
        return self._half_x_N * v_n.sum() + self._half_y_n1[:, 0] @ v_n - self._x_ND @ (self._y_nD.T @ v_n)


class LabelledCost(CostMatrix):
    """Within one cloud whose points have classes: C + ½ w[class of row, class of column]."""

    def __init__(self, x_ND: Tensor, y_N: Tensor, w_KK: Tensor, kept_bytes: int) -> None:
        super().__init__(x_ND, x_ND, kept_bytes)
        self._y_N, self._half_w_KK = y_N, 0.5 * w_KK.to(x_ND)

    def _compute(self, rows: slice | Tensor, columns: slice | Tensor) -> Tensor:
        block = super()._compute(rows, columns)
        y_n, y_N = self._y_N[rows], self._y_N[columns]
        num_rows = max(1, BLOCK // len(y_N))
        for part_rN, y_r in zip(torch.split(block, num_rows), torch.split(y_n, num_rows), strict=True):
            part_rN += self._half_w_KK[y_r][:, y_N]
        return block
