"""Features of inputs without parameters, for linear models, trees and neighbours.

========== =================================================================
``values`` all values, for tables and fields
``series`` values (averaged to at most `_MOST` of all channels) and quantiles
           over dyadic intervals of the series, of its differences and of its
           spectrum, after Quant (Dempster et al., 2024, arXiv:2308.00928)
``image``  averages, histograms of oriented gradients (Dalal and Triggs,
           CVPR 2005), colours and local binary patterns (Ojala et al., 2002)
``audio``  mean, deviation and quantiles over time of each mel band and of its
           differences
========== =================================================================
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
"""Largest number of averaged values of a series. Each of its three forms has at most
about as many quantiles.
"""
_DEPTHS = 6
"""Number of depths of the dyadic intervals of a series, after Quant."""
_MOST_QUANTILES = 32
"""Largest number of quantiles of a whole series."""
_SIDE = 16
"""Largest number of averaged pixels along a side of an image."""
_CELLS = 8
"""Largest number of cells along a side, each with its histogram of gradients."""
_ORIENTATIONS = 9
"""Number of orientations in a histogram, as in Dalal and Triggs."""
_RADII = (1, 2, 4)
"""Distances, in pixels, of the eight points of a local binary pattern."""
MOST_KEYS = 50_000
"""Largest number of training samples that a `NearestBody` stores."""
MOST_LANDMARKS = 1000
"""Largest number of landmarks of a `KernelBody`."""
_NEIGHBOURS = (
    (-1, -1),
    (-1, 0),
    (-1, 1),
    (0, 1),
    (1, 1),
    (1, 0),
    (1, -1),
    (0, -1),
)
"""Steps (down, across) to the eight points, in order around the centre."""


class FeatureEmbedder(Embedder):
    """Embedder without parameters that maps an input to one token, its features.

    The token is [B, 1, F] for inputs [B, C, ...].
    """

    def __init__(self, kind: str, input_shape: tuple[int, ...]) -> None:
        """Make an embedder with features of ``kind``, one of `FEATURES`."""
        super().__init__()
        self.layout = (1,)
        self.kind = kind
        self._features = FEATURES[kind]
        with torch.no_grad():
            # The device "meta" computes shapes without memory; a folder of a stranger
            # may declare an input of gigabytes.
            one_input = torch.zeros(1, *input_shape, device="meta")
            self.width = self.forward(one_input).shape[2]
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
    """Body that clips the features of another one to a range.

    The range is around the features of the training samples; see `set_limits`. Without
    a range, a linear model may predict any number for features that are far from those
    of all training samples, as in heavy tails.
    """

    low: Tensor
    high: Tensor

    def __init__(self, body: Body, limit: float) -> None:
        """Wrap ``body``, whose features are clipped to ``limit`` deviations.

        Before `set_limits`, nothing is clipped.
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
        """Set the range of the features ``columns``.

        The range follows from means and deviations [F] of the training samples'
        features.
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


def limit_features(body: Body, limit: float) -> Body:
    """Return a `LimitedBody` around ``body``; ``body`` itself if ``limit`` is 0."""
    return LimitedBody(body, limit) if limit else body


class FittedBody(Body):
    """Base of bodies that consist of fitted buffers.

    The buffers are loaded with any size, and then checked.
    """

    modality = "sequence"
    resized: tuple[str, ...]
    """Names of the buffers that are loaded with any size."""

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_pre_hook(_resize_buffers)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_check_buffers)  # type: ignore[no-untyped-call]

    @property
    def num_values(self) -> int:
        """Number of fitted values."""
        return sum(getattr(self, name).numel() for name in self.resized)

    def check(self) -> None:
        """Raise UserError if the buffers are damaged or do not fit each other."""


def _resize_buffers(
    body: FittedBody, state: Mapping[str, Tensor], prefix: str, *_: Any
) -> None:
    """Give the buffers of ``body`` the sizes that they have in a state to be loaded."""
    for name in body.resized:
        stored = state.get(f"{prefix}{name}")
        if stored is not None:
            device = getattr(body, name).device
            setattr(body, name, torch.empty_like(stored, device=device))


def _check_buffers(body: FittedBody, _: Any) -> None:
    body.check()


class StoredBody(FittedBody):
    """Base of bodies that compare features with stored ones.

    It maps [B, 1, F] to [B, 1, K]. The stored features are those of training samples.
    """

    resized = ("keys", "values")
    most_samples: int
    """Largest number of stored samples; what a prediction takes grows with it."""
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
        """Raise UserError unless features and targets have the sizes of the model.

        Also raise it if there are more than `most_samples`.
        """
        if len(self.keys) > self.most_samples:
            raise UserError(
                f"this model stores {len(self.keys):,} training samples; a model of"
                f" this method has at most {self.most_samples:,}: make it again"
            )
        keys_fit = self.keys.shape == (len(self.values), len(self.mean))
        if not keys_fit or self.values.shape[1] != self.feature_width:
            raise UserError(
                f"the samples of this model are damaged: {self.keys.shape} and"
                f" {self.values.shape}"
            )

    def standardised(self, features_NF: Tensor) -> Tensor:
        """Return features [N, F] in units of their deviations.

        They are clipped to the range of float16.
        """
        return ((features_NF - self.mean) * self.scale).clamp(-1e3, 1e3)


class NearestBody(StoredBody):
    """Body that averages the targets of the nearest training samples.

    Until it is fitted, the output is 0.
    """

    most_samples = MOST_KEYS

    def nearest(self, features_NF: Tensor, most: int) -> Tensor:
        """Return the indices [N, most] of the nearest training samples.

        They are nearest to features [N, F]; the nearest sample comes first.
        """
        keys = self.keys.float()
        distances = (
            keys.square().sum(dim=1) - 2 * self.standardised(features_NF) @ keys.T
        )
        return distances.topk(min(most, len(keys)), dim=1, largest=False).indices

    def forward(
        self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the weighted sums [B, 1, K] of the targets of neighbours.

        ``grid`` is not used.
        """
        rows = self.nearest(tokens_BTD.flatten(1), len(self.weights))
        return self.weights[: rows.shape[1]] @ self.values[rows][:, None]


