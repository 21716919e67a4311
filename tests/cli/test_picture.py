"""Pictures of a task's samples: every kind of data, colours, and what is upright."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orca_ray.cli import picture
from orca_ray.data.prepared import PreparedData, Split
from orca_ray.data.rows import PairwiseRows, Target
from orca_ray.testing.trials import CLASSES, make_data, make_task


@dataclass(frozen=True)
class KindOfData:
    """Samples of a kind of data, which are drawn with at least some colours."""

    domain: str
    x: Any
    y: Any
    target: Target
    min_colours: int = 5


def draw_noise(*shape: int) -> Any:
    """Return normally distributed numbers of a shape."""
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def make_one_hot(num_samples: int, length: int) -> Any:
    """Return sequences [N, 4, L] of one of four letters a step."""
    letters = np.arange(num_samples * length).reshape(num_samples, length) % 4
    return np.eye(4, dtype=np.float32)[letters].transpose(0, 2, 1)


KINDS = {
    "photographs": KindOfData(
        "image",
        draw_noise(12, 3, 32, 32),
        np.arange(12) % 10,
        Target("classes", size=10),
    ),
    "spectrograms": KindOfData(
        "audio",
        draw_noise(4, 1, 96, 102),
        np.eye(4, 200, dtype=np.float32),
        Target("labels", size=200),
    ),
    "fields": KindOfData(
        "pde",
        draw_noise(4, 3, 85, 85),
        draw_noise(4, 85, 85),
        Target("dense", shape=(85, 85)),
    ),
    "curves to curves": KindOfData(
        "pde",
        draw_noise(3, 1, 1024),
        draw_noise(3, 1, 1024),
        Target("dense", shape=(1, 1024)),
    ),
    "one-hot": KindOfData(
        "sequence",
        make_one_hot(2, 1000),
        np.ones((2, 36), np.float32),
        Target("labels", size=36),
    ),
    "table": KindOfData(
        "tabular", draw_noise(3, 40, 12), np.arange(3), Target("classes", size=3)
    ),
    "single values": KindOfData(
        "tabular",
        np.zeros((1, 1, 1), np.float32),
        np.zeros(1, np.int64),
        Target("classes", size=3),
        min_colours=3,
    ),
    "contact maps": KindOfData(
        "protein",
        PairwiseRows(
            {"positions": draw_noise(2, 27, 64), "pairs": draw_noise(2, 3, 64, 64)}
        ),
        draw_noise(2, 1, 64, 64),
        Target("dense", shape=(1, 64, 64)),
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_data_can_be_drawn(name: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    task = make_task(kind.target, kind.x.shape[1:])
    task = replace(task, domain=kind.domain)
    split = Split(kind.x, kind.y)
    splits = {"train": split, "validation": split, "test": split}
    data = PreparedData(task.name, "0" * 16, splits, None, None, tmp_path)  # type: ignore[arg-type]
    image = picture.draw(task, data)
    pixels = np.asarray(image)
    assert pixels.shape[2] == 3
    assert max(image.size) < 3000
    codes = pixels.astype(np.int64) @ [65536, 256, 1]
    assert len(np.unique(codes)) >= kind.min_colours


def test_a_photograph_keeps_its_colours() -> None:
    red = np.zeros((3, 4, 4))
    red[0] = 1.0
    [panel] = picture._image_panels(red, "image")
    assert panel[100, 100].tolist() == [255, 0, 0]


def test_a_spectrogram_has_its_lowest_band_at_the_bottom() -> None:
    low_band = np.zeros((1, 10, 10))
    lowest = 0
    low_band[:, lowest] = 1.0
    [panel] = picture._image_panels(low_band, "audio")
    yellow = [253, 231, 37]
    violet = [68, 1, 84]
    assert panel[-1, 0].tolist() == yellow
    assert panel[0, 0].tolist() == violet


def test_series_of_two_channels_are_drawn_as_curves() -> None:
    task = make_task(CLASSES, (2, 16))
    pixels = np.asarray(picture.draw(task, make_data(task)))
    share_of_paper = (pixels == 255).all(axis=2).mean()
    assert share_of_paper > 0.5, "a colour map leaves no paper between its colours"
