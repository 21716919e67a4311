"""Source features: what they are made of, their cache, and the errors a user sees."""

import io
import itertools
import pickle
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from orca_ray.alignment import registry, text_features
from orca_ray.alignment import source_features as source_module
from orca_ray.alignment.distance import SourceFeatures
from orca_ray.alignment.registry import default_source, fetch_source, source_names
from orca_ray.alignment.source import BRIEF, SampleRequest, Source
from orca_ray.alignment.source_features import (
    SourceChoice,
    chosen_source,
    read_samples,
    source_features,
)
from orca_ray.alignment.sources import photographs, prose
from orca_ray.data import packages
from orca_ray.data.packages import Package
from orca_ray.errors import UserError
from orca_ray.models.body import ImageStem, TextStem
from tests.raw_files import Hostile

WORDS = 400
WIDTH = 12


def text_stem(seed: int = 0) -> TextStem:
    """Return a stem whose words lie in five groups (word i in group i % 5)."""
    generator = torch.Generator().manual_seed(seed)
    centres = 4 * torch.randn(5, WIDTH, generator=generator)
    noise = 0.1 * torch.randn(WORDS, WIDTH, generator=generator)
    words = centres[torch.arange(WORDS) % 5] + noise
    places = torch.randn(32, WIDTH, generator=generator)
    return TextStem(words, places, nn.LayerNorm(WIDTH))


def image_stem() -> ImageStem:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        projection = nn.Conv2d(3, WIDTH, 4, stride=4)
        statistics = ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
        return ImageStem(
            projection,
            nn.Identity(),
            torch.ones(1, WIDTH),
            torch.randn(2, 2, WIDTH),
            statistics,
        )


@dataclass
class Loads:
    """Substitute for `load_body` that counts its calls."""

    text: TextStem = field(default_factory=text_stem)
    image: ImageStem = field(default_factory=image_stem)
    calls: int = 0

    def __call__(self, name: str, *, pretrained: bool = True, seed: int = 0) -> Any:
        self.calls += 1
        return SimpleNamespace(stem=self.image if name.startswith("vit") else self.text)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("ORCA_RAY_HOME", str(tmp_path))
    source_module._features.cache_clear()
    yield tmp_path
    source_module._features.cache_clear()


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    """Tiny stems under the packaged names."""
    fake = Loads()
    monkeypatch.setattr(source_module, "load_body", fake)
    return fake


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int, int]]:
    """One flat colour a photograph, of sizes that differ; returns the colours."""
    files = list(itertools.chain.from_iterable(photographs.CLASSES.values()))
    colours = {
        file: (8 * index, 0, 255 - 8 * index) for index, file in enumerate(files)
    }

    def read_member(package: Package, member: str) -> bytes:
        file = member.rpartition("/")[2]
        size = (20 + files.index(file), 30)
        buffer = io.BytesIO()
        Image.new("RGB", size, colours[file]).save(buffer, "png")
        return buffer.getvalue()

    monkeypatch.setattr(packages, "read_member", read_member)
    return colours


def numbers(sentence: str) -> list[int]:
    """A tokenizer of sentences that are lists of numbers."""
    return [int(word) for word in sentence.split()]


