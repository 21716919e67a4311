"""Features of inputs without parameters, for methods that fit a linear model, trees or
neighbours.

========== ========================================================================================================
``values`` all values, for tables and fields ``series`` values (averaged to at most
`_MOST` of all channels) and quantiles over dyadic intervals of the series, of
           its differences and of its spectrum, after Quant (Dempster et al., 2024,
           arXiv:2308.00928)
``image``  averages, histograms of oriented gradients (Dalal and Triggs, CVPR 2005),
colours and local binary patterns
           (Ojala et al., 2002)
``audio``  mean, deviation and quantiles over time of each mel band and of its
differences
========== ========================================================================================================
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.models.body import Body
from orca_ray.models.embedder import Embedder

_MOST = 2048
"""Largest number of averaged values of a series, and about that of the quantiles of
each of its three forms.
"""
_DEPTHS = 6
_SIDE = 16
_CELLS = 8
_ORIENTATIONS = 9
_RADII = (1, 2, 4)


class FeatureEmbedder(Embedder):
    """Embedder that maps an input to one token, its features: [B, C, ...] -> [B, 1, F].

    It has no parameters.
    """

    def __init__(self, kind: str, input_shape: tuple[int, ...]) -> None:
        """Make an embedder with features of ``kind``, one of `FEATURES`."""
        super().__init__()
        self.layout = (1,)
        self.kind = kind
        self._features = FEATURES[kind]
        with torch.no_grad():
            self.width = self.forward(torch.zeros(1, *input_shape)).shape[2]
            """F, the number of features."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the features [B, 1, F] of inputs [B, C, L] or [B, C, H, W]."""
        return self._features(x.float())[:, None]


class FeatureBody(Body):
    """Body that returns the features [B, 1, F] as they are."""

    modality = "sequence"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.feature_width = width

    def forward(
        self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the features; ``grid`` is not used."""
        return tokens_BTD


class LimitedBody(Body):
    """Body that clips the features of another one to a range around those of the
    training samples; see `set_limits`.

    A linear model of features that are far from all training samples, as heavy tails
    have them, predicts any number.
    """

    low: Tensor
    high: Tensor

    def __init__(self, body: Body, limit: float) -> None:
        """Wrap ``body``, whose features are clipped to ``limit`` deviations, and not at
        all before `set_limits`.
        """
        super().__init__()
        self.body = body
        self._limit = limit
        self.modality = body.modality
        self.feature_width = body.feature_width
        self.register_buffer(
            "high", torch.full((body.feature_width,), torch.finfo(torch.float32).max)
        )
        self.register_buffer("low", -self.high)

    def set_limits(
        self, mean_F: Tensor, deviation_F: Tensor, columns: slice | Tensor = slice(None)
    ) -> None:
        """Set the range of the features ``columns`` from means and deviations of the
        training samples' features.
        """
        self.low[columns] = (mean_F - self._limit * deviation_F).to(self.low)
        self.high[columns] = (mean_F + self._limit * deviation_F).to(self.high)

    def clipped(self, features: Tensor) -> Tensor:
        """Return features [..., F] within the range."""
        return features.clamp(self.low, self.high)

    def forward(
        self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the clipped features [B, S, F]."""
        return self.clipped(self.body(tokens_BTD, grid))


def limited(body: Body, limit: float) -> Body:
    """Return ``body`` as a `LimitedBody`; the same if ``limit`` is 0."""
    return LimitedBody(body, limit) if limit else body


class FittedBody(Body):
    """Base of bodies that consist of fitted buffers, which are loaded with any size,
    and then checked.
    """

    modality = "sequence"
    resized: tuple[str, ...]

    @property
    def num_values(self) -> int:
        """Number of fitted values."""
        return sum(getattr(self, name).numel() for name in self.resized)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *rest: Any
    ) -> None:
        for name in self.resized:
            if (stored := state_dict.get(f"{prefix}{name}")) is not None:
                setattr(
                    self,
                    name,
                    torch.empty_like(stored, device=getattr(self, name).device),
                )
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.check()

    def check(self) -> None:
        """Raise UserError if the buffers are damaged or do not fit each other."""


