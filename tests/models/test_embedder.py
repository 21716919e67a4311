"""Embedded tokens have the body's own statistics.

The initialisations ``paper`` and ``random`` are the reference's.
"""

import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from orca_ray.models import embedder
from orca_ray.models.body import ImageStem, TextStem, natural_noise
from orca_ray.models.embedder import ImageEmbedder, SequenceEmbedder, fold_shape
from orca_ray.models.modality import MODALITIES, EmbedderConfig, Initialisation
from orca_ray.models.weights import load_body
from tests.models.conftest import RandomTensor, TinyDirectory

PAPER_OR_RANDOM: tuple[Initialisation, ...] = ("paper", "random")


def rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def text_stem(name: str = "minilm-l6:layers=1") -> TextStem:
    return cast(TextStem, load_body(name).stem)


def image_stem(name: str = "vit-s14:layers=1") -> ImageStem:
    return cast(ImageStem, load_body(name).stem)


def sequence_embedder(
    shape: tuple[int, ...], stem: TextStem, dropout: float = 0.0, **config: Any
) -> SequenceEmbedder:
    return SequenceEmbedder(shape, stem, EmbedderConfig(**config), dropout, seed=0)


def image_embedder(
    shape: tuple[int, ...], stem: ImageStem, seed: int = 0, **config: Any
) -> ImageEmbedder:
    return ImageEmbedder(shape, stem, EmbedderConfig(**config), 0.0, seed)


def series(kind: str, shape: tuple[int, ...], random_tensor: RandomTensor) -> Tensor:
    """Return standardised inputs.

    They are white noise, or smooth waves that are equal in all channels.
    """
    if kind == "white":
        return random_tensor(64, *shape)
    time = torch.linspace(0, 6.3, shape[-1])
    frequency = random_tensor(64, 1).abs() * 2
    phase = random_tensor(64, 1) * 3
    waves = torch.sin(time * (1 + frequency) + phase)
    standardised = (waves - waves.mean()) / waves.std()
    other_axes = [1] * (len(shape) - 2)
    return standardised.view(64, 1, *other_axes, -1).expand(-1, *shape)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((1, 30), "white"),
        ((12, 29), "smooth"),
        ((1, 427), "smooth"),
        ((1, 28, 28), "white"),
    ],
)
@torch.no_grad()
def test_sequence_tokens_look_like_words(
    shape: tuple[int, ...], kind: str, random_tensor: RandomTensor
) -> None:
    stem = text_stem()
    embedder = sequence_embedder(shape, stem)
    x = series(kind, shape, random_tensor)
    words = embedder.projection(F.pad(x, embedder._padding))
    # Words and the positions that are added to them have similar sizes.
    assert 0.75 < rms(words) / stem.token_rms() < 1.33
    tokens = embedder(x)
    body_tokens = stem.embed_raw((torch.arange(64 * 64) * 7 + 1000).view(64, 64))
    assert 0.8 < rms(tokens) / rms(body_tokens) < 1.25
    # Alignment compares means.
    assert 0.6 < rms(tokens.mean(dim=1)) / rms(body_tokens.mean(dim=1)) < 1.6


@torch.no_grad()
def test_image_tokens_look_like_patches_of_photographs() -> None:
    from sklearn.datasets import load_sample_images

    stem = image_stem()
    images = natural_noise(16, 56)
    body_tokens = stem.embed_images(images.expand(-1, 3, -1, -1))
    for channels in (1, 2, 3):
        tokens = image_embedder((channels, 56, 56), stem)(
            images.expand(-1, channels, -1, -1)
        )
        assert tokens.shape == body_tokens.shape
        assert 0.5 < rms(tokens) / rms(body_tokens) < 2
    images_NHWC = torch.stack(
        [torch.tensor(image) for image in load_sample_images().images]
    )
    photographs = images_NHWC.permute(0, 3, 1, 2) / 255
    pixels = F.interpolate(
        (photographs - stem.image_mean) / stem.image_std,
        size=112,
        mode="bilinear",
        antialias=True,
    )
    patches = F.conv2d(pixels, stem.kernel, stem.bias, stem.patch_size)
    assert 0.67 < stem.token_rms() / rms(patches) < 1.5


@pytest.mark.parametrize("channels", [1, 2, 3])
@torch.no_grad()
def test_a_grey_image_is_embedded_as_by_the_body(
    channels: int, tiny: TinyDirectory, random_tensor: RandomTensor
) -> None:
    for name in (str(tiny("vit")), str(tiny("swin"))):
        stem = image_stem(name)
        embedder = image_embedder((channels, 64, 64), stem, image_size=64)
        grey = random_tensor(2, 1, 64, 64)
        expected = stem.embed_images(grey.expand(-1, 3, -1, -1))
        torch.testing.assert_close(
            embedder(grey.expand(-1, channels, -1, -1)), expected, atol=1e-5, rtol=1e-5
        )
        assert torch.equal(embedder.projection.weight, stem.kernel) == (channels == 3)


