"""Squared distances between classes as the reference computes them, in its two modes.

Letters: K source classes of n_c points each, sorted and centred; n target points of one class; D features; r_c the rank
kept of a class's covariance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from orca_ray.alignment import cost_matrix, ladder, ladders, self_values
from orca_ray.alignment.cost_matrix import Cost, half_squares

FIT_BYTES = 2**29
"""Costs within the source, met by `fit` alone, are kept between steps up to this size."""

OWN_BYTES = 2**21
"""Costs within the target are kept up to this size beside kept ones with the source."""

SPECTRA_BYTES = 2**22
"""What a call may keep of the classes' singular vectors until it knows their weights in the gradient."""

_FLOAT32_EPSILON = float(torch.finfo(torch.float32).eps)  # the reference's precision, whatever ours


@dataclass(frozen=True)
class SortedSource:
    """Source points, class by class, about their mean."""

    x_ND: Tensor
    half_squares_N: Tensor
    y_N: Tensor
    """Class ids 0 … K-1, ascending."""
    center_D: Tensor
    classes: tuple[slice, ...]
    lows_KD: Tensor
    highs_KD: Tensor

    @classmethod
    def of(cls, x_ND: Tensor, y_N: Tensor) -> Self:
        """Sort and centre points with class ids 0 … K-1 all of which occur."""
        order_N = torch.argsort(y_N, stable=True)
        center_D = x_ND.mean(0)
        x_ND = (x_ND - center_D)[order_N]
        ends = torch.bincount(y_N).cumsum(0).tolist()
        classes = tuple(slice(begin, end) for begin, end in zip([0, *ends[:-1]], ends, strict=True))
        lows_KD, highs_KD = (torch.stack(side) for side in zip(*(_box(x_ND[c]) for c in classes), strict=True))
        return cls(x_ND, half_squares(x_ND), y_N[order_N], center_D, classes, lows_KD, highs_KD)

    def to(self, dtype: torch.dtype) -> "SortedSource":
        """Return the same points in another precision."""
        names = ("x_ND", "half_squares_N", "center_D", "lows_KD", "highs_KD")
        return replace(self, **{name: getattr(self, name).to(dtype) for name in names})

    def costs(self, x_nD: Tensor) -> "TargetCosts":
        """Return the costs of target points, less `center_D`."""
        across = Cost(x_nD, self.x_ND, half_x_N=self.half_squares_N)
        left = max(cost_matrix.KEPT_BYTES - across.kept_bytes - 2 * x_nD.nbytes, OWN_BYTES)
        return TargetCosts(across, Cost(x_nD, x_nD, left))

    @property
    def shares_K(self) -> Tensor:
        """Share of the points that each class has."""
        sizes = torch.tensor([c.stop - c.start for c in self.classes], device=self.x_ND.device)
        return (sizes / len(self.x_ND)).to(self.x_ND.dtype)

    def squared_diameter(self, x_nD: Tensor) -> float:
        """Return the squared diagonal of the bounding box of all points and the target's."""
        low_D, high_D = _box(x_nD)
        gap_D = torch.maximum(high_D, self.highs_KD.amax(0)) - torch.minimum(low_D, self.lows_KD.amin(0))
        return float((gap_D * gap_D).sum())

    def squared_diameters(self, x_nD: Tensor) -> list[float]:
        """Return the same for each class with the target, [K]."""
        low_D, high_D = _box(x_nD)
        gaps_KD = torch.maximum(high_D, self.highs_KD) - torch.minimum(low_D, self.lows_KD)
        diameters: list[float] = (gaps_KD * gaps_KD).sum(1).tolist()
        return diameters


def _box(x_nD: Tensor) -> tuple[Tensor, Tensor]:
    """Return each feature's least and largest value; aminmax takes ten times as long."""
    return x_nD.amin(0), x_nD.amax(0)


@dataclass
class TargetCosts:
    """C of one target class."""

    across: Cost
    """With the source, [n, N]."""
    own: Cost
    """With itself, [n, n]."""


class LabelGradient(Protocol):
    """What W [K] does to the gradient."""

    def __call__(self, weights_K: Tensor, onto_nD: Tensor) -> None:
        """Add the gradient [n, D] of the weighted sum of W onto a matrix."""


class Labels(Protocol):
    """Distances W between the source's classes, and from them to one target class."""

    def source_terms(self, source: SortedSource) -> tuple[Mapping[str, Tensor], Tensor]:
        """Return what calls need, by name, and W [K, K] within the source, its diagonal zero."""

    def prepare(self, source: SortedSource, terms: Mapping[str, Tensor]) -> None:
        """Take what `source_terms` returned."""

    def to_target(self, source: SortedSource, x_nD: Tensor, costs: TargetCosts) -> tuple[Tensor, LabelGradient | None]:
        """Return W [K] from each source class to the target's, and its gradient where it has one.

        Args:
            source: the points, in the precision of the target's.
            x_nD: target points less the source's mean.
            costs: between target and source, and within the target.
        """