class StoredBody(FittedBody):
    """Base of bodies that compare features with those of stored training samples: [B,
    1, F] -> [B, 1, K].
    """

    resized = ("keys", "values")
    mean: Tensor
    scale: Tensor
    keys: Tensor
    values: Tensor
    weights: Tensor

    def __init__(self, width: int, num_outputs: int, num_weights: int) -> None:
        """Make a body without samples, for ``width`` features."""
        super().__init__()
        self.feature_width = num_outputs
        sizes = {
            "mean": (width,),
            "scale": (width,),
            "weights": (num_weights,),
            "values": (0, num_outputs),
        }
        for name, size in sizes.items():
            self.register_buffer(name, torch.zeros(size))
        self.register_buffer("keys", torch.zeros(0, width, dtype=torch.float16))

    def check(self) -> None:
        """Raise UserError unless each sample has features and targets of the model's
        sizes.
        """
        if (
            self.keys.shape != (len(self.values), len(self.mean))
            or self.values.shape[1] != self.feature_width
        ):
            raise UserError(
                f"the samples of this model are damaged: {self.keys.shape} and"
                f" {self.values.shape}"
            )

    def standardised(self, features_NF: Tensor) -> Tensor:
        """Return features [N, F] in units of their deviations, within the range of
        float16.
        """
        return ((features_NF - self.mean) * self.scale).clamp(-1e3, 1e3)


