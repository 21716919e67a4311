"""Embedded tokens have the body's own statistics, for both initialisations and every kind of input."""

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from orca_ray.errors import UserError
from orca_ray.models import embedder
from orca_ray.models.embedder import ImageEmbedder, SequenceEmbedder, fold_shape
from orca_ray.models.modality import EmbedderConfig
from orca_ray.models.stems import ImageStem, TextStem, natural_noise
from orca_ray.models.weights import load_body
from tests.models.conftest import TinyDirectory

RandomTensor = Callable[..., Tensor]
Initialisation = Literal["body", "random"]
INITIALISATIONS: tuple[Initialisation, ...] = ("body", "random")


def rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def text_stem(name: str = "minilm-l6:layers=1") -> TextStem:
    stem = load_body(name).stem
    assert isinstance(stem, TextStem)
    return stem


def image_stem(name: str = "vit-s14:layers=1") -> ImageStem:
    stem = load_body(name).stem
    assert isinstance(stem, ImageStem)
    return stem


def series(kind: str, shape: tuple[int, ...], random_tensor: RandomTensor) -> Tensor:
    """Standardised inputs: white noise, or smooth waves that are equal in all channels."""
    if kind == "white":
        return random_tensor(64, *shape)
    time = torch.linspace(0, 6.3, shape[-1])
    frequency, phase = random_tensor(64, 1).abs() * 2, random_tensor(64, 1) * 3
    waves = torch.sin(time * (1 + frequency) + phase)
    return ((waves - waves.mean()) / waves.std()).view(64, 1, *[1] * (len(shape) - 2), -1).expand(-1, *shape)


@pytest.mark.slow
@pytest.mark.parametrize("initialisation", INITIALISATIONS)
@pytest.mark.parametrize("kind", ["white", "smooth"])
@pytest.mark.parametrize("shape", [(1, 30), (12, 29), (1, 427), (1, 28, 28)])
@torch.no_grad()
def test_sequence_tokens_look_like_words(
    shape: tuple[int, ...], kind: str, initialisation: Initialisation, random_tensor: RandomTensor
) -> None:
    stem = text_stem()
    embedder = SequenceEmbedder(shape, stem, EmbedderConfig(initialisation=initialisation), 0.0, seed=0)
    x = series(kind, shape, random_tensor)
    words = embedder.projection(F.pad(x, embedder._padding))
    assert 0.75 < rms(words) / stem.token_rms() < 1.33  # before positions are added: neither drowns the other
    tokens = embedder(x)
    own = stem.embed_tokens((torch.arange(64 * 64) * 7 + 1000).view(64, 64))
    assert 0.8 < rms(tokens) / rms(own) < 1.25
    assert 0.6 < rms(tokens.mean(dim=1)) / rms(own.mean(dim=1)) < 1.6  # what alignment compares


@torch.no_grad()
def test_words_as_steps_have_the_covariance_of_words(random_tensor: RandomTensor) -> None:
    """White inputs: the leading directions of embedded tokens are the vocabulary's; a random kernel's are not."""
    stem = text_stem()
    words = stem.word_embeddings - stem.word_embeddings.mean(dim=0)
    leading = torch.linalg.eigh(words.T @ words).eigenvectors[:, -20:]

    def share(initialisation: Initialisation) -> float:
        embedder = SequenceEmbedder((64, 256), stem, EmbedderConfig(4, initialisation=initialisation), 0.0, seed=0)
        tokens = embedder.projection(random_tensor(64, 64, 256)).transpose(1, 2).flatten(0, 1)
        tokens = tokens - tokens.mean(dim=0)
        return float((tokens @ leading).square().sum() / tokens.square().sum())

    expected = float((words @ leading).square().sum() / words.square().sum())
    assert abs(share("body") - expected) < 0.15 * expected
    assert share("random") < 0.6 * expected


@pytest.mark.parametrize("initialisation", INITIALISATIONS)
@pytest.mark.parametrize("channels", [1, 2, 3])
@torch.no_grad()
def test_image_tokens_look_like_patches_of_photographs(channels: int, initialisation: Initialisation) -> None:
    stem = image_stem()
    embedder = ImageEmbedder((channels, 56, 56), stem, EmbedderConfig(initialisation=initialisation), 0.0, seed=0)
    images = natural_noise(16, 56)
    own, tokens = stem.embed_images(images.expand(-1, 3, -1, -1)), embedder(images.expand(-1, channels, -1, -1))
    assert tokens.shape == own.shape
    assert 0.5 < rms(tokens) / rms(own) < 2


