"""Several ladders of `ladder` at once, each between the same rows and some of the columns, for their values.

For small clouds a step costs more in calls than in arithmetic. Here the columns' potentials are one vector, the rows'
one matrix, and the ladders go in lockstep: each ends at the same step, so a shorter one begins later. Letters as in
`soft_minima`, with K ladders (classes of columns) and S steps of the longest.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from orca_ray.alignment import ladder, soft_minima
from orca_ray.alignment.cost_matrix import Cost

_ROWS_HELD = 5
"""Matrices [K, n] that a step holds beside T."""


def values(cost: Cost, classes: Sequence[slice], ladders: Sequence[Sequence[float]]) -> list[float]:
    """Return `ladder.value` for each class of columns down its own ladder; ``classes`` follow one another."""
    found: list[float] = []
    for group in _groups(cost.shape[0], classes):
        members, temperatures = classes[group], ladders[group]
        if len(members) == 1:
            found.append(ladder.value(cost.columns(members[0]), temperatures[0]))
        else:
            found += _Lockstep(cost, members, temperatures).values()
    return found


def _groups(n: int, classes: Sequence[slice]) -> Iterator[slice]:
    """Divide classes so that those of a group together are small enough to be kept beside their costs."""
    begin = 0
    for k in range(1, len(classes) + 1):
        if k < len(classes):
            width = classes[k].stop - classes[begin].start + _ROWS_HELD * (k + 1 - begin)
            if n * width <= soft_minima.BESIDE:
                continue
        yield slice(begin, k)
        begin = k


class _Base(NamedTuple):
    """What the T that is kept was computed at."""

    f_N: Tensor
    g_Kn: Tensor
    e_K: list[float]


class _Lockstep:
    """Ladders of some classes, side by side."""

    def __init__(self, cost: Cost, classes: Sequence[slice], ladders: Sequence[Sequence[float]]) -> None:
        first = classes[0].start
        self._cost = cost.columns(slice(first, classes[-1].stop))
        self._classes = [slice(c.start - first, c.stop - first) for c in classes]
        self._c_nN = self._cost.block(slice(None))
        like, (n, num_columns) = self._c_nN, self._c_nN.shape
        self._e_SK = _in_step([ladder.all_steps(each) for each in ladders])
        self._tolerance_SK = _in_step([ladder.tolerances(each, like.dtype) for each in ladders])
        # The first step and the last go the whole way, others half, those before the first nowhere.
        whole_K = [[1.0, *(0.5 for _ in each), 1.0] for each in ladders]
        self._weights_SK = like.new_tensor(_in_step(whole_K, 0.0))
        self._temperatures_SK = like.new_tensor(self._e_SK)
        self._scales_SK = like.new_tensor([[soft_minima.LOG2_E / e for e in e_K] for e_K in self._e_SK])
        sizes = torch.tensor([c.stop - c.start for c in self._classes], device=like.device)
        self._class_N = torch.repeat_interleave(torch.arange(len(classes), device=like.device), sizes)
        self._log_sizes_K1 = sizes.to(like.dtype).log()[:, None]
        self._f_N, self._g_Kn = like.new_zeros(num_columns), like.new_zeros(len(classes), n)
        self._sums_N, self._sums_Kn = torch.empty_like(self._f_N), torch.empty_like(self._g_Kn)
        self._t_nN = torch.empty_like(like)
        self._base: _Base | None = None

    def values(self) -> list[float]:
        """Go all steps; return mean f + mean g of each class."""
        for s in range(len(self._e_SK)):
            self._step(s)
        means_K: list[float] = (torch.stack([self._f_N[c].mean() for c in self._classes]) + self._g_Kn.mean(1)).tolist()
        return means_K

    def _step(self, s: int) -> None:
        precise = (self._reaches(s) and self._sum_kept(s)) or self._sum_anew(s)
        e_K, weights_K = self._temperatures_SK[s], self._weights_SK[s]
        next_f_N = self._f_N - e_K[self._class_N] * (torch.log(self._sums_N) - math.log(len(self._c_nN)))
        next_g_Kn = self._g_Kn - e_K[:, None] * (torch.log(self._sums_Kn) - self._log_sizes_K1)
        if not precise:
            self._base = None
            for k, c in enumerate(self._classes):
                sums = torch.cat([self._sums_Kn[k], self._sums_N[c]])
                if not soft_minima.precise([sums]):
                    old, soft = (self._f_N[c], self._g_Kn[k]), (next_f_N[c], next_g_Kn[k])
                    soft_minima.redo_lost(self._cost.columns(c), old, self._e_SK[s][k], sums, soft)
        self._f_N = torch.lerp(self._f_N, next_f_N, weights_K[self._class_N])
        self._g_Kn = torch.lerp(self._g_Kn, next_g_Kn, weights_K[:, None])

    def _reaches(self, s: int) -> bool:
        """Tell whether the T that is kept does for step ``s``."""
        if self._base is None:
            return False
        each_class = zip(self._base.e_K, self._e_SK[s - 1], self._e_SK[s], self._tolerance_SK[s], strict=True)
        return all(soft_minima.reaches(*each, self._t_nN.dtype) for each in each_class)

    def _sum_kept(self, s: int) -> bool:
        """Take the sums from the T that is there; tell whether they are precise."""
        assert self._base is not None
        scales_K = self._scales_SK[s]
        factors_N = (self._f_N - self._base.f_N).mul_(scales_K[self._class_N]).exp2_()
        factors_Kn = (self._g_Kn - self._base.g_Kn).mul_(scales_K[:, None]).exp2_()
        for k, c in enumerate(self._classes):
            t_nc = self._t_nN[:, c]
            if self._e_SK[s][k] != self._e_SK[s - 1][k]:
                t_nc.square_().square_()
            torch.mv(t_nc, factors_N[c], out=self._sums_Kn[k])
            torch.mv(t_nc.T, factors_Kn[k], out=self._sums_N[c])
        self._sums_Kn *= factors_Kn
        self._sums_N *= factors_N
        return soft_minima.precise_kept([self._sums_Kn, self._sums_N], [factors_Kn, factors_N])

    def _sum_anew(self, s: int) -> bool:
        """Compute T and its sums; tell whether they are precise."""
        scales_K = self._scales_SK[s]
        f_N, g_Kn = self._f_N * scales_K[self._class_N], self._g_Kn * scales_K[:, None]
        for k, c in enumerate(self._classes):
            t_nc = self._t_nN[:, c]
            torch.add(f_N[c], self._c_nN[:, c], alpha=-soft_minima.LOG2_E / self._e_SK[s][k], out=t_nc)
            t_nc += g_Kn[k, :, None]
        self._t_nN.clamp_min_(soft_minima.FLOOR).exp2_()
        for k, c in enumerate(self._classes):
            torch.sum(self._t_nN[:, c], 1, out=self._sums_Kn[k])
        torch.sum(self._t_nN, 0, out=self._sums_N)
        self._base = _Base(self._f_N, self._g_Kn, self._e_SK[s])
        return soft_minima.precise([self._sums_Kn, self._sums_N])


def _in_step(rows: Sequence[Sequence[float]], before: float | None = None) -> list[list[float]]:
    """Let rows end together and transpose them; shorter ones wait at ``before``, or at their first entry."""
    longest = max(map(len, rows))
    late = [[row[0] if before is None else before] * (longest - len(row)) + list(row) for row in rows]
    return [list(column) for column in zip(*late, strict=True)]
