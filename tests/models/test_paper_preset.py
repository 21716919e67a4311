"""Whole models, and what the reference computes with equal weights.

Of whole models: shapes, determinism, gradients, dropout and sizes.
"""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from benchmarks import reference_outputs
from benchmarks.reference_outputs import (
    BODIES,
    DECODER,
    MOST_TOKENS,
    SHAPES,
    TARGETS,
    inputs,
    sample,
    set_layer,
)
from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.models import weights
from orca_ray.models.convolution import Architecture, build_convolutional
from orca_ray.models.crossmodal import CrossModalModel, build_model
from orca_ray.models.modality import EmbedderConfig, Initialisation
from tests.models.conftest import RandomTensor, TinyDirectory

pytestmark = pytest.mark.usefixtures("untouched_random_state")

STARTS: tuple[Initialisation, ...] = ("paper", "random")
Arrays = dict[str, npt.NDArray[np.float32]]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Arrays:
    """Our arrays by the names that the reference's have.

    A name consists of modality, initialisation and kind.
    """
    folder = tmp_path_factory.mktemp("bodies")
    reference_outputs.write_bodies(folder)
    arrays: Arrays = {}
    with torch.no_grad():
        for modality, targets in TARGETS.items():
            for start, target in itertools.product(STARTS, targets):
                arrays |= _outputs(folder, modality, start, target)
    return arrays


def _target(modality: str, kind: str) -> Target:
    """Return the target that the reference's outputs of ``kind`` have.

    ``dense`` is a field of one channel, ``dense4`` one of the input's channels.
    """
    channels, *space = SHAPES[modality]
    if kind == "classes":
        return Target("classes", 5)
    if kind == "dense":
        return Target("dense", shape=tuple(space))
    return Target("dense", shape=(channels, *space))


def _outputs(folder: Path, modality: str, start: Initialisation, target: str) -> Arrays:
    model = build_model(
        body=str(folder / BODIES[modality]),
        pretrained=True,
        input_shape=SHAPES[modality],
        seed=0,
        target=_target(modality, target),
        config=EmbedderConfig(
            MOST_TOKENS, image_size=224, patching="divide", initialisation=start
        ),
        dense_head="pooled",
        dropout=0.1,
    ).eval()
    if modality == "sequence" or start == "random":
        set_layer(model.get_submodule("embedder.projection"), 0.7)
    if target == "classes":
        set_layer(model.get_submodule("head.output"), 0.8)
    elif modality == "image":
        set_layer(model.get_submodule("head.output"), *DECODER)
    x = inputs(modality)
    tokens = model.embed(x)
    arrays = {target: model(x)}
    if target == "classes":
        arrays |= {"tokens": tokens, "features": model.body(tokens, model._grid)}
    return {
        f"{modality}/{start}/{name}": value.numpy() for name, value in arrays.items()
    }


@pytest.mark.slow
def test_outputs_equal_those_of_the_reference(ours: Arrays) -> None:
    # Outputs of the reference, at commit 19b8c1c, by `benchmarks.reference_outputs`.
    path = Path(__file__).with_name("reference_outputs.json")
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored.keys() == ours.keys()
    for name, values in stored.items():
        np.testing.assert_allclose(
            sample(ours[name]), values, rtol=1e-5, atol=1e-5, err_msg=name
        )


CLASSES = Target("classes", 6)


def build(
    body: str,
    input_shape: tuple[int, ...] = (1, 30),
    target: Target = CLASSES,
    **arguments: object,
) -> CrossModalModel:
    values = {
        "pretrained": True,
        "config": EmbedderConfig(16, 24),
        "seed": 0,
        **arguments,
    }
    return build_model(body=body, input_shape=input_shape, target=target, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "pretrained"), [("roberta", True), ("dinov2", False), ("swin", False)]
)
def test_equal_seeds_give_equal_models(
    kind: str, pretrained: bool, tiny: TinyDirectory
) -> None:
    name = str(tiny(kind))
    first = build(name, pretrained=pretrained, seed=5).state_dict()
    build(str(tiny("bert")), seed=9)
    weights._cached_bodies[pretrained].clear()
    second = build(name, pretrained=pretrained, seed=5).state_dict()
    other = build(name, pretrained=pretrained, seed=6).state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert not torch.equal(first["head.output.weight"], other["head.output.weight"])
    matrices = [
        key
        for key, value in first.items()
        if key.startswith("body.") and value.ndim > 1
    ]
    assert matrices
    assert all(
        torch.equal(first[key], other[key]) == pretrained
        for key in matrices
        if "bias_table" not in key
    )


