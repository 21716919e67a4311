"""Plain networks for the peers: a small CNN for images, U-Net and FNO for fields in one
and two dimensions.

Runs in the peers' environment and imports nothing of orca-ray. `train` uses the time
that it is given: the learning rate follows a cosine over the share of the time, or of
the most epochs, that has passed. A second is one of CPU time for each thread, so other
work on the machine takes nothing from a peer.
"""

import math
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

MOST_EPOCHS = {"cnn": 200, "unet": 600, "fno": 600}
RATES = {"cnn": 2e-3, "unet": 1e-3, "fno": 2e-3}
BATCH = 20
_WARM_UP = 0.05
LEAST_POINTS = 8
"""Least number of points of a field along an axis; a shorter first axis of targets has
their channels.
"""
Array = np.ndarray[Any, Any]


def _convolution(dimensions: int, *arguments: Any, **options: Any) -> nn.Module:
    layers = {1: nn.Conv1d, 2: nn.Conv2d}
    return layers[dimensions](*arguments, **options)


class SmallCnn(nn.Module):
    """Three blocks of convolutions with batch norm, their mean over the image, and a
    linear layer.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        widths = (channels, 32, 64, 128)
        blocks: list[nn.Module] = []
        for before, after in pairwise(widths):
            for width in (before, after):
                blocks += [
                    nn.Conv2d(width, after, 3, padding=1, bias=False),
                    nn.BatchNorm2d(after),
                    nn.ReLU(),
                ]
            blocks.append(nn.MaxPool2d(2))
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Sequential(nn.Dropout(0.2), nn.Linear(widths[-1], num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, classes] of images [B, C, H, W]; while training, images are
        shifted by up to a tenth.
        """
        if self.training:
            most = max(1, x.shape[-1] // 10)
            padded = functional.pad(x, (most,) * 4, mode="replicate")
            down, right = (int(torch.randint(0, 2 * most + 1, ())) for _ in range(2))
            x = padded[..., down : down + x.shape[-2], right : right + x.shape[-1]]
        return torch.as_tensor(self.last(self.blocks(x).mean((-2, -1))))


class UNet(nn.Module):
    """U-Net of four levels for fields [B, C, X] or [B, C, X, Y] with sides that 8
    divides.
    """

    def __init__(
        self, channels: int, outputs: int, dimensions: int, width: int = 24
    ) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 4 * width]
        self.pool = functional.max_pool1d if dimensions == 1 else functional.max_pool2d
        self.down = nn.ModuleList()
        for before, after in pairwise([channels, *widths]):
            self.down.append(self._block(dimensions, before, after))
        self.up = nn.ModuleList()
        for below, beside in zip(widths[:0:-1], widths[-2::-1], strict=True):
            self.up.append(self._block(dimensions, below + beside, beside))
        self.last = _convolution(dimensions, width, outputs, 1)

    @staticmethod
    def _block(dimensions: int, before: int, after: int) -> nn.Module:
        layers: list[nn.Module] = []
        for width in (before, after):
            layers += [
                _convolution(dimensions, width, after, 3, padding=1),
                nn.GroupNorm(4, after),
                nn.GELU(),
            ]
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return fields [B, outputs, X] or [B, outputs, X, Y]."""
        passed = []
        for number, block in enumerate(self.down):
            x = block(self.pool(x, 2) if number else x)
            passed.append(x)
        for block, beside in zip(self.up, passed[-2::-1], strict=True):
            x = block(
                torch.cat([functional.interpolate(x, scale_factor=2.0), beside], dim=1)
            )
        return torch.as_tensor(self.last(x))


class Fno(nn.Module):
    """Fourier neural operator of four layers (Li et al., 2021); coordinates are further
    channels.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        dimensions: int,
        width: int = 32,
        modes: int = 12,
    ) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.modes = modes
        self.first = _convolution(dimensions, channels + dimensions, width, 1)
        corners = 2 ** (dimensions - 1)
        shape = (width, width, *[modes] * dimensions)
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(corners, *shape, dtype=torch.cfloat) / width)
            for _ in range(4)
        )
        self.beside = nn.ModuleList(
            _convolution(dimensions, width, width, 1) for _ in range(4)
        )
        self.last = nn.Sequential(
            _convolution(dimensions, width, 128, 1),
            nn.GELU(),
            _convolution(dimensions, 128, outputs, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return fields [B, outputs, X] or [B, outputs, X, Y]."""
        lines = [torch.linspace(0, 1, size) for size in x.shape[2:]]
        grid = torch.stack(torch.meshgrid(*lines, indexing="ij")).expand(
            len(x), -1, *x.shape[2:]
        )
        x = self.first(torch.cat([x, grid], dim=1))
        for number, (weights, beside) in enumerate(
            zip(self.weights, self.beside, strict=True)
        ):
            x = self._spectral(x, weights) + beside(x)
            x = functional.gelu(x) if number < 3 else x
        return torch.as_tensor(self.last(x))

    def _spectral(self, x: Tensor, weights: Tensor) -> Tensor:
        axes = tuple(range(2, 2 + self.dimensions))
        spectrum = torch.fft.rfftn(x, dim=axes, norm="ortho")
        last = min(self.modes, spectrum.shape[-1])
        made = torch.zeros_like(spectrum)
        if self.dimensions == 1:
            made[..., :last] = torch.einsum(
                "bim,iom->bom", spectrum[..., :last], weights[0, ..., :last]
            )
        else:
            first = min(self.modes, spectrum.shape[-2] // 2)
            for weight, rows in zip(
                weights, (slice(0, first), slice(-first, None)), strict=True
            ):
                low = spectrum[:, :, rows, :last]
                made[:, :, rows, :last] = torch.einsum(
                    "bixy,ioxy->boxy", low, weight[..., :first, :last]
                )
        filtered: Tensor = torch.fft.irfftn(made, s=x.shape[2:], dim=axes, norm="ortho")
        return filtered


def train(
    model: nn.Module,
    name: str,
    x: Tensor,
    y: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    seconds: float,
) -> None:
    """Train until the time or the most epochs have passed."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATES[name], weight_decay=1e-4)
    begin = _seconds()
    steps = 0
    most = MOST_EPOCHS[name] * math.ceil(len(x) / BATCH)
    model.train()
    while True:
        for rows in torch.split(torch.randperm(len(x)), BATCH):
            passed = max((_seconds() - begin) / seconds, steps / most)
            if passed >= 1:
                return
            if len(rows) < 2:  # batch norm needs two
                continue
            rate = (
                min(1.0, passed / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * passed))
                + 1e-3
            )
            for group in optimizer.param_groups:
                group["lr"] = RATES[name] * rate
            optimizer.zero_grad()
            loss(model(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            steps += 1


def _seconds() -> float:
    return time.process_time() / torch.get_num_threads()


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    """Return the outputs of the model in evaluation mode."""
    model.eval()
    with torch.no_grad():
        return torch.cat([model(part) for part in torch.split(x, 100)])


def fit_images(name: str, x: Array, y: Array, test_x: Array, seconds: float) -> Array:
    """Return the classes or numbers that a small CNN predicts for ``test_x`` after
    training on x, [N, H, W, ...], and y [N], text or numbers.
    """
    x, test_x = (part.reshape(*part.shape[:3], -1) for part in (x, test_x))
    mean = x.mean((0, 1, 2))
    deviation = x.std((0, 1, 2))
    inputs, test = (
        torch.from_numpy((part - mean) / deviation).float().movedim(-1, 1)
        for part in (x, test_x)
    )
    if y.dtype.kind == "f":
        scaled = torch.from_numpy((y - y.mean()) / y.std()).float()
        model = SmallCnn(inputs.shape[1], 1)
        train(model, name, inputs, scaled[:, None], nn.MSELoss(), seconds)
        numbers: Array = outputs(model, test)[:, 0].numpy() * y.std() + y.mean()
        return numbers
    classes, codes = np.unique(y, return_inverse=True)
    model = SmallCnn(inputs.shape[1], len(classes))
    train(
        model,
        name,
        inputs,
        torch.from_numpy(codes),
        nn.CrossEntropyLoss(label_smoothing=0.05),
        seconds,
    )
    predicted: Array = classes[outputs(model, test).argmax(1).numpy()]
    return predicted


def fit_fields(name: str, x: Array, y: Array, test_x: Array, seconds: float) -> Array:
    """Return the fields [N, ...] that a U-Net or an FNO predicts for ``test_x`` after
    training on x and y [N, ...], with or without an axis of channels.
    """
    has_channels = y.ndim > 2 and y.shape[1] < LEAST_POINTS
    targets = y if has_channels else y[:, None]
    _, num_outputs, *points = targets.shape
    x, test_x = (part.reshape(len(part), -1, *points) for part in (x, test_x))
    axes = (0, *range(2, x.ndim))
    mean = x.mean(axes, keepdims=True)
    deviation = x.std(axes, keepdims=True) + 1e-8
    inputs, test = (
        torch.from_numpy((part - mean) / deviation).float() for part in (x, test_x)
    )
    shift = torch.from_numpy(targets.mean(axes, keepdims=True)).float()
    scale = torch.from_numpy(targets.std(axes, keepdims=True)).float()

    def relative_l2(predicted: Tensor, target: Tensor) -> Tensor:
        difference = (predicted * scale + shift - target).flatten(1).norm(dim=1)
        mean: Tensor = (difference / target.flatten(1).norm(dim=1)).mean()
        return mean

    network = UNet if name == "unet" else Fno
    model = network(x.shape[1], num_outputs, len(points))
    train(model, name, inputs, torch.from_numpy(targets).float(), relative_l2, seconds)
    predicted: Array = (outputs(model, test) * scale + shift).numpy()
    return predicted.reshape(-1, *y.shape[1:])
