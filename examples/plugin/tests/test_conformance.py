"""What the package adds, against the conformance suites of orca-ray."""

from pathlib import Path

import numpy as np

from orca_ray.alignment.registry import get_source
from orca_ray.alignment.source import SampleRequest
from orca_ray.models.weights import load_body
from orca_ray.testing import (
    DistanceSuite,
    FamilySuite,
    LossSuite,
    MethodSuite,
    MetricSuite,
    RawFilesSuite,
    StatisticSuite,
    TaskSuite,
)
from orca_ray.testing.suite import save_bert
from orca_ray.testing.tasks import changed, cut, deleted, garbage, with_item


class TestDistances(DistanceSuite):
    names = ("coral",)


class TestMethods(MethodSuite):
    names = ("l2sp",)


class TestStatistics(StatisticSuite):
    names = ("worst_rank",)


class TestMetrics(MetricSuite):
    names = ("worst_class_error",)
    perfect = {"worst_class_error": (np.eye(3)[[0, 1, 2, 1]], np.array([0, 1, 2, 1]))}  # noqa: RUF012


class TestLosses(LossSuite):
    names = ("smoothed_cross_entropy",)


class TestFamilies(FamilySuite):
    names = ("gpt_neo",)

    def save(self, name: str, directory: Path) -> None:
        from transformers import GPTNeoConfig, GPTNeoModel

        config = GPTNeoConfig(
            hidden_size=24,
            num_layers=4,
            num_heads=2,
            vocab_size=200,
            max_position_embeddings=64,
            attention_types=[[["global", "local"], 2]],
            window_size=8,
            bos_token_id=0,
            eos_token_id=0,
        )
        GPTNeoModel(config).save_pretrained(directory)


class TestTasks(TaskSuite):
    names = ("example/tones",)


def write_tones(raw: Path) -> None:
    """Write 100 waves of 32 values whose frequency is the class, and the classes."""
    random = np.random.RandomState(0)
    y = np.arange(100) % 3
    waves = np.sin((y[:, None] + 1) * np.linspace(0, 6, 32)) + 0.3 * random.normal(
        size=(100, 32)
    )
    np.save(raw / "tones_x.npy", waves[:, None].astype(np.float32))
    np.save(raw / "tones_y.npy", y)


class TestRawFiles(RawFilesSuite):
    writers = {"example/tones": write_tones}  # noqa: RUF012
    corruptions = {  # noqa: RUF012
        "example/tones": [
            (
                "missing",
                deleted("tones_y.npy"),
                r"1 of 2 raw files are not in .*tones_y\.npy",
            ),
            ("truncated", cut("tones_x.npy"), r"tones_x\.npy.*truncated"),
            ("garbage", garbage("tones_x.npy"), r"tones_x\.npy: expected the header"),
            (
                "shape",
                changed("tones_x.npy", lambda x: x[:, 0]),
                r"expected shape \[any, 1, 32\], found \[100, 32\]",
            ),
            (
                "NaN",
                changed("tones_x.npy", lambda x: with_item(x, -1, np.nan)),
                "expected finite numbers",
            ),
            (
                "fewer",
                changed("tones_y.npy", lambda y: y[1:]),
                r"tones_y\.npy: expected shape \[100\], found \[99\]",
            ),
            (
                "class",
                changed("tones_y.npy", lambda y: with_item(y, 0, 3)),
                r"tones_y\.npy: expected labels from 0",
            ),
        ]
    }


def test_the_source_gives_passages_of_every_dish(tmp_path: Path) -> None:
    body = save_bert(tmp_path)
    request = SampleRequest(
        load_body(body).stem, body, image_size=0, num_tokens=16, num_samples=12, seed=0
    )
    features, labels = get_source("recipes").sample(request)
    assert features.shape == (12, 16)
    assert sorted(labels.tolist()) == [0] * 4 + [1] * 4 + [2] * 4
