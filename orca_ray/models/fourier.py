"""Fourier neural operators for fields in one and two dimensions; models of fields.

Own code, because the package neuraloperator requires wandb, matplotlib and tensorly,
and multiplies complex numbers, which ONNX lacks.

After Li et al., Fourier Neural Operator for Parametric Partial Differential Equations,
ICLR 2021, arXiv:2010.08895, for the method ``fno``: a layer is v -> gelu(W v + F^-1(R F
v)), where R mixes the channels of each of the lowest frequencies, and F is the discrete
Fourier transform. Tensor suffixes as in :mod:`orca_ray.models.body`.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from orca_ray.data.rows import Target
from orca_ray.models.body import Body, Layout, seeded
from orca_ray.models.crossmodal import CrossModalModel, build_head
from orca_ray.models.embedder import Embedder

_PROJECTED = 4
"""Width of the hidden layer of the projection, relative to that of the Fourier layers.
"""


class SpectralConvolution(nn.Module):
    """Module that multiplies the lowest frequencies of a field by complex matrices.

    The field is [B, width, H, W]; the products are computed in float32. Along W,
    frequencies 0 to ``modes`` - 1 are kept, along H ``-modes`` to ``modes`` - 1, or all
    if there are fewer; all others become 0. A 1-D field has H = 1.
    """

    def __init__(self, width: int, size: tuple[int, int], modes: int) -> None:
        super().__init__()
        self._size = size
        height, length = size
        if 2 * modes >= height:
            self._rows = list(range(height))
        else:
            self._rows = [*range(modes), *range(height - modes, height)]
        self._columns = min(modes, length // 2 + 1)
        real_and_imaginary = torch.randn(
            width, width, len(self._rows), self._columns, 2
        )
        self.weight = nn.Parameter(real_and_imaginary / math.sqrt(2 * width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolved field, of the same shape."""
        with torch.autocast(x.device.type, enabled=False):
            spectrum = torch.fft.rfft2(x.float())
            if torch.compiler.is_exporting():
                mixed = self._mix_as_pairs(spectrum)
            else:
                mixed = self._mix(spectrum)
            convolved: Tensor = torch.fft.irfft2(mixed, s=self._size)
            return convolved

    def _mix(self, spectrum: Tensor) -> Tensor:
        """Return the spectrum with the channels of its lowest frequencies mixed."""
        mixed = torch.zeros_like(spectrum)
        low = spectrum[:, :, self._rows, : self._columns]
        mixed[:, :, self._rows, : self._columns] = torch.einsum(
            "bihw,iohw->bohw", low, torch.view_as_complex(self.weight)
        )
        return mixed

    def _mix_as_pairs(self, spectrum: Tensor) -> Tensor:
        """Return the result of `_mix` without complex products, which ONNX lacks.

        A complex number is a pair p of real ones, and multiplies as a matrix [p, q].
        Training would take up to 1.6 times as long with this method.
        """
        pairs = torch.view_as_real(spectrum)
        real, imaginary = self.weight.unbind(-1)
        matrices = torch.stack(
            [self.weight, torch.stack([-imaginary, real], dim=-1)], dim=-2
        )
        mixed = torch.zeros_like(pairs)
        low = pairs[:, :, self._rows, : self._columns]
        mixed[:, :, self._rows, : self._columns] = torch.einsum(
            "bihwp,iohwpq->bohwq", low, matrices
        )
        return torch.view_as_complex(mixed)


class FourierEmbedder(Embedder):
    """Embedder that lifts each point of a field to a token.

    A token is a linear function of the point's channels and coordinates, which are in
    [0, 1].
    """

    coordinates: Tensor

    def __init__(self, input_shape: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.layout = tuple(input_shape[1:])
        axes = torch.meshgrid(
            [torch.linspace(0, 1, side) for side in self.layout], indexing="ij"
        )
        self.register_buffer(
            "coordinates",
            torch.stack([axis.flatten() for axis in axes], dim=1),
            persistent=False,
        )
        self.projection = nn.Linear(input_shape[0] + len(self.layout), width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens [B, T, D] of inputs [B, C, L] or [B, C, H, W]."""
        points = x.flatten(2).transpose(1, 2)
        coordinates = self.coordinates.to(points).expand(x.shape[0], -1, -1)
        embedded: Tensor = self.projection(torch.cat([points, coordinates], dim=2))
        return embedded


class FourierBody(Body):
    """Body of a neural operator, [B, T, D] -> [B, T, F].

    It consists of the Fourier layers and the hidden layer of the projection.
    """

    def __init__(
        self, layout: Layout, width: int, num_layers: int, modes: int, dropout: float
    ) -> None:
        super().__init__()
        self.modality = "sequence" if len(layout) == 1 else "image"
        # A 1-D field has one row.
        height, length = (1, *layout) if len(layout) == 1 else layout
        self._size = (height, length)
        self.spectral = nn.ModuleList(
            [SpectralConvolution(width, self._size, modes) for _ in range(num_layers)]
        )
        self.pointwise = nn.ModuleList(
            [nn.Conv2d(width, width, 1) for _ in range(num_layers)]
        )
        self.feature_width = _PROJECTED * width
        self.projection = nn.Linear(width, self.feature_width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None
    ) -> Tensor:
        """Return the features [B, T, F] of the points.

        ``grid`` is not used: the constructor got the layout.
        """
        x = tokens_BTD.transpose(1, 2).reshape(tokens_BTD.shape[0], -1, *self._size)
        layers = zip(self.spectral, self.pointwise, strict=True)
        for number, (spectral, pointwise) in enumerate(layers, 1):
            x = spectral(x) + pointwise(x)
            if number < len(self.spectral):
                x = F.gelu(x)
        points_BTD = x.flatten(2).transpose(1, 2)
        features: Tensor = self.dropout(F.gelu(self.projection(points_BTD)))
        return features


def build_field_model(
    make: Callable[[Layout], Body],
    *,
    width: int,
    input_shape: tuple[int, ...],
    target: Target,
    seed: int,
    statistics: tuple[Tensor, Tensor] | None = None,
) -> CrossModalModel:
    """Build a network from fields, with their coordinates, to a dense target.

    Inputs have the shape (C, L) or (C, H, W). ``make`` returns the body for tokens of a
    layout and of ``width``, e.g. a `FourierBody`; it has a feature for each point.
    ``seed`` determines the initial parameters. ``statistics``: mean and deviation of
    each input channel; None: inputs are already standardised.
    """
    with seeded(seed):
        embedder = FourierEmbedder(input_shape, width)
        body = make(embedder.layout)
        head = build_head(
            body.feature_width, embedder.layout, target, input_shape[1:], patch=1
        )
    return CrossModalModel(embedder, body, head, statistics)