@pytest.fixture
def articles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three topics of two articles, each of two sentences with 8 words.

    Words of topic t are t modulo 5.
    """
    monkeypatch.setattr(text_features, "tokenizer", lambda body: numbers)
    monkeypatch.setattr(
        prose,
        "TOPICS",
        {"a": ("A", "Abacus"), "b": ("Bee", "Bird"), "c": ("Cat", "Cow")},
    )

    def sentence(first_word: int) -> str:
        return " ".join(str(first_word + 5 * number) for number in range(8))

    texts = []
    for article in range(6):
        topic = article // 2
        first_word = (20 + 40 * article + topic) // 5 * 5 + topic
        texts.append([sentence(first_word), sentence(300 + topic)])
    monkeypatch.setattr(prose, "_articles", lambda: texts)


def features_of(name: str, body: str, **sizes: Any) -> SourceFeatures:
    return source_features(SourceChoice(name, body, **sizes))


def prose_features(**kwargs: Any) -> SourceFeatures:
    return features_of(
        "prose",
        "minilm-l6",
        **{"image_size": 56, "num_samples": 12, "num_tokens": 6, **kwargs},
    )


def image_features(name: str, num_samples: int, image_size: int = 32) -> SourceFeatures:
    return features_of(
        name, "vit-s14", image_size=image_size, num_tokens=0, num_samples=num_samples
    )


def test_a_passage_has_the_number_of_tokens_asked_for(
    loads: Loads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_features, "tokenizer", lambda body: numbers)
    stem = loads.text
    documents = [["30 31 32", "40 41 42 43", "50 51"], ["60 61"]]
    request = SampleRequest(
        stem, "minilm-l6", image_size=0, num_tokens=5, num_samples=3, seed=0
    )
    # The document of two tokens is skipped; too few tokens follow the last sentence of
    # the other one.
    starts = [(0, 0), (1, 0), (0, 2), (0, 1), (0, 0)]
    features, passages = text_features.embed_passages(request, documents, starts)
    assert [(passage.sentences, passage.ids) for passage in passages] == [
        (range(2), [30, 31, 32, 40, 41]),
        (range(1, 3), [40, 41, 42, 43, 50]),
        (range(1, 3), [40, 41, 42, 43, 50]),
    ]
    expected = stem.embed_raw(torch.tensor([[30, 31, 32, 40, 41]])).mean(1)[0]
    torch.testing.assert_close(features[0], expected)
    with pytest.raises(
        UserError, match="no document of the alignment source has 10 tokens"
    ):
        text_features.embed_passages(
            replace(request, num_tokens=10), documents, [(0, 0), (1, 0)]
        )


def test_prose_is_labelled_by_topic(loads: Loads, articles: None) -> None:
    features = prose_features()
    assert (features.x.shape, features.x.dtype) == ((12, WIDTH), torch.float32)
    assert features.y.bincount().tolist() == [4] * 3
    centres = torch.stack(
        [features.x[features.y == topic].mean(0) for topic in range(3)]
    )
    assert torch.equal(torch.cdist(features.x, centres).argmin(1), features.y)
    assert len(prose_features(num_samples=100).y) == 12
    assert prose_features(num_samples=3).y.sort().values.tolist() == [0, 1, 2]


ARTICLE = Path(__file__).with_name("ants.wiki").read_text()


def test_sentences_of_an_article() -> None:
    assert prose.sentences(ARTICLE) == [
        "Ants are insects of the family Formicidae.",
        "They form colonies\xa0of up to millions.",
        '"Some" live in trees (e.g. these)!',
    ]
    assert prose.sentences(f"{'a' * 100}\n{'b' * 99}") == ["a" * 100]


def test_photographs_are_normalised_crops_labelled_by_class(
    loads: Loads, colours: dict[str, tuple[int, int, int]]
) -> None:
    features = image_features("photographs", 54, image_size=9)
    stem = loads.image
    assert features.y.bincount().tolist() == [6] * 9
    for label, files in enumerate(photographs.CLASSES.values()):
        expected = []
        for file in (files * 6)[:6]:  # each photograph in turn
            colour = torch.tensor(colours[file]).view(3, 1, 1) / 255
            pixels = (colour - stem.image_mean) / stem.image_std
            # 9 rounds to two patches of 4.
            expected.append(stem.embed_images(pixels.expand(1, 3, 8, 8)).mean(1))
        torch.testing.assert_close(features.x[features.y == label], torch.cat(expected))
    choice = SourceChoice("photographs", "vit-s14", 9, 0, 54)
    raw_samples = read_samples(chosen_source(choice), choice, raw=True)
    means = stem.embed_raw(raw_samples.x[:5]).mean(1)
    # Raw pixels have 8 bits.
    torch.testing.assert_close(means, features.x[:5], atol=0.01, rtol=0.01)
    assert torch.equal(features.y, raw_samples.y)


def test_crops_differ_and_stay_inside() -> None:
    ramp = torch.linspace(0, 1, 40).expand(3, 30, 40)
    random = np.random.RandomState(0)
    crops = [photographs._crop(ramp, random) for _ in range(20)]
    for crop in crops:
        assert crop.shape == (3, crop.shape[1], crop.shape[1])
        assert 9 <= crop.shape[1] <= 30
        assert crop.min() >= 0
        assert crop.max() <= 1
    slopes = {float((crop[0, 0, -1] - crop[0, 0, 0]).sign()) for crop in crops}
    assert slopes == {-1.0, 1.0}  # some are mirrored
    assert len({round(float(crop.mean()), 4) for crop in crops}) > 15


def test_kept_in_process_and_on_disk(
    loads: Loads, home: Path, articles: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prose_features()
    assert prose_features() is first
    assert loads.calls == 1
    assert prose_features(seed=1).x.ne(first.x).any()
    assert prose_features(num_tokens=7).x.ne(first.x).any()
    assert len(prose_features(num_samples=7).y) == 7
    assert len(list((home / "source").glob("*.tensors"))) == 4
    suffixes = {path.suffix for path in (home / "source").iterdir()}
    assert suffixes == {".tensors", ".lock"}
    shallow = features_of(
        "", "minilm-l6:layers=4", image_size=14, num_tokens=6, num_samples=12
    )
    assert torch.equal(shallow.x, first.x)  # layers share features
    usual_stem = loads.text
    loads.text = text_stem(seed=1)
    source_module._features.cache_clear()
    assert prose_features().x.ne(first.x).any()  # other weights, other features
    loads.text = usual_stem
    failing = replace(prose.SOURCE, sample=lambda *_: pytest.fail("sampled again"))
    sources = {**registry.all_sources(), "prose": failing}
    monkeypatch.setattr(registry, "all_sources", lambda: sources)
    source_module._features.cache_clear()
    stored = prose_features()
    assert torch.equal(stored.x, first.x)
    assert torch.equal(stored.y, first.y)


CONLL = Path(__file__).with_name("conll2003.txt").read_text()


def raw(home: Path, name: str) -> Path:
    """Return the path of a raw file below ``home``, whose folder exists."""
    path = home / "raw" / name
    path.parent.mkdir(parents=True)
    return path


def test_conll2003(loads: Loads, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = {
        "EU rejects German ORG": [30, 31, 32, 33],
        "Peter": [40],
        "nothing here": [50, 51],
    }
    monkeypatch.setattr(text_features, "tokenizer", lambda body: encoded.__getitem__)
    raw(home, "conll2003/train.txt").write_text(CONLL)

    def features(num_tokens: int) -> SourceFeatures:
        return features_of(
            "conll2003",
            "minilm-l6",
            image_size=0,
            num_tokens=num_tokens,
            num_samples=100,
        )

    single = features(1)
    assert sorted(single.y.tolist()) == [0, 1, 2]  # none, PER, ORG
    torch.testing.assert_close(
        single.x[single.y == 1], loads.text.embed_raw(torch.tensor([[40]])).mean(1)
    )
    # Of five tokens, only the first document has enough. Two words are organisations,
    # one is a person.
    joined = features(5)
    assert joined.y.tolist() == [2, 2]
    expected = loads.text.embed_raw(torch.tensor([[30, 31, 32, 33, 40]])).mean(1)
    torch.testing.assert_close(joined.x, expected.expand(2, -1))


def cifar_archive(batches: list[object]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for number, batch in enumerate(batches, start=1):
            data = pickle.dumps(batch, protocol=2)
            info = tarfile.TarInfo(f"cifar-10-batches-py/data_batch_{number}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def test_cifar10(loads: Loads, home: Path) -> None:
    pixels = np.random.RandomState(0).randint(0, 256, (5, 10, 3072)).astype(np.uint8)
    batches: list[object] = [
        {b"data": data, b"labels": list(range(10))} for data in pixels
    ]
    raw(home, "cifar10/cifar-10-python.tar.gz").write_bytes(cifar_archive(batches))
    features = image_features("cifar10", 10)
    stem = loads.image
    assert sorted(features.y.tolist()) == list(range(10))
    image = torch.from_numpy(pixels[0][3].reshape(3, 32, 32).astype(np.float32) / 255)
    normalised = (image - stem.image_mean) / stem.image_std
    torch.testing.assert_close(
        features.x[features.y == 3], stem.embed_images(normalised[None]).mean(1)
    )
    assert len(image_features("cifar10", 1000).y) == 50


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("conll2003/train.txt", b"", "contains no sentence"),
        ("conll2003/train.txt", b"word\n", "train.txt:1"),
        ("conll2003/train.txt", b"a b B-ANIMAL\n", "a tag of CoNLL-2003"),
        ("cifar10/cifar-10-python.tar.gz", b"truncated", "not the archive of CIFAR-10"),
        (
            "cifar10/cifar-10-python.tar.gz",
            cifar_archive([{b"data": Hostile()}]),
            r"system', which is refused",
        ),
    ],
)
def test_a_bad_raw_file_is_refused(
    loads: Loads, home: Path, name: str, content: bytes, message: str
) -> None:
    raw(home, name).write_bytes(content)
    body = "minilm-l6" if name.startswith("conll") else "vit-s14"
    with pytest.raises(UserError, match=message):
        features_of(
            name.split("/")[0], body, image_size=32, num_tokens=4, num_samples=4
        )


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No file can be downloaded; returns the names of the sources that were fetched."""
    fetched: list[str] = []

    def fetch(source: Source, *_: object, patience: object = None) -> None:
        if source.file is not None and not source.present():
            assert patience is BRIEF, "a machine without network would wait"
            raise UserError("no network")
        fetched.append(source.name)

    monkeypatch.setattr(Source, "fetch", fetch)
    return fetched


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("prise", "minilm-l6", r"unknown source 'prise'\. Did you mean 'prose'"),
        (
            "photographs",
            "minilm-l6",
            "'photographs' does not suit sequence bodies: use conll2003 or prose",
        ),
        (
            "conll2003",
            "minilm-l6",
            r"'conll2003' is read from \S*conll2003/train.txt, which does not exist",
        ),
        (
            "cifar10",
            "vit-s14",
            r"cifar-10-python.tar.gz, which does not .*data fetch cifar10",
        ),
    ],
)
def test_user_errors(
    loads: Loads, offline: list[str], name: str, body: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        features_of(name, body, image_size=56, num_tokens=8, num_samples=4)


def test_the_papers_source_is_the_default_where_it_is(
    home: Path, offline: list[str]
) -> None:
    assert source_names("image") == ["cifar10", "photographs"]
    assert source_names() == ["cifar10", "conll2003", "photographs", "prose"]
    assert default_source("sequence") == "prose"
    assert default_source("image") == "photographs"
    messages: list[str] = []
    assert fetch_source("", "sequence", messages.append) == "prose"
    assert messages == ["source conll2003 cannot be fetched: prose stands in for it"]
    raw(home, "conll2003/train.txt").write_text(CONLL)
    assert default_source("sequence") == "conll2003"
    assert default_source("image") == "photographs"
    assert fetch_source("", "sequence") == "conll2003"
    assert fetch_source("prose", "sequence") == "prose"
    assert offline == ["prose", "conll2003", "prose"]


def test_the_real_prose_and_the_tokens_of_the_real_body(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    counts = dict.fromkeys(prose.TOPICS, 0)
    topics = [topic for topic, titles in prose.TOPICS.items() for _ in titles]
    for topic, sentences in zip(topics, prose._articles(), strict=True):
        assert len(sentences) >= 30
        counts[topic] += len(sentences)
    assert min(counts.values()) > 500
    assert sum(counts.values()) > 14_000
    assert text_features.tokenizer("minilm-l6")("hello world") == [7592, 2088]
