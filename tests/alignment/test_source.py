"""Source features: what they are made of, their cache, and the errors a user sees."""

import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from orca_ray.alignment import source_features as source_module
from orca_ray.alignment.distance import SourceFeatures
from orca_ray.alignment.image_features import embedded_size
from orca_ray.alignment.registry import default_source, source_names
from orca_ray.alignment.source_features import source_features
from orca_ray.alignment.sources import conll2003, images, vocabulary
from orca_ray.data import packages
from orca_ray.data.packages import Package
from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.models.body import Stem
from orca_ray.models.crossmodal import build_model
from orca_ray.models.modality import EmbedderConfig
from orca_ray.models.stems import ImageStem, TextStem
from orca_ray.models.weights import load_body

WORDS = 400
WIDTH = 12


def text_stem(seed: int = 0) -> TextStem:
    """A stem whose words lie in five separate groups (word i in group i % 5), the first 20 of them never trained."""
    generator = torch.Generator().manual_seed(seed)
    centres = 4 * torch.randn(5, WIDTH, generator=generator)
    words = centres[torch.arange(WORDS) % 5] + 0.1 * torch.randn(WORDS, WIDTH, generator=generator)
    words[:20] = words.mean(0)
    return TextStem(words, torch.randn(32, WIDTH, generator=generator), nn.LayerNorm(WIDTH))


def image_stem() -> ImageStem:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        projection = nn.Conv2d(3, WIDTH, 4, stride=4)
        statistics = ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
        return ImageStem(projection, nn.Identity(), torch.ones(1, WIDTH), torch.randn(2, 2, WIDTH), statistics)


@dataclass
class Loads:
    """Stands in for `load_body`, and counts its calls."""

    stems: dict[str, Stem] = field(default_factory=lambda: {"minilm-l6": text_stem(), "vit-s14": image_stem()})
    calls: int = 0

    def __call__(self, name: str, *, pretrained: bool = True, seed: int = 0) -> Any:
        self.calls += 1

        @dataclass
        class Loaded:
            stem: Stem

        return Loaded(self.stems[name.partition(":")[0]])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ORCA_RAY_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def loads(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loads]:
    """Tiny stems under the packaged names, in a cache of their own."""
    fake = Loads()
    monkeypatch.setattr(source_module, "load_body", fake)
    source_module._cached.cache_clear()
    yield fake
    source_module._cached.cache_clear()


@pytest.fixture
def photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    """One flat colour a photograph, and sizes that differ."""

    def read_member(package: Package, member: str) -> bytes:
        index = images.FILES.index(member.rpartition("/")[2])
        buffer = io.BytesIO()
        Image.new("RGB", (20 + index, 30), (25 * index, 0, 255 - 25 * index)).save(buffer, "png")
        return buffer.getvalue()

    monkeypatch.setattr(packages, "read_member", read_member)


def forget() -> None:
    source_module._cached.cache_clear()


def text_features(**kwargs: Any) -> SourceFeatures:
    return source_features("vocabulary", "minilm-l6", image_size=56, **{"num_samples": 40, **kwargs})


def test_vocabulary_groups_words_and_leaves_untrained_ones_out(loads: Loads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "_CLUSTERS", 5)
    words = loads.stems["minilm-l6"].word_embeddings.numpy()  # type: ignore[operator]
    clusters = vocabulary._word_clusters(words, seed=0)
    assert sorted(np.concatenate(clusters)) == list(range(20, WORDS))
    assert [len(set(cluster % 5)) for cluster in clusters] == [1] * 5
    features = text_features()
    assert features.x.shape == (40, WIDTH)
    assert features.x.dtype == torch.float32
    assert features.y.bincount().tolist() == [8] * 5
    centres = torch.stack([features.x[features.y == c].mean(0) for c in range(5)])
    assert torch.equal(torch.cdist(features.x, centres).argmin(1), features.y)


def test_vocabulary_is_embedded_with_positions_and_norm(loads: Loads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "_word_clusters", lambda words, seed: [np.array([77])])
    expected = loads.stems["minilm-l6"].embed_tokens(torch.full((1, 16), 77)).mean(1)  # type: ignore[operator]
    torch.testing.assert_close(text_features(num_samples=3).x, expected.expand(3, -1))


