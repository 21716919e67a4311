"""Networks without pretraining, and heads, by their definitions.

Dense heads put each patch where its token lies; spectral convolutions differentiate;
MiniRocket's features are those of its paper.
"""

import copy
import itertools
import math
from itertools import combinations
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.models import minirocket
from orca_ray.models.convolution import Architecture, UNetBody, build_convolutional
from orca_ray.models.crossmodal import DenseHead, build_head
from orca_ray.models.features import NearestBody
from orca_ray.models.fourier import FourierBody, SpectralConvolution, build_field_model
from orca_ray.models.minirocket import MiniRocketBody, fit_dilations
from orca_ray.models.modality import DenseHeadName

FEATURES = 5


def copied(
    layout: tuple[int, ...], shape: tuple[int, ...], patch: int | None
) -> Tensor:
    """Return the field of a head whose tokens copy their index into each number.

    In channel c, numbers are the index times c + 1.
    """
    head = build_head(
        FEATURES, layout, Target("dense", shape=shape), shape[-len(layout) :], patch
    )
    assert isinstance(head, DenseHead)
    output = head.output
    assert isinstance(output, torch.nn.Linear)
    output.weight.zero_()
    output.bias.zero_()
    size = math.prod(head.patch)
    for channel in range(head.num_channels):
        output.weight[channel * size : (channel + 1) * size, 0] = channel + 1
    num_tokens = math.prod(layout)
    features = torch.zeros(1, num_tokens, FEATURES)
    features[0, :, 0] = torch.arange(num_tokens)
    field: Tensor = head(features)[0]
    return field


UPPER_ROW = [0, 0, 0, 1, 1, 1]
LOWER_ROW = [2, 2, 2, 3, 3, 3]
FOLDED = 3 * UPPER_ROW + 3 * LOWER_ROW
"""36 points on a 2 x 2 grid: rows of 6, so the first three points lie in token 0, the
next three in token 1.
"""


@pytest.mark.parametrize(
    ("layout", "shape", "patch", "expected"),
    [
        (
            (3,),
            (2, 10),
            4,
            [[0, 0, 0, 0, 1, 1, 1, 1, 2, 2], [0, 0, 0, 0, 2, 2, 2, 2, 4, 4]],
        ),
        ((2, 3), (3, 5), 2, [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]),
        (
            (2, 2),
            (4, 4),
            None,
            [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]],
        ),
    ],
)
@torch.no_grad()
def test_patches_are_cropped_where_the_embedder_padded_and_cover_a_resized_image(
    layout: tuple[int, ...],
    shape: tuple[int, ...],
    patch: int | None,
    expected: list[object],
) -> None:
    assert copied(layout, shape, patch).tolist() == expected


@torch.no_grad()
def test_patches_that_do_not_divide_the_field_are_resized() -> None:
    field = copied((2, 2), (3, 7), None)
    assert field.shape == (3, 7)
    assert (field.diff(dim=1) >= -1e-6).all()
    assert (field.diff(dim=0) >= -1e-6).all()
    corners = field[[0, 0, -1, -1], [0, -1, 0, -1]]
    torch.testing.assert_close(corners, torch.arange(4.0))


@torch.no_grad()
def test_a_series_on_an_image_body_is_folded_like_the_input() -> None:
    assert copied((2, 2), (36,), None).tolist() == FOLDED


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
    dense_heads: tuple[DenseHeadName, ...] = get_args(DenseHeadName)
    layouts = [(5,), (1,), (2, 3), (1, 1)]
    input_sizes = [(37,), (9, 4)]
    patches = [None, 37]
    cases = itertools.product(layouts, input_sizes, patches, dense_heads)
    for case in cases:
        layout, input_size, patch, dense = case
        image_size = None if patch or len(layout) == 1 else 12
        head = build_head(
            FEATURES, layout, target, input_size, patch, image_size, dense
        )
        features = torch.ones(2, math.prod(layout), FEATURES, requires_grad=True)
        predictions = head(features)
        assert predictions.shape == (2, *target.output_shape), case
        predictions.square().sum().backward()
        assert all(parameter.grad is not None for parameter in head.parameters())