@pytest.mark.parametrize("channels", [4, 57])
@torch.no_grad()
def test_independent_channels_keep_the_rms_of_three(channels: int) -> None:
    """The RMS of C equal channels grows as sqrt(C / 3), as no kernel suits both."""
    stem = image_stem()
    images = natural_noise(4 * channels, 112).view(4, channels, 112, 112)

    def rms_of_patches(x: Tensor) -> float:
        projection = image_embedder(tuple(x.shape[1:]), stem, image_size=112).projection
        return rms(projection(x) - stem.bias[:, None, None])

    one_channel = images[:, :1]
    grey = rms_of_patches(one_channel.expand(-1, 3, -1, -1))
    independent = rms_of_patches(images)
    equal = rms_of_patches(one_channel.expand_as(images))
    assert independent == pytest.approx(rms_of_patches(images[:, :3]), rel=0.15)
    assert 0.5 < independent / grey < 1
    assert equal / grey == pytest.approx(math.sqrt(channels / 3), rel=0.01)


@pytest.mark.parametrize("start", PAPER_OR_RANDOM)
@torch.no_grad()
def test_random_kernels_of_series_are_xavier_uniform_of_gain_sqrt_2(
    start: Any, tiny: TinyDirectory
) -> None:
    stem = text_stem(str(tiny("roberta")))
    embedder = sequence_embedder(
        (50, 80), stem, sequence_length=8, initialisation=start
    )
    kernel = embedder.projection.weight
    bound = math.sqrt(2 * 6 / (50 * 10 + 24 * 10))
    assert kernel.abs().max() < bound
    assert rms(kernel) == pytest.approx(bound / math.sqrt(3), rel=0.02)


@torch.no_grad()
def test_random_kernels_of_images_are_normal_of_deviation_0_02(
    tiny: TinyDirectory,
) -> None:
    def random_image_embedder(seed: int) -> ImageEmbedder:
        stem = image_stem(str(tiny("swin")))
        return image_embedder((50, 64, 64), stem, seed, initialisation="random")

    first = random_image_embedder(seed=0)
    weight = first.projection.weight
    assert rms(weight) == pytest.approx(0.02, rel=0.02)
    assert not cast(Tensor, first.projection.bias).any()
    for name, value in first.norm.named_parameters():
        assert bool((value == (name == "weight")).all())
    assert torch.equal(weight, random_image_embedder(seed=0).projection.weight)
    assert not torch.equal(weight, random_image_embedder(seed=1).projection.weight)


@pytest.mark.parametrize(
    ("size", "most", "patching", "layout"),
    [
        ((30,), 64, "pad", (30,)),
        ((427,), 64, "pad", (61,)),
        ((65,), 64, "pad", (33,)),
        ((28, 28), 64, "pad", (7, 7)),
        ((10, 1000), 64, "pad", (1, 63)),
        ((5, 5), 1, "pad", (1, 1)),
        ((1000,), 64, "divide", (50,)),
        ((46,), 512, "divide", (46,)),
        ((37,), 16, "divide", (1,)),  # a prime length becomes one token
        ((20,), 8, "divide", (5,)),
    ],
)
def test_patches_are_the_smallest_that_fit(
    size: tuple[int, ...],
    most: int,
    patching: str,
    layout: tuple[int, ...],
    tiny: TinyDirectory,
) -> None:
    config: dict[str, Any] = {"sequence_length": most, "patching": patching}
    embedder = sequence_embedder((2, *size), text_stem(str(tiny("bert"))), **config)
    num_tokens = math.prod(layout)
    estimated = MODALITIES["sequence"].num_tokens((2, *size), EmbedderConfig(**config))
    if patching == "divide":
        assert estimated == num_tokens
    else:
        assert estimated >= num_tokens
    patch = math.ceil(size[-1] / layout[-1])
    assert (embedder.patch, embedder.layout) == (patch, layout)
    assert any(embedder._padding) == any(side % patch for side in size)
    tokens = embedder(torch.zeros(3, 2, *size))
    assert tokens.shape[:2] == (3, num_tokens)


@pytest.mark.parametrize(
    ("requested", "rounded"), [(1, 8), (11, 8), (13, 16), (64, 64)]
)
@torch.no_grad()
def test_image_size_is_rounded_to_whole_patches(
    requested: int, rounded: int, tiny: TinyDirectory
) -> None:
    stem = image_stem(str(tiny("vit")))  # patches of 8
    embedder = image_embedder((1, 5, 9), stem, image_size=requested)
    assert embedder.image_size == rounded
    tokens = embedder(torch.zeros(2, 1, 5, 9))
    assert tokens.shape[:2] == (2, 1 + (rounded // 8) ** 2)


@pytest.mark.parametrize(
    ("length", "shape"),
    [
        (1, (1, 1)),
        (2, (1, 2)),
        (3, (1, 3)),
        (30, (5, 6)),
        (76, (8, 10)),
        (427, (20, 22)),
        (1000, (31, 33)),
    ],
)
def test_a_fold_holds_the_series_and_is_nearly_square(
    length: int, shape: tuple[int, int]
) -> None:
    assert fold_shape(length) == shape


@pytest.mark.parametrize("shape", [(3, 24), (2, 12, 20)])
def test_projecting_is_convolving(
    shape: tuple[int, ...], random_tensor: RandomTensor
) -> None:
    channels, *size = shape
    convolution = torch.nn.Conv1d if len(size) == 1 else torch.nn.Conv2d
    projection = convolution(channels, 10, 4, stride=4)
    x = random_tensor(5, *shape).requires_grad_()
    tokens = embedder._project(projection, x)
    assert tokens.is_contiguous()
    expected = projection(x).flatten(2).transpose(1, 2)
    torch.testing.assert_close(tokens, expected)
    weights = random_tensor(*tokens.shape)
    parameters = (x, *projection.parameters())
    gradients = torch.autograd.grad((tokens * weights).sum(), parameters)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), parameters)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-5)
