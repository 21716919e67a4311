"""Dense heads put each patch where its token lies, and always return the target's shape."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from orca_ray.data.rows import Target
from orca_ray.models.head import DenseHead, build_head

FEATURES = 5


def copying_head(head: torch.nn.Module) -> DenseHead:
    """Make every number that a token predicts equal to its first feature (times channel + 1)."""
    assert isinstance(head, DenseHead)
    with torch.no_grad():
        head.output.weight.zero_()
        head.output.bias.zero_()
        patch = math.prod(head.patch)
        for channel in range(head.num_channels):
            head.output.weight[channel * patch : (channel + 1) * patch, 0] = channel + 1
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
    cases = itertools.product([(5,), (1,), (2, 3), (1, 1)], [(37,), (9, 4)], [None, 37])
    for layout, input_size, patch in cases:
        head = build_head(FEATURES, layout, target, input_size, patch)
        predictions = head(torch.ones(2, math.prod(layout), FEATURES))
        assert predictions.shape == (2, *target.output_shape), (layout, input_size, patch)
        predictions.square().sum().backward()
        assert all(parameter.grad is not None for parameter in head.parameters())


@torch.no_grad()
def test_pooled_heads_average_tokens() -> None:
    head = build_head(FEATURES, (7,), Target("classes", 3), (7,), None)
    features = torch.arange(70.0).view(2, 7, FEATURES)
    torch.testing.assert_close(head(features), head(features.mean(dim=1, keepdim=True)))