@torch.no_grad()
def test_a_pooled_series_consists_of_averages_of_each_feature() -> None:
    # A token has 4 components. Its patch of 2 is the averages of the first and of the
    # last two components.
    head = build_head(
        4, (3,), Target("dense", shape=(5,)), (5,), patch=2, dense="pooled"
    )
    assert not list(head.parameters())
    features = torch.tensor([[[1.0, 3, 5, 7], [0, 2, 0, 4], [8, 8, 1, 1]]])
    assert head(features).tolist() == [[2, 6, 1, 2, 8]]


@torch.no_grad()
def test_a_pooled_image_averages_colours_and_pixels_of_the_decoder() -> None:
    # One feature decodes to a 2 x 2 image of 3 colours. Two channels are averages of
    # colours 1, 2 and of 2, 3.
    head = build_head(
        1,
        (1, 1),
        Target("dense", shape=(2, 1, 2)),
        (1, 2),
        None,
        image_size=2,
        dense="pooled",
    )
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


@pytest.mark.parametrize(
    ("shape", "table"),
    [
        ((3, 20), False),
        ((1, 20), False),
        ((12,), True),
        ((3, 8, 6), False),
        ((1, 8, 6), False),
    ],
)
def test_the_layout_of_inputs_in_memory_changes_nothing(
    shape: tuple[int, ...], table: bool
) -> None:
    architecture = Architecture(kernel=3, dilation=1, blocks=1, width=16)
    model = build_convolutional(
        architecture,
        input_shape=shape,
        target=Target("classes", 3),
        table=table,
        seed=0,
    )
    body_inputs: list[Tensor] = []
    model.body.register_forward_pre_hook(
        lambda module, inputs: body_inputs.append(inputs[0])
    )
    x = torch.randn(*reversed(shape), 4).permute(*range(len(shape), -1, -1))
    assert not x.is_contiguous()
    torch.testing.assert_close(model(x), model(x.contiguous()))
    if len(shape) == 3:
        assert all(tokens.is_contiguous() for tokens in body_inputs), (
            "the channels of images are last"
        )


def spectral(
    size: tuple[int, int], modes: int, weight: torch.Tensor
) -> SpectralConvolution:
    """Return a convolution of one channel with the factors ``weight``.

    They are complex numbers, one for each frequency, [rows, columns].
    """
    convolution = SpectralConvolution(1, size, modes)
    factors = weight.expand(convolution.weight.shape[:-1]).contiguous()
    with torch.no_grad():
        convolution.weight.copy_(torch.view_as_real(factors))
    return convolution


def test_the_derivative_of_a_wave() -> None:
    angles = torch.arange(32) * (2 * math.pi / 32)
    frequencies = torch.arange(5)[None].to(torch.complex64)
    differentiate = spectral((1, 32), 5, 1j * frequencies)
    wave = 3 + torch.sin(2 * angles) - torch.cos(4 * angles)
    derivative = differentiate(wave.reshape(1, 1, 1, 32)).flatten()
    expected = 2 * torch.cos(2 * angles) + 4 * torch.sin(4 * angles)
    assert derivative.tolist() == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize("size", [(1, 15), (6, 8), (7, 5)])
def test_all_frequencies_kept_is_the_identity(size: tuple[int, int]) -> None:
    x = torch.randn(2, 1, *size)
    convolution = spectral(size, 99, torch.ones(1, 1, dtype=torch.complex64))
    assert torch.allclose(convolution(x), x, atol=1e-5)


def test_only_low_frequencies_pass() -> None:
    angles = torch.arange(16) * math.pi / 8
    first, second = torch.meshgrid(angles, angles, indexing="ij")
    low = torch.cos(-2 * first + second)
    high = torch.cos(3 * first) + torch.cos(2 * second)
    convolution = spectral((16, 16), 2, torch.ones(1, 1, dtype=torch.complex64))
    passed = convolution((low + high)[None, None])
    assert torch.allclose(passed[0, 0], low, atol=1e-5)


