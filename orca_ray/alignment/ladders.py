"""Several ladders of `ladder` at once, each between the same rows and some of the columns, for their values.

For small clouds a step costs more in calls than in arithmetic. Here the columns' potentials are one vector, the rows'
one matrix, and the ladders go in lockstep: each ends at the same step, so a shorter one begins later. Letters as in
`soft_minima`, with K ladders (classes of columns) and S steps of the longest.
"""

import math
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor

from orca_ray.alignment import ladder, soft_minima
from orca_ray.alignment.cost_matrix import Cost
from orca_ray.alignment.soft_minima import FLOOR, LOG2_E


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
        if k == len(classes) or n * (classes[k].stop - classes[begin].start) > soft_minima.BESIDE:
            yield slice(begin, k)
            begin = k


class _Lockstep:
    """Ladders of some classes, side by side."""

    def __init__(self, cost: Cost, classes: Sequence[slice], ladders: Sequence[Sequence[float]]) -> None:
        first = classes[0].start
        self._cost = cost.columns(slice(first, classes[-1].stop))
        self._classes = [slice(c.start - first, c.stop - first) for c in classes]
        self._c_nN = self._cost.block(slice(None))
        n, num_columns = self._c_nN.shape
        num_steps = 2 + max(map(len, ladders))
        late = [num_steps - 2 - len(each) for each in ladders]
        self._e_SK = [
            [ladder.all_steps(each)[max(0, s - begin)] for each, begin in zip(ladders, late, strict=True)]
            for s in range(num_steps)
        ]
        tolerances = [ladder.negligible(each, self._c_nN.dtype) for each in ladders]
        self._tolerance_SK = [
            [each[max(0, s - begin)] for each, begin in zip(tolerances, late, strict=True)] for s in range(num_steps)
        ]
        weights_SK = [[_weight(s - begin, num_steps - 1 - begin) for begin in late] for s in range(num_steps)]
        like = self._c_nN
        sizes = torch.tensor([c.stop - c.start for c in self._classes], device=like.device)
        self._class_N = torch.repeat_interleave(torch.arange(len(classes), device=like.device), sizes)
        self._log_sizes_K1 = sizes.to(like.dtype).log()[:, None]
        self._temperatures_SK = like.new_tensor(self._e_SK)
        self._weights_SK = like.new_tensor(weights_SK)
        self._f_N, self._g_Kn = like.new_zeros(num_columns), like.new_zeros(len(classes), n)
        self._sums_N, self._sums_Kn = torch.empty_like(self._f_N), torch.empty_like(self._g_Kn)
        self._t_nN = torch.empty_like(like)
        self._base: tuple[Tensor, Tensor, list[float]] | None = None

    def values(self) -> list[float]:
        """Go all steps; return mean f + mean g of each class."""
        for s in range(len(self._e_SK)):
            self._step(s)
        means_K = torch.stack([self._f_N[c].mean() for c in self._classes]) + self._g_Kn.mean(1)
        return cast(list[float], means_K.tolist())

    def _step(self, s: int) -> None:
        e_K1, weights_K = self._temperatures_SK[s, :, None], self._weights_SK[s]
        e_N, weights_N = self._temperatures_SK[s][self._class_N], weights_K[self._class_N]
        lost = False
        if not (self._reaches(s) and self._from_kept(s, e_K1, e_N)):
            lost = not self._from_costs(s, e_K1, e_N)
        n = len(self._c_nN)
        next_f_N = self._f_N - e_N * (torch.log(self._sums_N) - math.log(n))
        next_g_Kn = self._g_Kn - e_K1 * (torch.log(self._sums_Kn) - self._log_sizes_K1)
        if lost:
            self._base = None
            for k, c in enumerate(self._classes):
                sums = torch.cat([self._sums_Kn[k], self._sums_N[c]])
                old, soft = (self._f_N[c], self._g_Kn[k]), (next_f_N[c], next_g_Kn[k])
                soft_minima.again(self._cost.columns(c), old, self._e_SK[s][k], sums, soft)
        self._f_N = torch.lerp(self._f_N, next_f_N, weights_N)
        self._g_Kn = torch.lerp(self._g_Kn, next_g_Kn, weights_K[:, None])

    def _reaches(self, s: int) -> bool:
        if self._base is None:
            return False
        kept = zip(self._base[2], self._e_SK[s - 1], self._e_SK[s], self._tolerance_SK[s], strict=True)
        return all(soft_minima.reaches(*each, self._t_nN.dtype) for each in kept)

    def _from_kept(self, s: int, e_K1: Tensor, e_N: Tensor) -> bool:
        """Take the sums from the T that is there; tell whether they are precise."""
        assert self._base is not None
        f_N, g_Kn, _ = self._base
        factors_N = torch.sub(self._f_N, f_N).mul_(LOG2_E).div_(e_N).exp2_()
        factors_Kn = torch.sub(self._g_Kn, g_Kn).mul_(LOG2_E).div_(e_K1).exp2_()
        for k, c in enumerate(self._classes):
            t_nc = self._t_nN[:, c]
            if self._e_SK[s][k] != self._e_SK[s - 1][k]:
                t_nc.square_().square_()
            torch.mv(t_nc, factors_N[c], out=self._sums_Kn[k])
            torch.mv(t_nc.T, factors_Kn[k], out=self._sums_N[c])
        self._sums_Kn *= factors_Kn
        self._sums_N *= factors_N
        return soft_minima.precise_kept((self._sums_Kn, self._sums_N), (factors_Kn, factors_N))

    def _from_costs(self, s: int, e_K1: Tensor, e_N: Tensor) -> bool:
        """Compute T and its sums; tell whether they are precise."""
        f_N, g_Kn = self._f_N * (LOG2_E / e_N), self._g_Kn * (LOG2_E / e_K1)
        for k, c in enumerate(self._classes):
            t_nc = self._t_nN[:, c]
            torch.add(f_N[c], self._c_nN[:, c], alpha=-LOG2_E / self._e_SK[s][k], out=t_nc)
            t_nc += g_Kn[k, :, None]
        self._t_nN.clamp_min_(FLOOR).exp2_()
        for k, c in enumerate(self._classes):
            torch.sum(self._t_nN[:, c], 1, out=self._sums_Kn[k])
        torch.sum(self._t_nN, 0, out=self._sums_N)
        self._base = self._f_N, self._g_Kn, self._e_SK[s]
        return soft_minima.precise((self._sums_Kn, self._sums_N))


def _weight(step: int, last: int) -> float:
    """Return how far a step goes: the first and the last the whole way, others half, those before the first nowhere."""
    return 0.0 if step < 0 else 1.0 if step in (0, last) else 0.5
