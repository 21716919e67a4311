"""The embedder of networks that take inputs as they are: each point is a token of its channels."""

import math

from torch import Tensor

from orca_ray.models.embedder import Embedder


class PointEmbedder(Embedder):
    """Makes a token of each point of an input: the values of its channels. It has no parameters."""

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.width, self.layout = input_shape[0], tuple(input_shape[1:])

    @property
    def num_features(self) -> int:
        """Number of values of one input."""
        return self.width * math.prod(self.layout)

    def forward(self, x: Tensor) -> Tensor:
        """Return the points of [B, C, L] or [B, C, H, W] as [B, T, C]."""
        return x.flatten(2).transpose(1, 2)