def test_a_field_may_have_another_resolution_and_several_channels() -> None:
    target = Target("dense", shape=(3, 24, 20))
    for make in (
        lambda layout: FourierBody(layout, 16, 2, 4, 0.0),
        lambda layout: unet(layout, "zeros"),
    ):
        model = build_field_model(
            make, width=16, input_shape=(2, 12, 10), target=target, seed=0
        )
        assert model(torch.randn(2, 2, 12, 10)).shape == (2, 3, 24, 20)


def unet(layout: tuple[int, ...], padding: str) -> UNetBody:
    return UNetBody(
        layout,
        Architecture(kernel=3, dilation=1, blocks=1, width=16, padding=padding),
        levels=2,
    )


@torch.no_grad()
@pytest.mark.parametrize(("padding", "moves"), [("circular", True), ("zeros", False)])
def test_the_features_of_a_circular_unet_move_with_periodic_fields(
    padding: str, moves: bool
) -> None:
    body = unet((16,), padding)
    x = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(0))
    features_of_moved = body(x.roll(4, dims=1))
    moved_features = body(x).roll(4, dims=1)
    assert torch.allclose(features_of_moved, moved_features, atol=1e-5) == moves


@pytest.mark.parametrize("shape", [(2, 16), (1, 8, 8)])
def test_standardised_weights_have_no_mean_and_learn_their_norm(
    shape: tuple[int, ...],
) -> None:
    architecture = Architecture(
        kernel=3, dilation=1, blocks=1, width=16, standardised=True
    )
    model = build_convolutional(
        architecture,
        input_shape=shape,
        target=Target("classes", size=3),
        table=False,
        seed=0,
    ).eval()
    x = torch.randn(4, *shape)
    expected = model(x)
    for name, weight in model.state_dict().items():
        if name.endswith("convolution.weight"):
            weight.mul_(3.0).add_(0.5)
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-4)
    model.state_dict()["body.blocks.0.convolutions.1.norm"].mul_(2.0)
    assert not torch.allclose(model(x), expected, atol=1e-3)