@torch.no_grad()
def test_the_reference_spectrum_gives_the_rms_of_photographs() -> None:
    from sklearn.datasets import load_sample_images

    stem = image_stem()
    photographs = torch.stack([torch.tensor(image) for image in load_sample_images().images]).permute(0, 3, 1, 2) / 255
    pixels = F.interpolate((photographs - stem.image_mean) / stem.image_std, size=112, mode="bilinear", antialias=True)
    patches = F.conv2d(pixels, stem.kernel, stem.bias, stem.patch_size)
    assert 0.67 < stem.token_rms() / rms(patches) < 1.5


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@torch.no_grad()
def test_a_grey_image_is_embedded_as_by_the_body(
    channels: int, tiny: TinyDirectory, random_tensor: RandomTensor
) -> None:
    for name in (str(tiny("vit")), str(tiny("swin"))):
        stem = image_stem(name)
        embedder = ImageEmbedder((channels, 64, 64), stem, EmbedderConfig(image_size=64), 0.0, seed=0)
        grey = random_tensor(2, 1, 64, 64)
        expected = stem.embed_images(grey.expand(-1, 3, -1, -1))
        torch.testing.assert_close(embedder(grey.expand(-1, channels, -1, -1)), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_rgb_images_get_the_pretrained_kernel(tiny: TinyDirectory) -> None:
    stem = image_stem(str(tiny("vit")))
    embedder = ImageEmbedder((3, 64, 64), stem, EmbedderConfig(image_size=64), 0.0, seed=0)
    assert torch.equal(embedder.projection.weight, stem.kernel)


@pytest.mark.parametrize(
    ("size", "most", "patch", "layout"),
    [
        ((30,), 64, 1, (30,)),
        ((427,), 64, 7, (61,)),
        ((64,), 64, 1, (64,)),
        ((65,), 64, 2, (33,)),
        ((28, 28), 64, 4, (7, 7)),
        ((10, 1000), 64, 16, (1, 63)),
        ((5, 5), 1, 5, (1, 1)),
    ],
)
def test_patches_are_the_smallest_that_fit(
    size: tuple[int, ...], most: int, patch: int, layout: tuple[int, ...], tiny: TinyDirectory
) -> None:
    stem = text_stem(str(tiny("bert")))
    embedder = SequenceEmbedder((2, *size), stem, EmbedderConfig(sequence_length=most), 0.0, seed=0)
    assert (embedder.patch, embedder.layout) == (patch, layout)
    assert embedder(torch.zeros(3, 2, *size)).shape[1] == torch.tensor(layout).prod()


@torch.no_grad()
def test_image_size_is_rounded_to_whole_patches(tiny: TinyDirectory) -> None:
    stem = image_stem(str(tiny("vit")))  # patches of 8
    for asked, got in ((1, 8), (11, 8), (13, 16), (64, 64)):
        embedder = ImageEmbedder((1, 5, 9), stem, EmbedderConfig(image_size=asked), 0.0, seed=0)
        assert embedder.image_size == got
        assert embedder(torch.zeros(2, 1, 5, 9)).shape[1] == 1 + (got // 8) ** 2


@pytest.mark.parametrize("length", [1, 2, 3, 30, 76, 427, 1000])
def test_fold_holds_the_series_and_is_nearly_square(length: int) -> None:
    rows, columns = fold_shape(length)
    assert length <= rows * columns < length + rows
    assert rows <= columns <= rows + 2


def test_stem_is_not_shared_with_the_embedder(tiny: TinyDirectory) -> None:
    stem = text_stem(str(tiny("bert")))
    before = stem.embed_tokens(torch.arange(10)[None]).clone()
    embedder = SequenceEmbedder((1, 30), stem, EmbedderConfig(), 0.0, seed=0)
    with torch.no_grad():
        for parameter in embedder.parameters():
            assert parameter.requires_grad
            parameter.add_(1.0)
    assert torch.equal(stem.embed_tokens(torch.arange(10)[None]), before)


def test_bad_configurations_are_refused() -> None:
    with pytest.raises(ValueError, match="sequence_length must be at least 1, got 0"):
        EmbedderConfig(sequence_length=0)
    with pytest.raises(ValueError, match="image_size"):
        EmbedderConfig(image_size=-3)
    with pytest.raises(UserError, match="Did you mean 'body'"):
        EmbedderConfig(initialisation="boddy")  # type: ignore[arg-type]


@pytest.mark.parametrize(("length", "most", "tokens"), [(1000, 64, 50), (46, 512, 46), (37, 16, 1), (20, 8, 5)])
def test_patches_that_divide_a_series(length: int, most: int, tokens: int) -> None:
    """The smallest patch that divides the length and gives no more tokens; a prime length becomes one token."""
    config = EmbedderConfig(sequence_length=most, patching="divide")
    embedder = SequenceEmbedder((1, length), text_stem(), config, 0.0, seed=0)
    assert embedder.layout == (tokens,)
    assert not any(embedder._padding)


@pytest.mark.parametrize("shape", [(3, 24), (2, 12, 20)])
def test_projecting_is_convolving(shape: tuple[int, ...], random_tensor: RandomTensor) -> None:
    convolution = torch.nn.Conv1d if len(shape) == 2 else torch.nn.Conv2d
    projection = convolution(shape[0], 10, 4, stride=4)
    x = random_tensor(5, *shape).requires_grad_()
    tokens = embedder._project(projection, x)
    assert tokens.is_contiguous()
    expected = projection(x).flatten(2).transpose(1, 2)
    torch.testing.assert_close(tokens, expected)
    weights = random_tensor(*tokens.shape)
    parameters = (x, *projection.parameters())
    found = torch.autograd.grad((tokens * weights).sum(), parameters)
    for gradient, other in zip(found, torch.autograd.grad((expected * weights).sum(), parameters), strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-5)
