"""Residual convolutional networks: shapes, sizes, and that samples of a batch do not affect each other."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from orca_ray.data.rows import Target
from orca_ray.models.convolution import Architecture, build_convolutional
from orca_ray.models.crossmodal import CrossModalModel

RandomTensor = Callable[..., Tensor]
pytestmark = pytest.mark.usefixtures("untouched_random_state")

CLASSES = Target("classes", 6)
TARGETS = [CLASSES, Target("labels", 4), Target("scalar"), Target("dense", shape=(29,)), Target("dense", shape=(2, 50))]


def build(input_shape: tuple[int, ...], target: Target = CLASSES, *, seed: int = 0, **values: Any) -> CrossModalModel:
    others = {"table": values.pop("table", False), "stride": values.pop("stride", 1)}
    architecture = Architecture(**{"kernel": 3, "dilation": 1, "blocks": 1, "width": 16, **values})
    return build_convolutional(architecture, input_shape=input_shape, target=target, seed=seed, **others)


def size_of(model: CrossModalModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("table", [False, True], ids=["positions", "table"])
@torch.no_grad()
def test_any_input_gives_exactly_the_targets_shape(table: bool, random_tensor: RandomTensor) -> None:
    for number, input_shape in enumerate([(1, 30), (2, 1), (12, 29), (1, 8, 8), (3, 21, 50), (5, 1, 7)]):
        for target in (TARGETS[number % 5], Target("dense", shape=input_shape)):
            predictions = build(input_shape, target, table=table, kernel=7, dilation=3)(random_tensor(3, *input_shape))
            assert predictions.shape == (3, *target.output_shape), (input_shape, target)
            assert predictions.isfinite().all()


def test_parameters_of_a_field_whose_layers_keep_width_and_resolution() -> None:
    """Stem 1·16·3; three blocks of two norms 2·16 and two convolutions 16·16·3; norm 2·16; head 16 + 1."""
    model = build((1, 20), Target("dense", shape=(20,)))
    assert size_of(model) == 48 + 3 * (2 * 32 + 2 * 768) + 32 + 17
    assert model.body.feature_layout(model.embedder.layout) == (20,)


def test_parameters_of_a_classifier_whose_layers_shrink_and_widen() -> None:
    """The blocks map 16 to 16, 16 to 32 and 32 to 64 channels; the last two have shortcuts."""
    blocks = [
        3 * a * b + 3 * b * b + 2 * a + 2 * b + (a * b if a != b else 0) for a, b in ((16, 16), (16, 32), (32, 64))
    ]
    model = build((1, 30))
    assert size_of(model) == 48 + sum(blocks) + 2 * 64 + 6 * (64 + 1)
    assert model.body.feature_layout(model.embedder.layout) == (8,)  # 30, 15, 8
    assert build((3, 21, 50), stride=4).embedder.layout == (6, 13)


def test_weights_that_would_only_see_padding_are_left_out() -> None:
    """In four positions, a kernel with dilation 3 reaches at most one of its steps to either side, if at all."""
    target = Target("dense", shape=(4,))
    assert size_of(build((1, 4), target, kernel=15, dilation=3)) == size_of(build((1, 4), target, kernel=3, dilation=3))
    assert size_of(build((1, 4), target, kernel=3, dilation=4)) == size_of(build((1, 4), target, kernel=1))


@torch.no_grad()
def test_a_table_has_no_neighbourhoods(random_tensor: RandomTensor) -> None:
    x = random_tensor(3, 2, 30)
    predicted = build((2, 30), table=True)(x)
    torch.testing.assert_close(build((2, 30), table=True, kernel=15, dilation=3)(x), predicted)
    torch.testing.assert_close(build((60, 1), table=True)(x.reshape(3, 60, 1)), predicted)
    assert not torch.allclose(build((2, 30))(x), predicted)


@torch.no_grad()
def test_samples_of_a_batch_do_not_affect_each_other_and_the_seed_decides(random_tensor: RandomTensor) -> None:
    model, x = build((2, 29)).train(), random_tensor(4, 2, 29)
    torch.testing.assert_close(torch.cat([model(x[:1]), model(x[1:])]), model(x))
    assert torch.equal(build((2, 29)).train()(x), model(x))
    assert not torch.equal(build((2, 29), seed=1)(x), model(x))