class SinkhornLabels:
    """``otdd-exact``: Sinkhorn divergence between two classes, cost ‖x − x'‖², a ladder of its own; a constant.

    Costs here are halved, and so are temperatures: the potentials then come out halved.
    """

    def source_terms(self, source: SortedSource) -> tuple[Mapping[str, Tensor], Tensor]:
        """Return each class's value with itself by steps and phase of the ladder, and W."""
        points = [source.x_ND[c] for c in source.classes]
        boxes_KD = source.highs_KD - source.lows_KD
        self_KSP = torch.stack(
            [
                self_values.by_phase(Cost(p, p, FIT_BYTES), squared, 0.5)
                for p, squared in zip(points, boxes_KD.square().sum(1).tolist(), strict=True)
            ]
        )
        phases = self_KSP.tolist()
        w_KK = torch.zeros(len(points), len(points), dtype=torch.float64)
        for i in range(1, len(points)):
            for j, squared in enumerate(source.squared_diameters(points[i])[:i]):
                across = ladder.value(Cost(points[i], points[j], FIT_BYTES), _halved(ladder.ladder(squared)))
                own = sum(self_values.at_phase(phases[c], squared) for c in (i, j))
                w_KK[i, j] = w_KK[j, i] = 2.0 * (across - own)
        return {"self_KSP": self_KSP}, w_KK

    def prepare(self, source: SortedSource, terms: Mapping[str, Tensor]) -> None:
        """Take the values by phase."""
        self._phases: list[list[list[float]]] = terms["self_KSP"].tolist()

    def to_target(self, source: SortedSource, x_nD: Tensor, costs: TargetCosts) -> tuple[Tensor, LabelGradient | None]:
        """Read W off blocks of the cost; see `Labels`."""
        costs.across.keep()  # the largest piece first: memory that is let go again lies beside it, not below
        diameters = source.squared_diameters(x_nD)
        own_K = self_values.at_diameters(costs.own, diameters, 0.5)
        across_K = ladders.values(costs.across, source.classes, [_halved(ladder.ladder(each)) for each in diameters])
        w_K = [
            2.0 * (across - self_values.at_phase(phases, squared) - own)
            for across, phases, squared, own in zip(across_K, self._phases, diameters, own_K, strict=True)
        ]
        return x_nD.new_tensor(w_K), None


def _halved(temperatures: Sequence[float]) -> list[float]:
    return [0.5 * e for e in temperatures]


