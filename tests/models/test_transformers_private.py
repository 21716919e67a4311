"""What breaks when a private part of transformers changes that bodies use."""

from unittest import mock

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel
from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention

from orca_ray.models.families.vision import SwinBody
from orca_ray.models.transformers_private import (
    FusedMPNetSelfAttention,
    attention_of,
    skip_initialisation,
)
from orca_ray.models.weights import load_body
from tests.models.conftest import RandomTensor, TinyDirectory

pytestmark = pytest.mark.usefixtures("untouched_random_state")


@pytest.mark.parametrize("attention", ["eager", "sdpa", "someone/kernels", None])
def test_the_attention_that_a_configuration_asks_for_is_read(
    attention: str | None,
) -> None:
    """If this fails, a body could ask for attention code from the hub unnoticed."""
    config = AutoConfig.for_model("bert", attn_implementation=attention)
    assert attention_of(config) == attention


def test_models_are_built_without_random_numbers(tiny: TinyDirectory) -> None:
    """If this fails, building a described body takes ten times as long."""
    config = AutoConfig.from_pretrained(tiny("bert"))
    with skip_initialisation(), mock.patch.object(torch.Tensor, "normal_") as draw:
        AutoModel.from_config(config)
    draw.assert_not_called()


def test_mpnet_attends_in_one_kernel_with_the_same_gradient(
    tiny: TinyDirectory, random_tensor: RandomTensor
) -> None:
    loaded = load_body(str(tiny("mpnet")))
    body = loaded.body.eval()
    attentions = [
        module for module in body.modules() if isinstance(module, MPNetSelfAttention)
    ]
    assert attentions
    assert all(type(module) is FusedMPNetSelfAttention for module in attentions)
    tokens = random_tensor(2, 9, loaded.stem.width)
    parameters = list(body.parameters())
    with mock.patch.object(
        F, "scaled_dot_product_attention", wraps=F.scaled_dot_product_attention
    ) as kernel:
        fused = torch.autograd.grad(body(tokens).square().sum(), parameters)
    assert kernel.call_count == len(attentions)
    for module in attentions:
        module.__class__ = MPNetSelfAttention
    eager = torch.autograd.grad(body(tokens).square().sum(), parameters)
    for fused_gradient, eager_gradient in zip(fused, eager, strict=True):
        torch.testing.assert_close(fused_gradient, eager_gradient, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_swin_shrinks_windows_to_small_grids(
    tiny: TinyDirectory, random_tensor: RandomTensor
) -> None:
    """A window of 2 keeps the biases that its places had in the pretrained one of 4."""
    loaded = load_body(str(tiny("swin")))
    assert isinstance(loaded.body, SwinBody)
    first_stage, last_stage = loaded.body.encoder.layers
    (before,) = last_stage.blocks[0].attention.relative_position_bias()
    loaded.body.fit_grid((4, 4))
    assert [block.shift_size for block in first_stage.blocks] == [0, 0]
    assert [block.shift_size for block in last_stage.blocks] == [0, 0, 0, 0]
    assert first_stage.blocks[0].window_size == 4
    assert last_stage.blocks[0].window_size == 2
    (after,) = last_stage.blocks[0].attention.relative_position_bias()
    corner = torch.tensor([0, 1, 4, 5])
    assert torch.equal(after, before[:, corner][:, :, corner])
    features = loaded.body(random_tensor(3, 16, loaded.stem.width), (4, 4))
    assert features.shape == (3, 4, 32)
    assert features.isfinite().all()
