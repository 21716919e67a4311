"""MiniRocket and Hydra features of series, computed by torch.

Own code, because aeon and sktime compute MiniRocket with numba, which neither runs on a
GPU nor exports to ONNX.

MiniRocket (Dempster et al., KDD 2021, arXiv:2012.08791): the 84 kernels of length 9
have three weights 2 and six weights -1, so they ignore a constant. A feature is the
share of positions at which the convolution by a kernel, with a dilation, exceeds a
bias. Biases are quantiles of the convolution's output on a random training series.
Dilations grow exponentially up to the series' length. Half of the convolutions are
padded by zeros. For several channels, each pair of kernel and dilation sums a random
subset of them, as in the authors' multivariate version
(github.com/angus924/minirocket).

Hydra (Dempster et al., 2023, arXiv:2203.13652): random kernels compete in groups at
each position, and a feature counts how often, or how clearly, one wins.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orca_ray.data.rows import Target
from orca_ray.models.body import Body, seeded
from orca_ray.models.crossmodal import CrossModalModel, build_head
from orca_ray.models.embedder import PointEmbedder

LENGTH = 9
"""Length of a kernel, and the least length of a series."""
NUM_KERNELS = math.comb(LENGTH, 3)
"""Number of kernels of MiniRocket, 84: the choices of three positions of `LENGTH`."""
_MOST_OUTPUTS = 2**27
"""Largest number of outputs of convolutions at a time, which take half a gigabyte."""
_GOLDEN = (math.sqrt(5) + 1) / 2
"""The golden ratio; its multiples modulo 1 are evenly spread levels of quantiles."""


def fit_dilations(length: int, num_features: int, most: int) -> dict[int, int]:
    """Return the number of features per kernel for each dilation.

    The dilations suit series of ``length``. All kernels together have about
    ``num_features`` features, at least 84. ``most``: largest number of dilations.
    """
    per_kernel = max(1, num_features // NUM_KERNELS)
    num_exponents = min(per_kernel, most)
    largest_exponent = math.log2((length - 1) / (LENGTH - 1))
    exponents = np.linspace(0, largest_exponent, num_exponents)
    dilations, counts = np.unique((2**exponents).astype(int), return_counts=True)
    shares = (counts * (per_kernel / num_exponents)).astype(int)
    # Features that rounding left over go to the first dilations, at most one to each.
    num_left_over = per_kernel - shares.sum()
    shares[np.arange(num_left_over) % len(shares)] += 1
    return dict(zip(dilations.tolist(), shares.tolist(), strict=True))


class MiniRocketBody(Body):
    """Body that maps series [B, L, C] to features [B, 1, F] of MiniRocket.

    Features are in the order of dilation, kernel and bias. `fit` trains it.
    """

    modality = "sequence"
    biases: Tensor
    weights: Tensor

    def __init__(
        self, length: int, num_channels: int, dilations: dict[int, int], seed: int
    ) -> None:
        """Choose the channels of each kernel and dilation by ``seed``.

        Biases are 0 until `fit`.
        """
        super().__init__()
        self._dilations = dilations
        self.feature_width = NUM_KERNELS * sum(dilations.values())
        kernels = torch.full((NUM_KERNELS, LENGTH), -1.0)
        triples = itertools.combinations(range(LENGTH), 3)
        for kernel, positions in zip(kernels, triples, strict=True):
            kernel[list(positions)] = 2.0
        subsets = _channel_subsets(len(dilations) * NUM_KERNELS, num_channels, seed)
        is_summed = subsets.reshape(-1, NUM_KERNELS, num_channels)
        # [dilations, kernels, channels, LENGTH]
        self.register_buffer("weights", is_summed[..., None] * kernels[:, None])
        self.register_buffer("biases", torch.zeros(self.feature_width))

    def forward(
        self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the features [B, 1, F] of series [B, L, C]; ``grid`` is not used."""
        most_series = max(1, _MOST_OUTPUTS // (NUM_KERNELS * tokens_BTD.shape[1]))
        if not torch.compiler.is_exporting() and len(tokens_BTD) > most_series:
            parts = torch.split(tokens_BTD, most_series)
            return torch.cat([self(part) for part in parts])
        x_BCL = _channels_first(tokens_BTD)
        features = []
        start = 0
        for number, (dilation, per_kernel) in enumerate(self._dilations.items()):
            end = start + NUM_KERNELS * per_kernel
            biases = self.biases[start:end].reshape(NUM_KERNELS, per_kernel)
            features.append(self._dilation_features(x_BCL, number, dilation, biases))
            start = end
        return torch.cat(features, dim=1)[:, None]

    def _dilation_features(
        self, x_BCL: Tensor, number: int, dilation: int, biases: Tensor
    ) -> Tensor:
        """Return the features [B, K * n] by K kernels with one dilation.

        ``number`` counts the dilations; ``biases`` [K, n]. Even kernels see padding
        with even dilations, odd kernels with odd dilations.
        """
        margin = LENGTH // 2 * dilation
        with torch.autocast(x_BCL.device.type, enabled=False):
            padded = F.conv1d(
                x_BCL, self.weights[number], padding=margin, dilation=dilation
            )
        inner = padded[..., margin : x_BCL.shape[2] - margin]
        if number % 2 == 0:
            even_kernels = padded
            odd_kernels = inner
        else:
            even_kernels = inner
            odd_kernels = padded
        shares = (
            _shares_above(even_kernels[:, ::2], biases[::2]),
            _shares_above(odd_kernels[:, 1::2], biases[1::2]),
        )
        return torch.stack(shares, dim=2).flatten(1)

    @torch.no_grad()
    def fit(self, draw: Callable[[int], Tensor]) -> None:
        """Set the biases from random training series.

        ``draw(n)`` returns n training series as tokens [n, L, C].
        """
        order = torch.arange(1, self.feature_width + 1, dtype=torch.float64)
        levels = (order * _GOLDEN % 1).to(self.biases.device, torch.float32)
        biases = []
        start = 0
        for number, (dilation, per_kernel) in enumerate(self._dilations.items()):
            x = draw(NUM_KERNELS).float().transpose(1, 2)  # one series for each kernel
            outputs = F.conv1d(
                x.reshape(1, -1, x.shape[2]),
                self.weights[number],
                padding=LENGTH // 2 * dilation,
                dilation=dilation,
                groups=NUM_KERNELS,
            )
            end = start + NUM_KERNELS * per_kernel
            kernel_levels = levels[start:end].reshape(NUM_KERNELS, per_kernel)
            biases.append(_quantiles(outputs[0], kernel_levels).flatten())
            start = end
        self.biases.copy_(torch.cat(biases))


class HydraBody(Body):
    """Body that maps series [B, L, C] to features [B, 1, F] of Hydra.

    Its random kernels are not trained. With each of the dilations 1, 2, 4, ..., half of
    the groups see the series, and half its differences. For each kernel there are two
    features: the square root of the sum of its outputs where they are the largest of
    its group, and that of the number of positions where they are the smallest.
    """

    modality = "sequence"
    weights: Tensor

    def __init__(
        self, length: int, num_channels: int, kernels: int, groups: int, seed: int
    ) -> None:
        """Draw the weights by ``seed``.

        There are ``groups`` groups, an even number, of ``kernels`` kernels each.
        """
        super().__init__()
        self._kernels = kernels
        num_dilations = int(math.log2((length - 1) / (LENGTH - 1))) + 1
        with seeded(seed):
            weights = torch.randn(2 * num_dilations, groups // 2, kernels, 1, LENGTH)
        weights -= weights.mean(dim=4, keepdim=True)
        subsets = _channel_subsets(
            2 * num_dilations * (groups // 2), num_channels, seed
        )
        is_summed = subsets.reshape(*weights.shape[:2], 1, -1, 1)
        weights = is_summed * weights / weights.abs().sum(dim=4, keepdim=True)
        self.register_buffer("weights", weights.flatten(1, 2))
        self.feature_width = 2 * num_dilations * groups * kernels

    def forward(
        self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the features [B, 1, F] of series [B, L, C]; ``grid`` is not used."""
        x_BCL = tokens_BTD.float().transpose(1, 2)
        features = list[Tensor]()
        for number, weights in enumerate(self.weights):
            dilation = 2 ** (number // 2)
            series = x_BCL.diff(dim=2) if number % 2 else x_BCL
            with torch.autocast(x_BCL.device.type, enabled=False):
                outputs = F.conv1d(
                    series, weights, padding=LENGTH // 2 * dilation, dilation=dilation
                )
            groups = torch.unflatten(outputs, 1, (-1, self._kernels))
            is_largest = groups == groups.amax(dim=2, keepdim=True)
            is_smallest = groups == groups.amin(dim=2, keepdim=True)
            for counted in (is_largest * groups, is_smallest.float()):
                sums = counted.sum(dim=3).clamp(min=0)
                features.append(sums.sqrt().flatten(1))
        return torch.cat(features, dim=1)[:, None]


class JoinedBody(Body):
    """Body that joins the features of several bodies: [B, L, C] -> [B, 1, F]."""

    modality = "sequence"

    def __init__(self, bodies: Sequence[Body]) -> None:
        super().__init__()
        self.bodies = nn.ModuleList(bodies)
        self.feature_width = sum(body.feature_width for body in bodies)

    def forward(
        self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the features [B, 1, F] of series [B, L, C]; ``grid`` is not used."""
        return torch.cat([body(tokens_BTD) for body in self.bodies], dim=2)


def _channels_first(tokens_BTD: Tensor) -> Tensor:
    """Return series [B, C, L] of tokens [B, L, C], in the order of memory of a new one.

    A mere view of one channel has the strides of a tensor with channels last. The
    outputs of its convolution would be laid out likewise, and comparing them with
    biases would take up to eight times as long.
    """
    series = tokens_BTD.float().transpose(1, 2)
    return series.clone(memory_format=torch.contiguous_format)


def _shares_above(outputs: Tensor, biases: Tensor) -> Tensor:
    """Return the shares [B, K, n] of positions at which outputs exceed biases.

    ``outputs`` [B, K, L]; ``biases`` [K, n].
    """
    # All comparisons together are a quarter of the operations, for each of which an
    # exporter takes up to 50 ms.
    if torch.compiler.is_exporting():
        is_above = outputs[:, :, None] > biases[:, :, None]
        return is_above.float().mean(dim=3)
    # One bias at a time, because all comparisons together take too much memory. Written
    # as numbers into one array, they take a fifth of the time of comparisons that are
    # converted.
    above = torch.empty_like(outputs, memory_format=torch.contiguous_format)
    shares = (
        torch.gt(outputs, bias[:, None], out=above).mean(dim=2)
        for bias in biases.unbind(1)
    )
    return torch.stack(list(shares), dim=2)


def _channel_subsets(num: int, num_channels: int, seed: int) -> Tensor:
    """Return ``num`` random subsets of 1 to 9 channels, [num, C] of 0 and 1.

    Small subsets are as likely as large ones.
    """
    random = np.random.default_rng(seed)
    largest_exponent = math.log2(min(num_channels, LENGTH) + 1)
    sizes = (2 ** random.uniform(0, largest_exponent, num)).astype(int)
    ranks = random.random((num, num_channels)).argsort(axis=1).argsort(axis=1)
    return torch.from_numpy((ranks < sizes[:, None]).astype(np.float32))


def _quantiles(values: Tensor, levels: Tensor) -> Tensor:
    """Return the quantiles of each row of ``values`` [K, L], linearly interpolated.

    ``levels`` [K, n] are the levels of each row's quantiles.
    """
    ordered = values.sort(dim=1).values
    places = levels * (values.shape[1] - 1)
    below = places.floor().long()
    above = (below + 1).clamp(max=values.shape[1] - 1)
    return torch.lerp(
        ordered.gather(1, below), ordered.gather(1, above), places - below
    )


def build_series_model(
    body: Body,
    *,
    input_shape: tuple[int, ...],
    target: Target,
    statistics: tuple[Tensor, Tensor] | None = None,
) -> CrossModalModel:
    """Build a model of a body's features of series, with a linear head.

    ``body`` maps series (C, L) with L >= `LENGTH` to features; the head is initially 0.
    ``statistics``: mean and deviation of each input channel; None: inputs are already
    standardised.
    """
    head = build_head(body.feature_width, (1,), target, input_shape[1:], patch=None)
    for parameter in head.parameters():
        torch.nn.init.zeros_(parameter)
    return CrossModalModel(PointEmbedder(input_shape), body, head, statistics)