class KernelBody(StoredBody):
    """Body that sums Gaussian kernels around landmarks.

    Landmarks are some of the training samples. Until it is fitted, the output is 0.
    ``weights`` [K] are constant terms, which remain far from all landmarks. The
    kernel's width is a part of ``scale``.
    """

    most_samples = MOST_LANDMARKS

    def __init__(self, width: int, num_outputs: int) -> None:
        """Make a body without landmarks, for ``width`` features."""
        super().__init__(width, num_outputs, num_outputs)
        # Float64, because terms of opposite signs are large.
        self.weights = self.weights.double()
        self.values = self.values.double()

    def kernels(self, standardised_NF: Tensor) -> Tensor:
        """Return exp(-|x - landmark|²) in float64 [N, number of landmarks].

        ``standardised_NF`` [N, F] are standardised features x.
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
        kernels = self.kernels(self.standardised(tokens_BTD.flatten(1)))
        sums = kernels @ self.values + self.weights
        return sums[:, None].to(tokens_BTD)


class ProbabilityHead(nn.Module):
    """Head without parameters that turns mean targets [B, 1, K] into logits.

    Numbers and fields stay as they are. Probabilities are kept at least ``floor`` away
    from 0 and 1.
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
            means = p.log()
            if self._kind == "labels":
                means = means - (1 - p).log()
        return means.reshape(-1, *self._shape)


