"""MiniRocket and Hydra features of series (Dempster et al., KDD 2021, arXiv:2012.08791,
and 2023, arXiv:2203.13652).

MiniRocket: the 84 kernels of length 9 have three weights 2 and six weights -1, so they
    ignore a constant. A feature is
the share of positions at which the convolution by a kernel, with a dilation, exceeds a
bias. Biases are quantiles of the convolution's output on a random training series.
Dilations grow exponentially up to the series' length. Half of the convolutions are
padded by zeros. For several channels, each pair of kernel and dilation sums a random
subset of them, as in the authors' multivariate version
(github.com/angus924/minirocket).

Hydra: random kernels compete in groups at each position, and a feature counts how
    often, or how clearly, one wins.
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
_MOST_OUTPUTS = 2**27  # of convolutions at a time: half a gigabyte
_GOLDEN = (math.sqrt(5) + 1) / 2


def fit_dilations(length: int, num_features: int, most: int) -> dict[int, int]:
    """Return a dict from each dilation for series of ``length`` to the number of
    features per kernel with it.

    All kernels together have about ``num_features`` features, at least 84. ``most``:
    largest number of dilations.
    """
    each = max(1, num_features // NUM_KERNELS)
    number = min(each, most)
    exponents = np.linspace(0, math.log2((length - 1) / (LENGTH - 1)), number)
    values, counts = np.unique((2**exponents).astype(int), return_counts=True)
    shares = (counts * (each / number)).astype(int)
    shares[np.arange(each - shares.sum()) % len(shares)] += (
        1  # what rounding left, at most one each
    )
    return dict(zip(values.tolist(), shares.tolist(), strict=True))


class MiniRocketBody(Body):
    """Body that maps series [B, L, C] to features [B, 1, F], in order of dilation,
    kernel and bias. `fit` trains it.
    """

    modality = "sequence"
    biases: Tensor
    weights: Tensor

    def __init__(
        self, length: int, num_channels: int, dilations: dict[int, int], seed: int
    ) -> None:
        """Choose the channels of each kernel and dilation by ``seed``; biases are 0
        until `fit`.
        """
        super().__init__()
        self._dilations = dilations
        self.feature_width = NUM_KERNELS * sum(dilations.values())
        kernels = torch.full((NUM_KERNELS, LENGTH), -1.0)
        for kernel, places in zip(
            kernels, itertools.combinations(range(LENGTH), 3), strict=True
        ):
            kernel[list(places)] = 2.0
        chosen = _channels(len(dilations) * NUM_KERNELS, num_channels, seed).reshape(
            -1, NUM_KERNELS, num_channels
        )
        # [dilations, kernels, channels, LENGTH]
        self.register_buffer("weights", chosen[..., None] * kernels[:, None])
        self.register_buffer("biases", torch.zeros(self.feature_width))

    def forward(
        self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the features [B, 1, F] of series [B, L, C]; ``grid`` is not used."""
        most = max(1, _MOST_OUTPUTS // (NUM_KERNELS * tokens_BTD.shape[1]))
        if not torch.compiler.is_exporting() and len(tokens_BTD) > most:
            return torch.cat([self(part) for part in torch.split(tokens_BTD, most)])
        x = tokens_BTD.float().transpose(1, 2)
        parts = []
        start = 0
        for number, (dilation, each) in enumerate(self._dilations.items()):
            margin = LENGTH // 2 * dilation
            with torch.autocast(x.device.type, enabled=False):
                outputs = F.conv1d(
                    x, self.weights[number], padding=margin, dilation=dilation
                )
            biases = self.biases[start : start + NUM_KERNELS * each].reshape(
                NUM_KERNELS, each
            )
            inner = outputs[..., margin : x.shape[2] - margin]
            even, odd = (inner, outputs) if number % 2 else (outputs, inner)
            shares = (
                _shares(even[:, ::2], biases[::2]),
                _shares(odd[:, 1::2], biases[1::2]),
            )
            parts.append(torch.stack(shares, dim=2).flatten(1))
            start += NUM_KERNELS * each
        return torch.cat(parts, dim=1)[:, None]

    @torch.no_grad()
    def fit(self, draw: Callable[[int], Tensor]) -> None:
        """Set the biases from random training series; ``draw(n)`` returns n of them as
        tokens [n, L, C].
        """
        order = torch.arange(1, self.feature_width + 1, dtype=torch.float64)
        levels = (order * _GOLDEN % 1).to(self.biases.device, torch.float32)
        parts = []
        for number, (dilation, each) in enumerate(self._dilations.items()):
            x = draw(NUM_KERNELS).float().transpose(1, 2)  # one series for each kernel
            padding = LENGTH // 2 * dilation
            weights = self.weights[number]
            outputs = F.conv1d(
                x.reshape(1, -1, x.shape[2]),
                weights,
                padding=padding,
                dilation=dilation,
                groups=NUM_KERNELS,
            )
            wanted = levels[: NUM_KERNELS * each]
            levels = levels[NUM_KERNELS * each :]
            parts.append(
                _quantiles(outputs[0], wanted.reshape(NUM_KERNELS, each)).flatten()
            )
        self.biases.copy_(torch.cat(parts))


class HydraBody(Body):
    """Body that maps series [B, L, C] to features [B, 1, F] of Hydra, by random
    kernels; it is not trained.

    With each of the dilations 1, 2, 4, ..., half of the groups see the series, and half
    its differences. For each kernel there are two features: the square roots of the sum
    of its outputs where they are the largest of its group, and of the number of
    positions where they are the smallest.
    """

    modality = "sequence"
    weights: Tensor

    def __init__(
        self, length: int, num_channels: int, kernels: int, groups: int, seed: int
    ) -> None:
        """Draw the weights by ``seed``, for ``groups`` groups, an even number, of
        ``kernels`` kernels each.
        """
        super().__init__()
        self._kernels = kernels
        dilations = int(math.log2((length - 1) / (LENGTH - 1))) + 1
        with seeded(seed):
            weights = torch.randn(2 * dilations, groups // 2, kernels, 1, LENGTH)
        weights -= weights.mean(dim=4, keepdim=True)
        chosen = _channels(2 * dilations * (groups // 2), num_channels, seed).reshape(
            *weights.shape[:2], 1, -1, 1
        )
        weights = chosen * weights / weights.abs().sum(dim=4, keepdim=True)
        self.register_buffer("weights", weights.flatten(1, 2))
        self.feature_width = 2 * dilations * groups * kernels

    def forward(
        self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the features [B, 1, F] of series [B, L, C]; ``grid`` is not used."""
        x = tokens_BTD.float().transpose(1, 2)
        parts = list[Tensor]()
        for number, weights in enumerate(self.weights):
            dilation = 2 ** (number // 2)
            series = x.diff(dim=2) if number % 2 else x
            with torch.autocast(x.device.type, enabled=False):
                outputs = F.conv1d(
                    series, weights, padding=LENGTH // 2 * dilation, dilation=dilation
                )
            outputs = torch.unflatten(outputs, 1, (-1, self._kernels))
            won = (outputs == outputs.amax(dim=2, keepdim=True)) * outputs
            lost = (outputs == outputs.amin(dim=2, keepdim=True)).float()
            parts += [
                each.sum(dim=3).clamp(min=0).sqrt().flatten(1) for each in (won, lost)
            ]
        return torch.cat(parts, dim=1)[:, None]


class JoinedBody(Body):
    """Body that maps series [B, L, C] to the features [B, 1, F] of several bodies, side
    by side.
    """

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


def _shares(outputs: Tensor, biases: Tensor) -> Tensor:
    """Return the shares of positions of ``outputs`` [B, K, L] above each of the
    ``biases`` [K, n], [B, K, n].
    """
    if (
        torch.compiler.is_exporting()
    ):  # a quarter of the operations, for each of which an exporter takes up to 50 ms
        return (outputs[:, :, None] > biases[:, :, None]).float().mean(dim=3)
    # One bias at a time, because all comparisons together take too much memory. Written
    # as numbers into one array, they take a fifth of the time of comparisons that are
    # converted.
    above = torch.empty_like(outputs, memory_format=torch.contiguous_format)
    shares = (
        torch.gt(outputs, bias[:, None], out=above).mean(dim=2)
        for bias in biases.unbind(1)
    )
    return torch.stack(list(shares), dim=2)


def _channels(num: int, num_channels: int, seed: int) -> Tensor:
    """Return ``num`` random subsets of 1 to 9 channels, [num, C] of 0 and 1; small
    subsets are as likely as large.
    """
    random = np.random.default_rng(seed)
    sizes = 2 ** random.uniform(0, math.log2(min(num_channels, LENGTH) + 1), num)
    ranks = random.random((num, num_channels)).argsort(axis=1).argsort(axis=1)
    return torch.from_numpy((ranks < sizes.astype(int)[:, None]).astype(np.float32))


def _quantiles(values: Tensor, levels: Tensor) -> Tensor:
    """Return the quantiles of each row of ``values`` [K, L] at its own ``levels`` [K,
    n], linearly interpolated.
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
    """Build a model of the features ``body`` of series (C, L) with L >= `LENGTH`, and a
    linear head, initially 0.

    ``statistics``: mean and deviation of each input channel; None: inputs are already
    standardised.
    """
    head = build_head(body.feature_width, (1,), target, input_shape[1:], None)
    for parameter in head.parameters():
        torch.nn.init.zeros_(parameter)
    return CrossModalModel(PointEmbedder(input_shape), body, head, statistics)
