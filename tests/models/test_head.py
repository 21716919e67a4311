"""Dense heads put each patch where its token lies, and always return the target's shape."""

import itertools
import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from orca_ray.data.rows import Target
from orca_ray.models.head import DenseHead, build_head
from orca_ray.models.modality import DenseHeadName

FEATURES = 5


def copying_head(head: torch.nn.Module) -> DenseHead:
    """Make every number that a token predicts equal to its first feature (times channel + 1)."""
    assert isinstance(head, DenseHead)
    output = head.output
    assert isinstance(output, torch.nn.Linear)
    with torch.no_grad():
        output.weight.zero_()
        output.bias.zero_()
        patch = math.prod(head.patch)
        for channel in range(head.num_channels):
            output.weight[channel * patch : (channel + 1) * patch, 0] = channel + 1
    return head


def numbered(count: int) -> Tensor:
    """Features [1, S, F] whose first number is the token's index."""
    features = torch.zeros(1, count, FEATURES)
    features[0, :, 0] = torch.arange(count)
    return features


@torch.no_grad()
def test_patches_of_a_series_are_cropped_where_the_embedder_padded() -> None:
    head = copying_head(build_head(FEATURES, (3,), Target("dense", shape=(2, 10)), (10,), patch=4))
    field = head(numbered(3))
    expected = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
    assert torch.equal(field[0], torch.stack([expected, 2 * expected]).float())


@torch.no_grad()
def test_patches_of_an_image_are_cropped_where_the_embedder_padded() -> None:
    head = copying_head(build_head(FEATURES, (2, 3), Target("dense", shape=(3, 5)), (3, 5), patch=2))
    field = head(numbered(6))
    expected = torch.tensor([[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]).float()
    assert torch.equal(field[0], expected)


@torch.no_grad()
def test_patches_of_a_resized_image_cover_the_field() -> None:
    head = copying_head(build_head(FEATURES, (4, 4), Target("dense", shape=(16, 16)), (16, 16), patch=None))
    field = head(numbered(16))
    expected = torch.arange(16.0).view(4, 4).repeat_interleave(4, 0).repeat_interleave(4, 1)
    assert torch.equal(field[0], expected)


@torch.no_grad()
def test_patches_that_do_not_divide_the_field_are_resized() -> None:
    head = copying_head(build_head(FEATURES, (2, 2), Target("dense", shape=(3, 7)), (3, 7), patch=None))
    field = head(numbered(4))[0]
    assert field.shape == (3, 7)
    assert (field.diff(dim=1) >= -1e-6).all()
    assert (field.diff(dim=0) >= -1e-6).all()
    torch.testing.assert_close(field[[0, 0, -1, -1], [0, -1, 0, -1]], torch.arange(4.0))


@torch.no_grad()
def test_a_series_on_an_image_body_is_folded_like_the_input() -> None:
    """36 points on a 2 x 2 grid: rows of 6, so the first three points lie in token 0, the next three in token 1."""
    head = copying_head(build_head(FEATURES, (2, 2), Target("dense", shape=(36,)), (36,), patch=None))
    field = head(numbered(4))[0]
    assert field.tolist() == ([0] * 3 + [1] * 3) * 3 + ([2] * 3 + [3] * 3) * 3


@pytest.mark.parametrize(
    "target",
    [
        Target("classes", 6),
        Target("labels", 4),
        Target("scalar"),
        Target("dense", shape=(37,)),
        Target("dense", shape=(2, 37)),
        Target("dense", shape=(9, 4)),
        Target("dense", shape=(3, 9, 4)),
        Target("dense", shape=(1,)),
        Target("dense", shape=(64, 64)),
    ],
    ids=lambda target: f"{target.kind}{target.output_shape}",
)
def test_any_layout_gives_exactly_the_targets_shape(target: Target) -> None:
    dense: tuple[DenseHeadName, ...] = get_args(DenseHeadName)
    cases = itertools.product([(5,), (1,), (2, 3), (1, 1)], [(37,), (9, 4)], [None, 37], dense)
    for layout, input_size, patch, kind in cases:
        image_size = None if patch or len(layout) == 1 else 12
        head = build_head(FEATURES, layout, target, input_size, patch, image_size, kind)
        predictions = head(torch.ones(2, math.prod(layout), FEATURES, requires_grad=True))
        assert predictions.shape == (2, *target.output_shape), (layout, input_size, patch, kind)
        predictions.square().sum().backward()
        assert all(parameter.grad is not None for parameter in head.parameters())


@torch.no_grad()
def test_a_pooled_series_consists_of_averages_of_each_feature() -> None:
    """Tokens of 4 components, patches of 2: the averages of the first and of the last two components."""
    head = build_head(4, (3,), Target("dense", shape=(5,)), (5,), patch=2, dense="pooled")
    assert not list(head.parameters())
    features = torch.tensor([[[1.0, 3, 5, 7], [0, 2, 0, 4], [8, 8, 1, 1]]])
    assert head(features).tolist() == [[2, 6, 1, 2, 8]]


@torch.no_grad()
def test_a_pooled_image_averages_colours_and_pixels_of_the_decoder() -> None:
    """One feature decodes to a 2 x 2 image of 3 colours; two channels are averages of colours 1, 2 and of 2, 3."""
    head = build_head(1, (1, 1), Target("dense", shape=(2, 1, 2)), (1, 2), None, image_size=2, dense="pooled")
    output = head.get_submodule("output")
    assert isinstance(output, torch.nn.Linear)
    output.weight.copy_(torch.arange(12.0)[:, None])
    output.bias.zero_()
    assert head(torch.ones(1, 1, 1)).tolist() == [[[[3, 4]], [[7, 8]]]]


@torch.no_grad()
def test_pooled_heads_average_tokens() -> None:
    head = build_head(FEATURES, (7,), Target("classes", 3), (7,), None)
    features = torch.arange(70.0).view(2, 7, FEATURES)
    torch.testing.assert_close(head(features), head(features.mean(dim=1, keepdim=True)))