class TruncatedGaussianLabels:
    """``otdd-gaussian``: 2-Wasserstein distance between the Gaussians fitted to two classes.

    W = ‖m − m'‖² + max(0, tr S + tr S' − 2 tr (S^½ S' S^½)^½)  with unbiased covariances. In both roots the reference
    sets eigenvalues up to D eps32 of the largest to zero, which shows (a few per cent of W), so it is done here. With
    S = A^T A after the cut, and Y the centred target, the last trace is the sum of the singular values of
    B = Y A^T / (n − 1)^½ that survive the second cut. Its gradient is that of a nuclear norm.
    """

    def source_terms(self, source: SortedSource) -> tuple[Mapping[str, Tensor], Tensor]:
        """Return the factors A [r_0 + r_1 + …, D], their ranks, the traces of S and the means, and W."""
        points = [source.x_ND[c].double() for c in source.classes]
        means_KD = torch.stack([p.mean(0) for p in points])
        scaled = [(p - mean) / (len(p) - 1) ** 0.5 for p, mean in zip(points, means_KD, strict=True)]
        factors = [_factor(p) for p in scaled]
        traces_K = torch.stack([(p * p).sum() for p in scaled])
        w_KK = torch.zeros(len(points), len(points), dtype=torch.float64)
        for i in range(len(points)):
            for j in range(i + 1, len(points)):
                singular = _Spectrum.of(scaled[j] @ factors[i].T, scaled[j].shape[1]).values_k.sum()
                spread = (traces_K[i] + traces_K[j] - 2.0 * singular).clamp_min(0)
                w_KK[i, j] = w_KK[j, i] = (means_KD[i] - means_KD[j]).square().sum() + spread
        terms = {
            "factors_RD": torch.cat(factors).to(source.x_ND.dtype),
            "ranks_K": torch.tensor([len(factor) for factor in factors]),
            "traces_K": traces_K.to(source.x_ND.dtype),
            "means_KD": means_KD.to(source.x_ND.dtype),
        }
        return terms, w_KK

    def prepare(self, source: SortedSource, terms: Mapping[str, Tensor]) -> None:
        """Take the summaries of the classes."""
        like = source.x_ND
        self._factors = torch.split(terms["factors_RD"].to(like), terms["ranks_K"].tolist())
        self._traces_K, self._means_KD = terms["traces_K"].to(like), terms["means_KD"].to(like)

    def to_target(self, source: SortedSource, x_nD: Tensor, costs: TargetCosts) -> tuple[Tensor, LabelGradient | None]:
        """Compute W with what its gradient takes; see `Labels`."""
        factors = [factor.to(x_nD) for factor in self._factors]
        means_KD = self._means_KD.to(x_nD)
        mean_D = x_nD.mean(0)
        root = (len(x_nD) - 1) ** 0.5

        def spectrum_of(factor: Tensor) -> _Spectrum:  # without a centred copy of the points
            return _Spectrum.of(
                torch.addmm(factor @ mean_D, x_nD, factor.T, beta=-1.0 / root, alpha=1.0 / root), len(mean_D)
            )

        spectra, singular, kept_bytes = [], [], 0
        for factor in factors:
            spectrum = spectrum_of(factor)
            singular.append(spectrum.values_k.sum())
            kept_bytes += spectrum.vectors_mk.nbytes
            # Those that do not fit are computed once more for the gradient.
            spectra.append(spectrum if kept_bytes <= SPECTRA_BYTES else None)
        deviations_D = torch.linalg.vector_norm(x_nD - mean_D, dim=0).div_(root)  # var takes six times as long
        spread_K = self._traces_K.to(x_nD) + deviations_D.square().sum() - 2.0 * torch.stack(singular)
        w_K: Tensor = (means_KD - mean_D).square().sum(1) + spread_K.clamp_min(0)

        def add_gradient(weights_K: Tensor, onto_nD: Tensor) -> None:
            moved_D = (weights_K[:, None] * (mean_D - means_KD)).sum(0)
            onto_nD.add_(moved_D, alpha=2.0 / len(x_nD))
            spread_weights = (2.0 / root * weights_K * (spread_K > 0)).tolist()
            scaled_nD = (x_nD - mean_D).div_(root)
            onto_nD.add_(scaled_nD, alpha=sum(spread_weights))
            for weight, spectrum, factor in zip(spread_weights, spectra, factors, strict=True):
                (spectrum or spectrum_of(factor)).add_slope(onto_nD, scaled_nD, factor, -weight)

        return w_K, add_gradient


def _factor(scaled_nD: Tensor) -> Tensor:
    """Return A [r, D] with A^T A the covariance after the cut."""
    eigenvalues_D, vectors_DD = torch.linalg.eigh(scaled_nD.T @ scaled_nD)
    kept = eigenvalues_D > eigenvalues_D[-1] * len(eigenvalues_D) * _FLOAT32_EPSILON
    factor_rD: Tensor = (vectors_DD[:, kept] * eigenvalues_D[kept].sqrt()).T
    return factor_rD.contiguous()


@dataclass(frozen=True)
class _Spectrum:
    """Singular values of B = Y A^T [n, r] whose squares survive the cut, and what their sum's gradient takes."""

    values_k: Tensor
    vectors_mk: Tensor
    """Singular vectors on B's smaller side: the left ones where n < r, else the right ones."""

    @classmethod
    def of(cls, b_nr: Tensor, num_features: int) -> Self:
        """Decompose the smaller of B B^T and B^T B."""
        gram_mm = b_nr @ b_nr.T if b_nr.shape[0] < b_nr.shape[1] else b_nr.T @ b_nr
        del b_nr  # its memory goes first
        squares, vectors = torch.linalg.eigh(gram_mm)
        kept = squares > (squares[-1:] * num_features * _FLOAT32_EPSILON).clamp_min(0)
        return cls(squares[kept].sqrt(), vectors[:, kept])

    def add_slope(self, slope_nD: Tensor, y_nD: Tensor, factor_rD: Tensor, weight: float) -> None:
        """Add ``weight`` times the gradient of the sum with respect to Y: U V^T A, of B's singular vectors."""
        scaled_mk = self.vectors_mk / self.values_k
        if len(y_nD) < len(factor_rD):
            right_kD = (scaled_mk.T @ (y_nD @ factor_rD.T)) @ factor_rD
            slope_nD.addmm_(self.vectors_mk, right_kD, alpha=weight)
        else:
            left_nk = y_nD @ (factor_rD.T @ scaled_mk)
            slope_nD.addmm_(left_nk, self.vectors_mk.T @ factor_rD, alpha=weight)