def test_images_are_normalised_crops_labelled_by_photograph(loads: Loads, photographs: None) -> None:
    features = source_features("images", "vit-s14", image_size=9, num_samples=30)
    assert features.y.bincount().tolist() == [3] * 10
    stem = loads.stems["vit-s14"]
    assert isinstance(stem, ImageStem)
    for label in range(10):
        colour = torch.tensor([25.0 * label, 0.0, 255.0 - 25.0 * label]).view(3, 1, 1) / 255
        pixels = (colour - stem.image_mean) / stem.image_std
        expected = stem.embed_images(pixels.expand(1, 3, 8, 8)).mean(1)  # 9 rounds to two patches of 4
        torch.testing.assert_close(features.x[features.y == label], expected.expand(3, -1))


def test_crops_differ_and_stay_inside() -> None:
    ramp = torch.linspace(0, 1, 40).expand(3, 30, 40)
    random = np.random.RandomState(0)
    crops = [images._crop(ramp, random) for _ in range(20)]
    for crop in crops:
        assert crop.shape == (3, crop.shape[1], crop.shape[1])
        assert 9 <= crop.shape[1] <= 30
        assert crop.min() >= 0
        assert crop.max() <= 1
    slopes = {float((crop[0, 0, -1] - crop[0, 0, 0]).sign()) for crop in crops}
    assert slopes == {-1.0, 1.0}  # some are mirrored
    assert len({round(float(crop.mean()), 4) for crop in crops}) > 15


def test_kept_in_process_and_on_disk(loads: Loads, home: Path) -> None:
    first = text_features()
    assert text_features() is first
    assert loads.calls == 1
    assert text_features(seed=1).x.ne(first.x).any()
    assert len(list((home / "source").glob("*.safetensors"))) == 2
    forget()
    again = text_features()
    assert torch.equal(again.x, first.x)
    assert torch.equal(again.y, first.y)
    assert {path.suffix for path in (home / "source").iterdir()} == {".safetensors", ".lock"}


def test_disk_is_read_and_not_sampled_again(loads: Loads, monkeypatch: pytest.MonkeyPatch) -> None:
    first = text_features()
    forget()

    def never(*_: object) -> Any:
        raise AssertionError("sampled again")

    monkeypatch.setattr(vocabulary, "SOURCE", replace(vocabulary.SOURCE, sample=never))
    assert torch.equal(text_features().x, first.x)
    with pytest.raises(AssertionError, match="sampled again"):
        text_features(num_samples=7)


def test_layers_share_features_and_other_weights_do_not(loads: Loads) -> None:
    first = text_features()
    shallow = source_features("", "minilm-l6:layers=4", image_size=14, num_samples=40)
    assert torch.equal(shallow.x, first.x)
    forget()
    loads.stems["minilm-l6"] = text_stem(seed=1)
    assert text_features().x.ne(first.x).any()


@pytest.mark.parametrize("damage", [b"", b"not a safetensors file"])
def test_damaged_file_is_made_again(loads: Loads, home: Path, damage: bytes) -> None:
    first = text_features()
    (path,) = (home / "source").glob("*.safetensors")
    path.write_bytes(damage)
    forget()
    assert torch.equal(text_features().x, first.x)
    forget()
    assert torch.equal(text_features().x, first.x)
    assert path.stat().st_size > 1000


CONLL = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
German JJ B-NP B-MISC
ORG NNP I-NP I-ORG

Peter NNP B-NP B-PER