def _series_features(x_BCL: Tensor) -> Tensor:
    """Return the features ``series``.

    An interval has at least one quantile and at most `_MOST_QUANTILES`.
    """
    num_channels = x_BCL.shape[1]
    complex_spectrum = torch.view_as_real(torch.fft.rfft(x_BCL))
    spectrum = complex_spectrum.square().sum(dim=3).sqrt().log1p()
    most_quantiles = min(_MOST_QUANTILES, _MOST // (_DEPTHS * num_channels))
    quantiles = [
        _interval_quantiles(series, _DEPTHS, max(1, most_quantiles))
        for series in (x_BCL, x_BCL.diff(dim=2), spectrum)
    ]
    values = _averaged(x_BCL, max(1, _MOST // num_channels)).flatten(1)
    return torch.cat([values, *quantiles], dim=1)


def _audio_features(x_BCHW: Tensor) -> Tensor:
    """Return the features ``audio`` of spectrograms.

    They describe each row of a spectrogram, and its differences in time.
    """
    x_BML = x_BCHW.flatten(1, 2)
    series = [x_BML]
    if x_BML.shape[2] > 1:
        series.append(x_BML.diff(dim=2))
    statistics = []
    for values in series:
        statistics += [values.mean(dim=2), values.std(dim=2, correction=0)]
    quantiles = [_interval_quantiles(values, depths=3, most=8) for values in series]
    return torch.cat([*statistics, *quantiles], dim=1)


def _interval_quantiles(x_BCL: Tensor, depths: int, most: int) -> Tensor:
    """Return quantiles of the whole series, of its halves, of its quarters and so on.

    There are ``most`` quantiles at depth 0, half as many in each half at depth 1, and
    so on; a single quantile is the median.
    """
    length = x_BCL.shape[2]
    quantiles = []
    for depth in range(min(depths, int(math.log2(length)) + 1)):
        num_intervals = 2**depth
        size = math.ceil(length / num_intervals)
        num_gaps = max(1, num_intervals - 1)
        starts = [round(k * (length - size) / num_gaps) for k in range(num_intervals)]
        first = torch.tensor(starts, device=x_BCL.device)
        positions = first[:, None] + torch.arange(size, device=x_BCL.device)
        intervals = x_BCL[:, :, positions]
        ranks = _quantile_ranks(size, max(1, most >> depth))
        quantiles.append(intervals.sort(dim=3).values[..., ranks].flatten(1))
    return torch.cat(quantiles, dim=1)


def _quantile_ranks(size: int, number: int) -> list[int]:
    """Return the distinct ranks, from 0, of ``number`` quantiles of ``size`` values."""
    if number == 1:
        return [size // 2]
    last = size - 1
    ranks = {round(k * last / (number - 1)) for k in range(number)}
    return sorted(ranks)


def _image_features(x_BCHW: Tensor) -> Tensor:
    """Return the features ``image`` of images."""
    grey = x_BCHW.mean(dim=1, keepdim=True)
    parts = [_averaged(x_BCHW, _SIDE), *_gradients(grey), *_colours(x_BCHW)]
    for radius in _RADII:
        if 2 * radius < min(grey.shape[2:]):
            parts.append(_patterns(grey, radius))
    return torch.cat([part.flatten(1) for part in parts], dim=1)


def _gradients(grey_B1HW: Tensor) -> list[Tensor]:
    """Return histograms of oriented gradients of cells and of the whole image.

    Those of a cell are relative to the cells around it. A gradient counts for each
    orientation by its length times the 16th power of the cosine of the angle between
    them.
    """
    padded = F.pad(grey_B1HW, (1, 1, 1, 1), mode="replicate")
    across = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    down = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    numbers = torch.arange(_ORIENTATIONS, device=grey_B1HW.device)
    angles = (numbers * (math.pi / _ORIENTATIONS)).view(1, -1, 1, 1)
    along = across * angles.cos() + down * angles.sin()
    length = (across.square() + down.square() + 1e-12).sqrt()
    votes = length * (along / length).square() ** 8
    cells = _averaged(votes, _CELLS)
    cell_totals = cells.sum(dim=1, keepdim=True)
    padded_totals = F.pad(cell_totals, (1, 1, 1, 1), mode="replicate")
    around = F.avg_pool2d(padded_totals, 3, stride=1)
    whole = votes.mean(dim=(2, 3))
    total = whole.sum(dim=1, keepdim=True)
    return [
        cells / (around + 0.1 * total[:, :, None, None] + 1e-6),
        whole / (total + 1e-6),
        (total + 1e-6).log(),
    ]


def _colours(x_BCHW: Tensor) -> list[Tensor]:
    """Return statistics of each channel.

    They are means and deviations of 4 x 4 cells, and nine quantiles of the whole image.
    """
    means = _averaged(x_BCHW, most=4)
    variances = _averaged(x_BCHW.square(), most=4) - means.square()
    return [
        means,
        (variances.relu() + 1e-6).sqrt(),
        _interval_quantiles(x_BCHW.flatten(2), depths=1, most=9),
    ]


def _patterns(grey_B1HW: Tensor, radius: int) -> Tensor:
    """Return the frequencies [B, 10] of local binary patterns.

    The patterns are rotation-invariant and uniform, of eight points at ``radius``.
    """
    height, width = grey_B1HW.shape[2:]
    inner = grey_B1HW[:, :, radius : height - radius, radius : width - radius]
    inner_height, inner_width = inner.shape[2:]
    bits = []
    for down, across in _NEIGHBOURS:
        top = radius * (1 + down)
        left = radius * (1 + across)
        point = grey_B1HW[:, :, top : top + inner_height, left : left + inner_width]
        bits.append((point > inner).float())
    bits_B8HW = torch.cat(bits, dim=1)
    num_changes = (bits_B8HW - bits_B8HW.roll(1, dims=1)).abs().sum(dim=1)
    patterns = torch.where(num_changes <= 2, bits_B8HW.sum(dim=1), 9.0)
    frequencies = [
        (patterns == number).float().mean(dim=(1, 2)) for number in range(10)
    ]
    return torch.stack(frequencies, dim=1)


def _averaged(x: Tensor, most: int) -> Tensor:
    """Return ``x`` averaged over equal cells, at most ``most`` along an axis.

    ``x`` is [B, C, L] or [B, C, H, W]; its ends are repeated to fill the last cells.
    """
    strides = [math.ceil(side / most) for side in x.shape[2:]]
    # In the order of F.pad: last axis first, [before, after] for each axis.
    padding: list[int] = []
    for side, stride in zip(x.shape[:1:-1], strides[::-1], strict=True):
        padding += [0, -side % stride]
    if any(padding):
        x = F.pad(x, padding, mode="replicate")
    if max(strides) == 1:
        return x
    pool: Callable[..., Tensor] = F.avg_pool1d if x.ndim == 3 else F.avg_pool2d
    return pool(x, strides)


FEATURES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "values": lambda x: x.flatten(1),
    "series": _series_features,
    "image": _image_features,
    "audio": _audio_features,
}
"""Functions from inputs [B, C, L] or [B, C, H, W] to features [B, F], by kind."""
