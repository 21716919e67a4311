"""FSD50K: chunks of clips, and how rows belong to clips.

Training changes the chunks once.
"""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_ray.data.prepared import PreparedData
from orca_ray.data.readers import read_wav
from orca_ray.data.rows import Array
from orca_ray.tasks.arrays import log_mel
from orca_ray.tasks.nasbench360 import fsd50k
from orca_ray.tasks.registry import get_task
from tests.raw_files.nasbench360_large import NUM_CLIPS, write_wav
from tests.tasks.conftest import digest

TASK = get_task("nasbench360/fsd50k")


def rows(raw: Path, name: str) -> list[dict[str, str]]:
    with (raw / f"chunks/{name}.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def plain(raw: Path, file: str) -> Array:
    """Return the centred spectrogram [96, 101] of a chunk, repeated up to a second."""
    waveform = read_wav(raw / file.removeprefix("data/"), 22050)
    decibels = log_mel(np.tile(waveform, 3)[:22050])
    centred: Array = decibels - decibels.mean()
    return centred


def labels_of(raw: Path, row: dict[str, str]) -> list[int]:
    numbers = json.loads((raw / "chunks/lbl_map.json").read_text())
    return [numbers[label] for label in row["labels"].split(",")]


@pytest.mark.parametrize(("split", "name"), [("validation", "val"), ("test", "eval")])
def test_evaluation_holds_every_chunk_as_it_is_with_clip_and_labels(
    split: str, name: str, raw: Path, data: PreparedData
) -> None:

    part = data.splits[split]  # type: ignore[index]
    listed = rows(raw, name)
    assert part.x.shape == (2 * NUM_CLIPS, 1, 96, 102)
    for index in (0, 1, 17):
        chunk = np.asarray(part.x[slice(index, index + 1)][0, 0])
        np.testing.assert_allclose(
            chunk[:, :101], plain(raw, listed[index]["files"]), atol=1e-5
        )
        assert not chunk[:, 101].any()
    assert part.group is not None
    assert part.group.dtype == np.int64
    clips = sorted({row["ext"] for row in listed})
    assert [clips[group] for group in part.group] == [row["ext"] for row in listed]
    assert [np.flatnonzero(y).tolist() for y in part.y] == [
        labels_of(raw, row) for row in listed
    ]


def test_arrays_are_those_of_the_reference(data: PreparedData) -> None:
    """torch's stft and librosa's filters replaced torchaudio's ``MelSpectrogram``."""
    found = [
        digest(axis)
        for split in (data.train, data.validation, data.test)
        for axis in (split.x, split.y)
    ]
    expected = [-4.71691, 0.0403314, 0.000907543, 0.0414086, -0.00187687, 0.0414086]
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_training_has_one_example_a_clip_with_its_labels(
    raw: Path, data: PreparedData
) -> None:
    assert data.train.group is None
    assert data.train.x.shape == (NUM_CLIPS, 1, 96, 102)
    clips = {row["ext"]: row for row in rows(raw, "tr")}
    assert [np.flatnonzero(y).tolist() for y in data.train.y] == [
        labels_of(raw, clips[clip]) for clip in sorted(clips)
    ]
    assert np.asarray(data.train.y).sum(axis=0).min() == 1
    assert not np.asarray(data.train.x[:])[..., 101].any()


def test_paper_trains_on_the_training_list_alone(
    raw: Path, data: PreparedData, tmp_path: Path
) -> None:
    paper = TASK.prepare("paper", raw=raw, out=tmp_path / "1-paper")
    assert (len(paper.train), len(paper.validation)) == (22, 2)
    assert paper.validation.group is None
    examples = np.concatenate([paper.train.x[:], paper.validation.x[:]])
    assert {row.tobytes() for row in examples} == {
        row.tobytes() for row in data.train.x[:]
    }
    np.testing.assert_array_equal(paper.test.x[:], data.test.x[:])


@given(st.integers(0, 1000))
def test_masks_are_bands_of_the_least_value(seed: int) -> None:
    chunk = np.random.RandomState(0).uniform(1, 2, (96, 101)).astype(np.float32)
    masked = fsd50k._masked(chunk, np.random.RandomState(seed))
    assert (masked[masked != chunk] == chunk.min()).all()
    rows, columns = (
        np.flatnonzero((masked != chunk).all(axis=axis)) for axis in (1, 0)
    )
    assert len(rows) <= 2 * int(0.15 * 96)
    assert len(columns) <= 2 * int(0.20 * 101)
    band = fsd50k._band(96, 0.15, np.random.RandomState(seed))
    assert 0 <= band.start <= band.stop <= 96
    assert band.stop - band.start <= 0.15 * 96


def test_backgrounds_are_mixed_in_by_shares_that_sum_to_one() -> None:
    chunk = np.full((96, 101), 2.0)
    num_mixed = 0
    for seed in range(12):
        example = fsd50k.training_example(
            chunk, lambda _: 4 * np.ones((96, 101)), np.random.RandomState(seed)
        )
        value = example[0, 0]
        # A mask has the least value, here the only one.
        np.testing.assert_allclose(example, value)
        assert 2 <= value < 3
        if value != 2:
            num_mixed += 1
    assert 6 < num_mixed < 12


def test_a_longer_chunk_is_cut_in_the_middle(tmp_path: Path) -> None:
    write_wav(tmp_path / "long.wav", np.random.RandomState(0).normal(0, 0.1, 2 * 22050))
    whole = fsd50k.spectrogram(str(tmp_path / "long.wav"))
    assert whole.shape == (96, 201)
    np.testing.assert_array_equal(fsd50k.middle_second(whole), whole[:, 50:151])