nothing NN B-NP O
here RB B-ADVP O
"""


def test_conll2003(loads: Loads, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = {"EU rejects German ORG": [30, 31, 32, 33], "Peter": [40], "nothing here": [50, 51]}
    monkeypatch.setattr(conll2003, "_tokenizer", lambda body: encoded.__getitem__)
    (home / "raw" / "conll2003").mkdir(parents=True)
    (home / "raw" / "conll2003" / "train.txt").write_text(CONLL)
    features = source_features("conll2003", "minilm-l6", image_size=0, num_samples=100)
    assert sorted(features.y.tolist()) == [0, 1, 2]  # none, PER, ORG
    peter = loads.stems["minilm-l6"].embed_tokens(torch.tensor([[40]])).mean(1)  # type: ignore[operator]
    torch.testing.assert_close(features.x[features.y == 1], peter)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "contains no sentence"), ("word\n", "train.txt:1"), ("a b B-ANIMAL\n", "a tag of CoNLL-2003")],
)
def test_bad_conll_file(loads: Loads, home: Path, text: str, message: str) -> None:
    (home / "raw" / "conll2003").mkdir(parents=True)
    (home / "raw" / "conll2003" / "train.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        source_features("conll2003", "minilm-l6", image_size=0, num_samples=4)


def cifar_archive(path: Path, batches: list[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for number, batch in enumerate(batches, start=1):
            data = pickle.dumps(batch, protocol=2)
            info = tarfile.TarInfo(f"cifar-10-batches-py/data_batch_{number}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def test_cifar10(loads: Loads, home: Path) -> None:
    pixels = np.random.RandomState(0).randint(0, 256, (5, 10, 3072)).astype(np.uint8)
    batches: list[object] = [{b"data": data, b"labels": list(range(10))} for data in pixels]
    cifar_archive(home / "raw" / "cifar10" / "cifar-10-python.tar.gz", batches)
    features = source_features("cifar10", "vit-s14", image_size=32, num_samples=10)
    assert sorted(features.y.tolist()) == list(range(10))
    stem = loads.stems["vit-s14"]
    assert isinstance(stem, ImageStem)
    image = torch.from_numpy(pixels[0][3].reshape(3, 32, 32).astype(np.float32) / 255)
    normalised = (image - stem.image_mean) / stem.image_std
    torch.testing.assert_close(features.x[features.y == 3], stem.embed_images(normalised[None]).mean(1))
    assert len(source_features("cifar10", "vit-s14", image_size=32, num_samples=1000).y) == 50


def test_cifar10_refuses_code_in_a_pickle(loads: Loads, home: Path) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
            return Path, (str(home / "made-by-the-pickle"),)

    cifar_archive(home / "raw" / "cifar10" / "cifar-10-python.tar.gz", [{b"data": Harmful(), b"labels": [0]}])
    with pytest.raises(UserError, match=r"asks for .pathlib\S*Path., which is refused"):
        source_features("cifar10", "vit-s14", image_size=32, num_samples=4)


def test_cifar10_that_is_no_archive(loads: Loads, home: Path) -> None:
    (home / "raw" / "cifar10").mkdir(parents=True)
    (home / "raw" / "cifar10" / "cifar-10-python.tar.gz").write_bytes(b"truncated")
    with pytest.raises(UserError, match="not the archive of CIFAR-10"):
        source_features("cifar10", "vit-s14", image_size=32, num_samples=4)


def image_net(path: Path, names: list[str]) -> np.ndarray:
    """Write an archive of the layout of Tiny ImageNet with three 64 × 64 images a class; return their grey levels."""
    path.parent.mkdir(parents=True)
    levels = np.arange(len(names) * 3) * 12
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny-imagenet-200/words.txt", "n01\tfish\n")
        for number, level in enumerate(levels.tolist()):
            name, image = names[number // 3], io.BytesIO()
            Image.fromarray(np.full((64, 64, 3), level, np.uint8)).save(image, "JPEG", quality=95)
            archive.writestr(f"tiny-imagenet-200/train/{name}/images/{name}_{number % 3}.JPEG", image.getvalue())
            archive.writestr(f"tiny-imagenet-200/val/images/val_{number}.JPEG", b"not to be read")
    return levels


def test_imagenet200(loads: Loads, home: Path) -> None:
    levels = image_net(home / "raw" / "imagenet200" / "tiny-imagenet-200.zip", ["n02", "n01", "n07"])
    features = source_features("imagenet200", "vit-s14", image_size=32, num_samples=6)
    assert features.y.bincount().tolist() == [2, 2, 2]
    stem = loads.stems["vit-s14"]
    assert isinstance(stem, ImageStem)
    # Class 0 is n01, the second that was written: its images are of levels 3, 4 and 5.
    size = embedded_size(stem, 32)
    grey = torch.tensor(levels[3:6].astype(np.float32) / 255).view(3, 1, 1, 1).expand(3, 3, size, size)
    expected = stem.embed_images((grey - stem.image_mean) / stem.image_std).mean(1)
    for feature in features.x[features.y == 0]:
        assert float((expected - feature).abs().amax(1).min()) < 0.05
    assert len(source_features("imagenet200", "vit-s14", image_size=32, num_samples=100).y) == 9


@pytest.mark.parametrize(("content", "message"), [(b"no zip", "not the archive of Tiny"), (None, "no training image")])
def test_imagenet200_that_is_another_file(loads: Loads, home: Path, content: bytes | None, message: str) -> None:
    path = home / "raw" / "imagenet200" / "tiny-imagenet-200.zip"
    path.parent.mkdir(parents=True)
    if content is None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("train/a.JPEG", b"")
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        source_features("imagenet200", "vit-s14", image_size=32, num_samples=4)


def test_user_errors(loads: Loads, home: Path) -> None:
    with pytest.raises(UserError, match=r"unknown source 'vocabulry'\. Did you mean 'vocabulary'"):
        source_features("vocabulry", "minilm-l6", image_size=56, num_samples=4)
    with pytest.raises(UserError, match=r"'images' does not suit body 'minilm-l6', .*use conll2003 or vocabulary"):
        source_features("images", "minilm-l6", image_size=56, num_samples=4)
    with pytest.raises(UserError, match=r"'conll2003' is read from \S*conll2003/train.txt, which does not exist"):
        source_features("conll2003", "minilm-l6", image_size=56, num_samples=4)
    with pytest.raises(UserError, match=r"cifar-10-python.tar.gz, which does not exist: run .*data fetch cifar10"):
        source_features("cifar10", "vit-s14", image_size=56, num_samples=4)
    with pytest.raises(UserError, match="at least 1 sample"):
        text_features(num_samples=0)
    assert source_names("image") == ["cifar10", "imagenet200", "images"]
    assert source_names() == ["cifar10", "conll2003", "imagenet200", "images", "vocabulary"]


@pytest.mark.parametrize(
    ("body", "name", "input_shape"), [("minilm-l6", "vocabulary", (2, 64)), ("vit-s14", "images", (1, 16, 16))]
)
@pytest.mark.slow
def test_real_bodies(body: str, name: str, input_shape: tuple[int, ...]) -> None:
    """The default source of a really pretrained body has the embedder's width and scale, and separable classes."""
    assert default_source(body) == name
    features = source_features("", f"{body}:layers=1", image_size=56, num_samples=100)
    assert features.name == name
    assert features.y.bincount().tolist() == [10] * 10
    model = build_model(
        input_shape=input_shape,
        target=Target("classes", size=3),
        body=f"{body}:layers=1",
        pretrained=True,
        config=EmbedderConfig(),
        seed=0,
    )
    inputs = torch.randn(20, *input_shape, generator=torch.Generator().manual_seed(0))
    embedded = model.features(inputs).detach()
    assert embedded.shape[1] == features.x.shape[1]
    ratio = embedded.square().mean().sqrt() / features.x.square().mean().sqrt()
    assert 0.3 < ratio < 3
    centred = features.x - features.x.mean(0)
    between = torch.stack([centred[features.y == c].mean(0) for c in range(10)]).square().sum(1).mean()
    assert between > 0.2 * centred.square().sum(1).mean()


@pytest.mark.slow
def test_packaged_tokenizer_is_the_bodys_own() -> None:
    encode = conll2003._tokenizer("minilm-l6")
    assert encode("hello world") == [101, 7592, 2088, 102]
    assert load_body("minilm-l6").stem.state_dict()["word_embeddings"].shape[0] > 7592
