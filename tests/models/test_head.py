"""Dense heads put each patch where its token lies, and always return the target's shape."""

import itertools
import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from orca_ray.data.rows import Target
from orca_ray.models.crossmodal import DenseHead, build_head
from orca_ray.models.modality import DenseHeadName

FEATURES = 5


def copied(layout: tuple[int, ...], shape: tuple[int, ...], patch: int | None) -> Tensor:
    """Return the field of a head whose tokens copy their index into each number (times channel + 1)."""
    head = build_head(FEATURES, layout, Target("dense", shape=shape), shape[-len(layout) :], patch)
    assert isinstance(head, DenseHead)
    output = head.output
    assert isinstance(output, torch.nn.Linear)
    output.weight.zero_()
    output.bias.zero_()
    size = math.prod(head.patch)
    for channel in range(head.num_channels):
        output.weight[channel * size : (channel + 1) * size, 0] = channel + 1
    features = torch.zeros(1, count := math.prod(layout), FEATURES)
    features[0, :, 0] = torch.arange(count)
    field: Tensor = head(features)[0]
    return field


FOLDED = ([0] * 3 + [1] * 3) * 3 + ([2] * 3 + [3] * 3) * 3
"""36 points on a 2 x 2 grid: rows of 6, so the first three points lie in token 0, the next three in token 1."""


@pytest.mark.parametrize(
    ("layout", "shape", "patch", "expected"),
    [
        ((3,), (2, 10), 4, [[0, 0, 0, 0, 1, 1, 1, 1, 2, 2], [0, 0, 0, 0, 2, 2, 2, 2, 4, 4]]),
        ((2, 3), (3, 5), 2, [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]),
        ((2, 2), (4, 4), None, [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]),
    ],
)
@torch.no_grad()
def test_patches_are_cropped_where_the_embedder_padded_and_cover_a_resized_image(
    layout: tuple[int, ...], shape: tuple[int, ...], patch: int | None, expected: list[object]
) -> None:
    assert copied(layout, shape, patch).tolist() == expected


@torch.no_grad()
def test_patches_that_do_not_divide_the_field_are_resized() -> None:
    field = copied((2, 2), (3, 7), None)
    assert field.shape == (3, 7)
    assert (field.diff(dim=1) >= -1e-6).all()
    assert (field.diff(dim=0) >= -1e-6).all()
    torch.testing.assert_close(field[[0, 0, -1, -1], [0, -1, 0, -1]], torch.arange(4.0))


@torch.no_grad()
def test_a_series_on_an_image_body_is_folded_like_the_input() -> None:
    assert copied((2, 2), (36,), None).tolist() == FOLDED


@pytest.mark.parametrize(
    "target",
    [
        Target("classes", 6), Target("labels", 4), Target("scalar"),
        *(Target("dense", shape=shape) for shape in ((37,), (2, 37), (9, 4), (3, 9, 4), (1,), (64, 64))),
    ],
    ids=lambda target: f"{target.kind}{target.output_shape}",
)  # fmt: skip
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