class NearestBody(StoredBody):
    """Body that averages the targets of the nearest training samples; 0 until it is
    fitted.
    """

    def nearest(self, features_NF: Tensor, most: int) -> Tensor:
        """Return the indices [N, most] of the training samples nearest to features [N,
        F], nearest first.
        """
        keys = self.keys.float()
        distances = (
            keys.square().sum(dim=1) - 2 * self.standardised(features_NF) @ keys.T
        )
        return distances.topk(min(most, len(keys)), dim=1, largest=False).indices

    def forward(
        self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the weighted sums [B, 1, K] of the targets of neighbours; ``grid`` is
        not used.
        """
        rows = self.nearest(tokens_BTD.flatten(1), len(self.weights))
        return self.weights[: rows.shape[1]] @ self.values[rows][:, None]


class KernelBody(StoredBody):
    """Body that sums Gaussian kernels around landmarks, some of the training samples; 0
    until it is fitted.

    ``weights`` [K] are constant terms, which remain far from all landmarks. The
    kernel's width is a part of ``scale``.
    """

    def __init__(self, width: int, num_outputs: int) -> None:
        """Make a body without landmarks, for ``width`` features."""
        super().__init__(width, num_outputs, num_outputs)
        # terms of opposite signs are large
        self.weights = self.weights.double()
        self.values = self.values.double()

    def kernels(self, standardised_NF: Tensor) -> Tensor:
        """Return exp(-|x - landmark|²) in float64 [N, number of landmarks] for
        standardised features x [N, F].
        """
        x = standardised_NF.double()
        keys = self.keys.double()
        squares = (
            x.square().sum(dim=1, keepdim=True)
            + keys.square().sum(dim=1)
            - 2 * x @ keys.T
        )
        return (-squares.relu()).exp()

    def forward(
        self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the sums [B, 1, K]; ``grid`` is not used."""
        sums = (
            self.kernels(self.standardised(tokens_BTD.flatten(1))) @ self.values
            + self.weights
        )
        return sums[:, None].to(tokens_BTD)


class ProbabilityHead(nn.Module):
    """Head without parameters that turns mean targets [B, 1, K] into logits; of numbers
    and fields, it keeps them.

    Probabilities are kept at least ``floor`` away from 0 and 1.
    """

    def __init__(self, target: Target, floor: float = 1e-6) -> None:
        super().__init__()
        self._shape = target.output_shape
        self._kind = target.kind
        self._floor = floor

    def forward(self, features_BSF: Tensor) -> Tensor:
        """Return the predictions [B, *output_shape]."""
        means = features_BSF.flatten(1)
        if self._kind in ("classes", "labels"):
            p = means.clamp(self._floor, 1 - self._floor)
            means = p.log() - (1 - p).log() if self._kind == "labels" else p.log()
        return means.reshape(-1, *self._shape)


def _of_series(x_BCL: Tensor) -> Tensor:
    """Return the features ``series``; quantiles of at least one and at most 32 of each
    interval.
    """
    channels = x_BCL.shape[1]
    spectrum = (
        torch.view_as_real(torch.fft.rfft(x_BCL)).square().sum(dim=3).sqrt().log1p()
    )
    each = max(1, min(32, _MOST // (_DEPTHS * channels)))
    quantiles = [
        _quantiles(form, _DEPTHS, each) for form in (x_BCL, x_BCL.diff(dim=2), spectrum)
    ]
    return torch.cat(
        [_averaged(x_BCL, max(1, _MOST // channels)).flatten(1), *quantiles], dim=1
    )


def _of_audio(x_BCHW: Tensor) -> Tensor:
    x_BML = x_BCHW.flatten(1, 2)
    forms = [x_BML, x_BML.diff(dim=2)] if x_BML.shape[2] > 1 else [x_BML]
    statistics = [
        each
        for form in forms
        for each in (form.mean(dim=2), form.std(dim=2, correction=0))
    ]
    return torch.cat([*statistics, *(_quantiles(form, 3, 8) for form in forms)], dim=1)


def _quantiles(x_BCL: Tensor, depths: int, each: int) -> Tensor:
    """Return ``each`` quantiles at depth 0, half as many in each half at depth 1, and
    so on; the median if only one.
    """
    length = x_BCL.shape[2]
    found = []
    for depth in range(min(depths, int(math.log2(length)) + 1)):
        parts = 2**depth
        number = max(1, each >> depth)
        size = math.ceil(length / 2**depth)
        starts = [
            round(part * (length - size) / max(1, parts - 1)) for part in range(parts)
        ]
        places = (
            [size // 2]
            if number == 1
            else [round(k * (size - 1) / (number - 1)) for k in range(number)]
        )
        windows = x_BCL[:, :, torch.tensor(starts)[:, None] + torch.arange(size)]
        found.append(windows.sort(dim=3).values[..., sorted(set(places))].flatten(1))
    return torch.cat(found, dim=1)


def _of_image(x_BCHW: Tensor) -> Tensor:
    grey = x_BCHW.mean(dim=1, keepdim=True)
    parts = [_averaged(x_BCHW, _SIDE), *_gradients(grey), *_colours(x_BCHW)]
    parts += [
        _patterns(grey, radius) for radius in _RADII if 2 * radius < min(grey.shape[2:])
    ]
    return torch.cat([part.flatten(1) for part in parts], dim=1)


def _gradients(grey_B1HW: Tensor) -> list[Tensor]:
    """Return histograms of oriented gradients of cells, relative to those around them,
    and of the whole image.

    A gradient counts for each orientation by its length times the 16th power of the
    cosine of the angle between them.
    """
    padded = F.pad(grey_B1HW, (1, 1, 1, 1), mode="replicate")
    across = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    down = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    angles = torch.arange(_ORIENTATIONS, device=grey_B1HW.device) * (
        math.pi / _ORIENTATIONS
    )
    along = across * angles.cos().view(1, -1, 1, 1) + down * angles.sin().view(
        1, -1, 1, 1
    )
    length = (across.square() + down.square() + 1e-12).sqrt()
    votes = length * (along / length).square() ** 8
    cells = _averaged(votes, _CELLS)
    around = F.avg_pool2d(
        F.pad(cells.sum(dim=1, keepdim=True), (1, 1, 1, 1), mode="replicate"),
        3,
        stride=1,
    )
    whole = votes.mean(dim=(2, 3))
    total = whole.sum(dim=1, keepdim=True)
    return [
        cells / (around + 0.1 * total[:, :, None, None] + 1e-6),
        whole / (total + 1e-6),
        (total + 1e-6).log(),
    ]


def _colours(x_BCHW: Tensor) -> list[Tensor]:
    """Return means and deviations of 4 x 4 cells, and nine quantiles of the whole
    image, of each channel.
    """
    means = _averaged(x_BCHW, 4)
    variances = _averaged(x_BCHW.square(), 4) - means.square()
    return [
        means,
        (variances.relu() + 1e-6).sqrt(),
        _quantiles(x_BCHW.flatten(2), 1, 9),
    ]


def _patterns(grey_B1HW: Tensor, radius: int) -> Tensor:
    """Return the frequencies [B, 10] of rotation-invariant uniform binary patterns of
    eight points at ``radius``.
    """
    height, width = grey_B1HW.shape[2:]
    inner = grey_B1HW[:, :, radius : height - radius, radius : width - radius]
    steps = [(-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1)]
    places = [(radius * (1 + down), radius * (1 + across)) for down, across in steps]
    points = [
        grey_B1HW[:, :, top : top + inner.shape[2], left : left + inner.shape[3]]
        for top, left in places
    ]
    bits = torch.cat([(point > inner).float() for point in points], dim=1)
    uniform = (bits - bits.roll(1, dims=1)).abs().sum(dim=1) <= 2
    counts = torch.where(uniform, bits.sum(dim=1), 9.0)
    return torch.stack(
        [(counts == number).float().mean(dim=(1, 2)) for number in range(10)], dim=1
    )


def _averaged(x: Tensor, most: int) -> Tensor:
    """Return ``x`` [B, C, L] or [B, C, H, W] averaged over equal cells, at most
    ``most`` along an axis.
    """
    strides = [math.ceil(side / most) for side in x.shape[2:]]
    padding = [
        end
        for side, step in zip(x.shape[:1:-1], strides[::-1], strict=True)
        for end in (0, -side % step)
    ]
    padded = F.pad(x, padding, mode="replicate") if any(padding) else x
    pool: Callable[..., Tensor] = F.avg_pool1d if x.ndim == 3 else F.avg_pool2d
    return pool(padded, strides) if max(strides) > 1 else padded


FEATURES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "values": lambda x: x.flatten(1),
    "series": _of_series,
    "image": _of_image,
    "audio": _of_audio,
}
"""Functions from inputs [B, C, L] or [B, C, H, W] to features [B, F], by kind."""
