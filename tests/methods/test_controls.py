"""The controls `no_body` and `random_features`, and `orca_fpt`."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from orca_ray.data.rows import Target
from orca_ray.methods.stages.no_body import AttentionBody
from orca_ray.models.weights import load_body
from orca_ray.testing.trials import QUICK, changed, copy_of, make_task, run, start


@torch.no_grad()
def test_one_attention_layer_with_a_residual_connection_and_a_norm(bert: str) -> None:
    torch.manual_seed(0)
    layer = AttentionBody(load_body(bert), 0.0).eval()
    x = torch.randn(2, 5, 16)
    query, key, value = F.linear(x, layer.attention.in_proj_weight, layer.attention.in_proj_bias).chunk(3, dim=2)
    mixed = torch.softmax(query @ key.transpose(1, 2) / 4, dim=2) @ value  # one head, 16 wide
    projection = layer.attention.out_proj
    expected = F.layer_norm(x + F.linear(mixed, projection.weight, projection.bias), (16,))
    torch.testing.assert_close(layer(x), expected)


def test_no_body_differs_from_nft_in_the_body_alone(bert: str, vit: str) -> None:
    for body in (bert, vit):
        control, nft = start(body, "no_body").model, start(body, "nft").model
        assert not changed(copy_of(nft.embedder), copy_of(control.embedder))
        assert control.body.num_prefix_tokens == nft.body.num_prefix_tokens
        assert sum(value.numel() for value in control.body.parameters()) == 4 * 16 * (16 + 1) + 2 * 16
    assert not changed(copy_of(start(bert, "no_body").model), copy_of(start(bert, "no_body").model))
    assert changed(copy_of(start(bert, "no_body").model), copy_of(start(bert, "no_body", seed=1).model))


def test_no_body_in_place_of_one_that_reduces_the_resolution(tmp_path: Path) -> None:
    from transformers import SwinConfig, SwinModel

    config = SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=2, image_size=16, patch_size=4)
    SwinModel(config).save_pretrained(tmp_path)
    task = make_task(Target("dense", shape=(8, 8)), (1, 8, 8))
    model = start(str(tmp_path), "no_body", task=task).model
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 8, 8)
    assert model.body.feature_width == 8


def test_random_features_start_as_scratch(bert: str) -> None:
    assert not changed(copy_of(start(bert, "scratch").model), copy_of(start(bert, "random_features").model))


@pytest.mark.parametrize("method", ["orca", "orca_fpt"])
def test_alignments_are_shared_with_orca(bert: str, method: str, tmp_path: Path) -> None:
    first = start(bert, "orca_fpt", hyperparameters={**QUICK, "refine.epochs": 1}, aligned=tmp_path)
    run(first)
    assert not first.result().align_reused
    second = start(bert, method, hyperparameters={**QUICK, "refine.epochs": 1}, aligned=tmp_path)
    run(second)
    assert second.result().align_reused
