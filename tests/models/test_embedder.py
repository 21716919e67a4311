"""Embedded tokens have the body's own statistics; the initialisations ``paper`` and ``random`` are the reference's."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from orca_ray.errors import UserError
from orca_ray.models import embedder
from orca_ray.models.embedder import ImageEmbedder, SequenceEmbedder, fold_shape
from orca_ray.models.modality import EmbedderConfig, HeadConfig, Initialisation
from orca_ray.models.stems import ImageStem, TextStem, natural_noise
from orca_ray.models.weights import load_body
from tests.models.conftest import TinyDirectory

RandomTensor = Callable[..., Tensor]
PAPER_OR_RANDOM: tuple[Initialisation, ...] = ("paper", "random")


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
@pytest.mark.parametrize("kind", ["white", "smooth"])
@pytest.mark.parametrize("shape", [(1, 30), (12, 29), (1, 427), (1, 28, 28)])
@torch.no_grad()
def test_sequence_tokens_look_like_words(shape: tuple[int, ...], kind: str, random_tensor: RandomTensor) -> None:
    stem = text_stem()
    embedder = SequenceEmbedder(shape, stem, EmbedderConfig(), 0.0, seed=0)
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


@pytest.mark.parametrize("channels", [1, 2, 3])
@torch.no_grad()
def test_image_tokens_look_like_patches_of_photographs(channels: int) -> None:
    stem = image_stem()
    embedder = ImageEmbedder((channels, 56, 56), stem, EmbedderConfig(), 0.0, seed=0)
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


@pytest.mark.parametrize("channels", [1, 2, 3])
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


@pytest.mark.parametrize("channels", [4, 12, 57])
@torch.no_grad()
def test_independent_channels_keep_the_rms_of_three(channels: int) -> None:
    """That of C equal channels then grows as sqrt(C / 3): no kernel does right by both."""
    stem, config = image_stem(), EmbedderConfig(image_size=112)
    images = natural_noise(4 * channels, 112).view(4, channels, 112, 112)

    def patches(x: Tensor) -> float:
        projection = ImageEmbedder(tuple(x.shape[1:]), stem, config, 0.0, seed=0).projection
        return rms(projection(x) - stem.bias[:, None, None])

    grey = patches(images[:, :1].expand(-1, 3, -1, -1))
    assert patches(images) == pytest.approx(patches(images[:, :3]), rel=0.15)
    assert 0.5 < patches(images) / grey < 1
    equal = patches(images[:, :1].expand_as(images))
    assert equal / grey == pytest.approx(math.sqrt(channels / 3), rel=0.01)


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 7])
@torch.no_grad()
def test_the_papers_patch_kernel_is_repeated(channels: int, tiny: TinyDirectory) -> None:
    stem = image_stem(str(tiny("swin")))
    made = ImageEmbedder((channels, 64, 64), stem, EmbedderConfig(initialisation="paper"), 0.0, seed=0)
    for channel in range(channels):
        assert torch.equal(made.projection.weight[:, channel], stem.kernel[:, channel % 3])
    assert made.projection.bias is not None
    assert torch.equal(made.projection.bias, stem.bias)
    assert all(torch.equal(mine, own) for mine, own in zip(made.norm.parameters(), stem.norm.parameters(), strict=True))


@torch.no_grad()
def test_random_kernels_have_the_references_distributions(tiny: TinyDirectory) -> None:
    """Xavier uniform of gain sqrt(2) for series, also in ``paper``; normal of deviation 0.02 for images."""
    series, images = text_stem(str(tiny("roberta"))), image_stem(str(tiny("swin")))
    for start in PAPER_OR_RANDOM:
        config = EmbedderConfig(sequence_length=8, initialisation=start)
        kernel = SequenceEmbedder((50, 80), series, config, 0.0, seed=0).projection.weight
        bound = math.sqrt(2 * 6 / (50 * 10 + 24 * 10))
        assert kernel.abs().max() < bound
        assert rms(kernel) == pytest.approx(bound / math.sqrt(3), rel=0.02)
    made = ImageEmbedder((50, 64, 64), images, EmbedderConfig(initialisation="random"), 0.0, seed=0)
    assert rms(made.projection.weight) == pytest.approx(0.02, rel=0.02)
    assert made.projection.bias is not None
    assert not made.projection.bias.any()
    assert all(bool((value == (name == "weight")).all()) for name, value in made.norm.named_parameters())
    again, other = (
        ImageEmbedder((50, 64, 64), images, EmbedderConfig(initialisation="random"), 0.0, seed=seed) for seed in (0, 1)
    )
    assert torch.equal(made.projection.weight, again.projection.weight)
    assert not torch.equal(made.projection.weight, other.projection.weight)


@pytest.mark.parametrize("start", PAPER_OR_RANDOM)
@torch.no_grad()
def test_both_add_positions_after_the_norm_and_keep_prefix_tokens(start: Initialisation, tiny: TinyDirectory) -> None:
    config = EmbedderConfig(image_size=32, initialisation=start)
    series = SequenceEmbedder((1, 30), text_stem(str(tiny("roberta"))), config, 0.5, seed=0)
    zeros = series(torch.zeros(1, 1, 30))[0]  # in training mode: there is no dropout
    assert series.positions is not None
    torch.testing.assert_close(zeros, series.positions + series.norm.get_parameter("bias"))
    rotary = SequenceEmbedder((1, 30), text_stem(str(tiny("modernbert"))), config, 0.0, seed=0)
    assert not rotary(torch.zeros(1, 1, 30)).any()  # neither positions nor a shift in its norm
    stem = image_stem(str(tiny("vit")))  # no norm, one prefix token, positions
    image = ImageEmbedder((1, 32, 32), stem, config, 0.0, seed=0)
    places = stem.positions((4, 4))
    assert places is not None
    assert image.projection.bias is not None
    expected = torch.cat((stem.prefix, places + image.projection.bias))
    torch.testing.assert_close(image(torch.zeros(1, 1, 32, 32))[0], expected)


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
    with pytest.raises(UserError, match="Did you mean 'pooled'"):
        HeadConfig(dense="poled")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"embedder.sequence_length must be at least 1 and finite, got 0"):
        EmbedderConfig(sequence_length=0)
    with pytest.raises(UserError, match=r"embedder.image_size"):
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