def test_it_computes_in_float32_under_autocast() -> None:
    convolution = SpectralConvolution(4, (8, 8), 3)
    x = torch.randn(1, 4, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(convolution(x), convolution(x.float()))
        assert convolution(x.bfloat16()).dtype == torch.float32


def test_dilations_of_short_and_long_series() -> None:
    assert fit_dilations(9, 10_000, 32) == {1: 119}
    assert fit_dilations(16, 10_000, 32) == {1: 119}
    # Exponents are 0 ... 2 in 32 steps: 16, 9, 6 and 1 of them floor to 1, 2, 3, 4.
    # Each stands for 119 / 32 features, i.e. 59.5, 33.5, 22.3, 3.7, and the first two
    # get what rounding down leaves.
    assert fit_dilations(33, 10_000, 32) == {1: 60, 2: 34, 3: 22, 4: 3}
    assert fit_dilations(33, 84, 32) == {1: 1}


@pytest.mark.parametrize("channels", [1, 5])
def test_features_are_the_shares_of_the_definition(
    channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dilations = {1: 2, 3: 1}
    length = 30
    body = MiniRocketBody(length, channels, dilations, seed=3)
    random = np.random.default_rng(0)
    x = random.normal(size=(4, length, channels))
    biases = random.normal(size=84 * 3)
    body.biases.copy_(torch.from_numpy(biases))

    def compute_features() -> np.ndarray:
        features: np.ndarray = body(torch.from_numpy(x).float())[:, 0].numpy()
        return features

    features = compute_features()
    with monkeypatch.context() as patched:
        patched.setattr(torch.compiler, "is_exporting", lambda: True)
        assert np.array_equal(compute_features(), features)
    sizes = list[int]()
    body.register_forward_hook(lambda module, inputs, _: sizes.append(len(inputs[0])))
    monkeypatch.setattr(minirocket, "_MOST_OUTPUTS", 84 * length * 3)
    assert np.array_equal(compute_features(), features)
    assert sizes == [3, 1, 4], "long series are taken a few at a time"
    column = 0
    for number, (dilation, num_features) in enumerate(dilations.items()):
        margin = 4 * dilation
        padded = np.pad(x, ((0, 0), (margin, margin), (0, 0)))
        for kernel, places in enumerate(combinations(range(9), 3)):
            used = np.flatnonzero(body.weights[number, kernel].any(dim=1).numpy())
            outputs = np.zeros((4, length))
            for tap in range(9):
                start = tap * dilation
                window = padded[:, start : start + length, used].sum(axis=2)
                outputs += (2 if tap in places else -1) * window
            if (number + kernel) % 2:
                outputs = outputs[:, margin : length - margin]
            for _ in range(num_features):
                share = (outputs > biases[column]).mean(axis=1)
                assert features[:, column] == pytest.approx(share, abs=1e-6)
                column += 1


def test_biases_are_quantiles_of_a_training_series() -> None:
    body = MiniRocketBody(20, 1, {1: 3}, seed=0)
    series = torch.randn(20, 1, generator=torch.Generator().manual_seed(0))
    body.fit(lambda number: series.expand(number, -1, -1))
    golden = (np.sqrt(5) + 1) / 2
    levels = np.arange(1, 84 * 3 + 1) * golden % 1
    kernel = np.array([2, 2, 2, -1, -1, -1, -1, -1, -1])
    outputs = np.correlate(series[:, 0].numpy(), kernel, mode="same")
    assert body.biases[:3].numpy() == pytest.approx(
        np.quantile(outputs, levels[:3]), abs=1e-4
    )


def test_channels_are_subsets_of_one_to_nine_that_the_seed_decides() -> None:
    def used_channels(seed: int) -> Tensor:
        body = MiniRocketBody(40, 20, {1: 1, 2: 1, 3: 1}, seed=seed)
        return body.weights.any(dim=3)

    used = used_channels(seed=0)
    sizes = used.sum(dim=2)
    assert (int(sizes.min()), int(sizes.max())) == (1, 9)
    assert used.any(dim=(0, 1)).all()
    assert torch.equal(used, used_channels(seed=0))
    assert not torch.equal(used, used_channels(seed=1))
    assert MiniRocketBody(40, 1, {1: 1}, seed=0).weights.any(dim=3).all()


def test_an_exporter_gets_a_fraction_of_the_operations_of_minirocket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = MiniRocketBody(100, 1, fit_dilations(100, 10_000, 32), seed=0)
    counts = list[int]()
    for exporting in (False, True):
        monkeypatch.setattr(
            torch.compiler, "is_exporting", lambda exporting=exporting: exporting
        )
        with torch.autograd.profiler.profile() as profile:
            body(torch.zeros(1, 100, 1))
        counts.append(len(profile.function_events))
    usual, exported = counts
    assert exported < usual / 3


def test_a_copy_of_a_fitted_body_loads_buffers_of_any_size() -> None:
    fitted = NearestBody(width=4, num_outputs=2, num_weights=3)
    fitted.keys = torch.ones(7, 4, dtype=torch.float16)
    fitted.values = torch.ones(7, 2)
    empty = NearestBody(width=4, num_outputs=2, num_weights=3)
    loaded = copy.deepcopy(empty)
    loaded.load_state_dict(fitted.state_dict())
    assert torch.equal(loaded.values, fitted.values)
    assert len(empty.values) == 0
    damaged = {**fitted.state_dict(), "values": torch.ones(6, 2)}
    with pytest.raises(UserError, match="samples of this model are damaged"):
        copy.deepcopy(loaded).load_state_dict(damaged)
