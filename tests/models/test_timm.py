"""timm's ViTs and Swin behind the same protocol."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

from orca_ray.errors import UserError
from orca_ray.models.body import Body, ImageStem
from orca_ray.models.family import family_of, keep_layers
from orca_ray.models.weights import load_body
from tests.models.conftest import RandomTensor

pytestmark = pytest.mark.usefixtures("untouched_random_state")


def cut_timm(model: Any, layers: int | None) -> tuple[Body, ImageStem]:
    """Cut a timm model as `load_body` does."""
    family = family_of(model, "timm")
    keep_layers(family, model, "timm:tiny", layers)
    body, stem = family.cut(model)
    assert isinstance(stem, ImageStem)
    return body, stem


def tiny(make: Callable[..., Any], **values: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = make(num_classes=0, **values)
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    return model.eval()


def tiny_vit(**values: Any) -> Any:
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2, "dynamic_img_size": True}
    return tiny(VisionTransformer, **sizes, **values)


def tiny_swin() -> Any:
    sizes = {"img_size": 64, "patch_size": 4, "embed_dim": 16, "depths": (2, 4), "num_heads": (2, 4), "window_size": 4}
    return tiny(SwinTransformer, **sizes)


@pytest.mark.parametrize(
    ("variant", "side"),
    [
        ({}, 32), ({"reg_tokens": 2}, 16), ({"no_embed_class": True}, 16), ({"pre_norm": True}, 32),
        ({"class_token": False, "global_pool": "avg"}, 16),
    ],
)  # fmt: skip
@torch.no_grad()
def test_vit_body_is_the_model(variant: dict[str, Any], side: int, random_tensor: RandomTensor) -> None:
    model = tiny_vit(**variant)
    pixels = random_tensor(2, 3, side, side)
    expected = copy.deepcopy(model).forward_features(pixels)
    body, stem = cut_timm(model, None)
    features = body(stem.embed_images(pixels))
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)
    assert features.shape[1] == body.num_prefix_tokens + (side // 8) ** 2


@torch.no_grad()
def test_swin_body_is_the_model_and_takes_any_grid(random_tensor: RandomTensor) -> None:
    model = tiny_swin()
    for side in (64, 4, 12, 100):
        pixels, grid = random_tensor(2, 3, side, side), (side // 4, side // 4)
        body, stem = cut_timm(copy.deepcopy(model), None)
        body.fit_grid(grid)
        features = body(stem.embed_images(pixels), grid)
        rows, columns = body.feature_layout(grid)
        assert features.shape == (2, rows * columns, 32)
        assert features.isfinite().all()
        if side == 64:
            expected = copy.deepcopy(model).forward_features(pixels).flatten(1, 2)
            torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)
            assert (rows, columns) == (8, 8)


def test_layers_keeps_the_first_ones() -> None:
    whole = tiny_vit().state_dict()
    body, _ = cut_timm(tiny_vit(), 2)
    kept = body.state_dict()
    assert {name.split(".")[1] for name in kept if name.startswith("blocks.")} == {"0", "1"}
    assert all(torch.equal(value, whole[name]) for name, value in kept.items())
    with pytest.raises(UserError, match="3 layers"):
        cut_timm(tiny_vit(), 4)


def test_a_named_model_without_pretraining_needs_no_hub() -> None:
    loaded = load_body("timm:vit_tiny_patch16_224:layers=1", pretrained=False)
    assert isinstance(loaded.stem, ImageStem)
    assert loaded.stem.places is not None
    assert (loaded.body.modality, loaded.stem.width, *loaded.stem.places.shape) == ("image", 192, 14, 14, 192)
    with pytest.raises(UserError, match="vit_small_patch16_224"):
        load_body("timm:vit_smal_patch16_224")
    with pytest.raises(UserError, match="ResNet"):
        load_body("timm:resnet18", pretrained=False)


def test_layers_come_off_the_deepest_stage() -> None:
    kept: list[list[int]] = []
    family = replace(family_of(tiny_swin(), "timm"), depths=list, set_depths=lambda _, depths: kept.append(depths))
    for depths, layers in (([2, 2, 18, 2], 12), ([2, 2, 6, 2], 4), ([2, 2, 6, 2], 12), ([2, 2, 6, 2], None)):
        keep_layers(family, depths, "swin", layers)
    assert kept == [[2, 2, 6, 2], [1, 1, 1, 1], [2, 2, 6, 2]]
    for layers in (3, 13):
        with pytest.raises(UserError, match="keep 4 to 12"):
            keep_layers(family, [2, 2, 6, 2], "swin", layers)
