"""timm's Swin."""

import math
from typing import Any

from torch import Tensor

from orca_ray.models.body import Body, Layout, Stem
from orca_ray.models.families.timm_vit import timm_stem
from orca_ray.models.family import Family
from orca_ray.models.stems import ImageStem


class TimmSwinBody(Body):
    """timm's SwinTransformer after its patch embedding, [B, gh * gw, D] -> [B, S, F]."""

    modality = "image"

    def __init__(self, model: Any, stem: ImageStem) -> None:
        super().__init__()
        self.layers = model.layers
        self.norm = model.norm
        self.width = stem.width
        self.feature_width = int(model.num_features)
        self._windows = [tuple(stage.blocks[0].window_size) for stage in model.layers]

    def forward(self, tokens_BTD: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Return the features after the final norm, in row-major order."""
        assert grid is not None, "Swin needs the grid of its tokens"
        features: Tensor = self.norm(self.layers(tokens_BTD.reshape(len(tokens_BTD), *grid, -1)))
        return features.flatten(1, 2)

    def feature_layout(self, layout: Layout) -> Layout:
        """Return the grid after all patch mergings, which pad odd sides."""
        return tuple(math.ceil(side / 2 ** (len(self.layers) - 1)) for side in layout)

    def fit_grid(self, grid: tuple[int, int]) -> None:
        """Set each stage's grid; timm interpolates the position biases of windows that no longer fit."""
        for index, (stage, window) in enumerate(zip(self.layers, self._windows, strict=True)):
            scale = 2 ** max(index - 1, 0)
            stage.set_input_size(tuple(math.ceil(side / scale) for side in grid), window)


def _resembles(model: Any) -> bool:
    from timm.models.swin_transformer import SwinTransformer

    return isinstance(model, SwinTransformer)


def _set_depths(model: Any, depths: list[int]) -> None:
    for stage, depth in zip(model.layers, depths, strict=True):
        stage.blocks = stage.blocks[:depth]


def _cut(model: Any) -> tuple[Body, Stem]:
    stem = timm_stem(model)
    return TimmSwinBody(model, stem), stem


FAMILY = Family(
    name="Swin",
    modality="image",
    library="timm",
    resembles=_resembles,
    depths=lambda model: [len(stage.blocks) for stage in model.layers],
    set_depths=_set_depths,
    cut=_cut,
)