@pytest.mark.parametrize(
    ("kind", "probability"), [("roberta", 0.3), ("swin", 0.3), ("swin", 0.0)]
)
@torch.no_grad()
def test_dropout_reaches_embedder_and_body(
    kind: str, probability: float, tiny: TinyDirectory, random_tensor: RandomTensor
) -> None:
    x = random_tensor(2, 1, 30)
    model = build(str(tiny(kind)), dropout=probability).train()
    with torch.random.fork_rng(devices=[]):
        embeds_equally = torch.equal(model.embed(x), model.embed(x))
        predicts_equally = torch.equal(model(x), model(x))
    assert embeds_equally == predicts_equally == (probability == 0.0)
    assert torch.equal(model.eval()(x), model(x))


@torch.no_grad()
def test_the_body_sees_the_grid_of_an_image_as_a_sequence_and_the_reverse(
    tiny: TinyDirectory, random_tensor: RandomTensor
) -> None:
    image = build(str(tiny("roberta")), (1, 8, 12))
    assert image.embedder.layout == (3, 4)
    assert image.embed(random_tensor(2, 1, 8, 12)).shape == (2, 12, 24)
    series = build(str(tiny("dinov2")), (1, 30))
    assert series.embedder.layout == (3, 3)
    assert series.embed(random_tensor(2, 1, 30)).shape == (2, 1 + 9, 24)


@torch.no_grad()
def test_pooling_leaves_prefix_tokens_out(
    tiny: TinyDirectory, random_tensor: RandomTensor
) -> None:
    model = build(str(tiny("dinov2_with_registers")), (1, 24, 24)).eval()
    x = random_tensor(2, 1, 24, 24)
    features = model.body(model.embed(x), (3, 3))
    assert features.shape[1] == 3 + 9
    torch.testing.assert_close(model(x), model.head(features[:, 3:]))


def test_bad_input_shapes_are_refused() -> None:
    for shape in [(3,), (1, 2, 3, 4), (1, 0)]:
        with pytest.raises(UserError, match="input shape must be"):
            build("minilm-l6", shape)


def residual(
    input_shape: tuple[int, ...],
    target: Target = CLASSES,
    *,
    seed: int = 0,
    table: bool = False,
    stride: int = 1,
    **values: Any,
) -> CrossModalModel:
    architecture = Architecture(
        **{"kernel": 3, "dilation": 1, "blocks": 1, "width": 16, **values}
    )
    return build_convolutional(
        architecture,
        input_shape=input_shape,
        target=target,
        table=table,
        stride=stride,
        seed=seed,
    )


def size_of(model: CrossModalModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_parameters_of_a_field_whose_layers_keep_width_and_resolution() -> None:
    model = residual((1, 20), Target("dense", shape=(20,)))
    norm = 2 * 16
    block = 2 * norm + 2 * (16 * 16 * 3)
    stem = 1 * 16 * 3
    head = 16 + 1
    assert size_of(model) == stem + 3 * block + norm + head
    assert model.body.feature_layout(model.embedder.layout) == (20,)


def test_parameters_of_a_classifier_whose_layers_shrink_and_widen() -> None:
    def block(width: int, out: int) -> int:
        convolutions = 3 * width * out + 3 * out * out
        norms = 2 * width + 2 * out
        shortcut = 0 if width == out else width * out
        return convolutions + norms + shortcut

    model = residual((1, 30))
    blocks = block(16, 16) + block(16, 32) + block(32, 64)
    assert size_of(model) == 48 + blocks + 2 * 64 + 6 * (64 + 1)
    assert model.body.feature_layout(model.embedder.layout) == (8,)  # 30, 15, 8
    assert residual((3, 21, 50), stride=4).embedder.layout == (6, 13)


def test_weights_that_would_only_see_padding_are_left_out() -> None:
    # In four positions, a kernel with dilation 3 reaches one step to either side, and
    # with dilation 4 none.

    def size(kernel: int, dilation: int = 1) -> int:
        target = Target("dense", shape=(4,))
        return size_of(residual((1, 4), target, kernel=kernel, dilation=dilation))

    assert size(kernel=15, dilation=3) == size(kernel=3, dilation=3)
    assert size(kernel=3, dilation=4) == size(kernel=1)


@torch.no_grad()
def test_a_table_has_no_neighbourhoods(random_tensor: RandomTensor) -> None:
    x = random_tensor(3, 2, 30)
    predicted = residual((2, 30), table=True)(x)
    with_larger_kernel = residual((2, 30), table=True, kernel=15, dilation=3)
    torch.testing.assert_close(with_larger_kernel(x), predicted)
    of_channels = residual((60, 1), table=True)
    torch.testing.assert_close(of_channels(x.reshape(3, 60, 1)), predicted)
    assert not torch.allclose(residual((2, 30))(x), predicted)


@torch.no_grad()
def test_samples_of_a_batch_do_not_affect_each_other_and_the_seed_decides(
    random_tensor: RandomTensor,
) -> None:
    model = residual((2, 29)).train()
    x = random_tensor(4, 2, 29)
    torch.testing.assert_close(torch.cat([model(x[:1]), model(x[1:])]), model(x))
    assert torch.equal(residual((2, 29)).train()(x), model(x))
    assert not torch.equal(residual((2, 29), seed=1)(x), model(x))
