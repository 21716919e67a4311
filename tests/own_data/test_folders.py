"""Folders of images, recordings and arrays by class."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest

from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from orca_ray.own_data import Options, UserData, read

from .writers import image, tone


def samples(data: UserData) -> list[Array]:
    return cast(list[Array], data.select(slice(None)).x)


def labels(data: UserData) -> list[object]:
    return cast(list[object], cast(Array, data.y).tolist())


def test_images_of_many_modes_become_one(tmp_path: Path) -> None:
    pixels = np.full((6, 5), 100, np.uint8)
    image(tmp_path / "a" / "grey.png", pixels)
    image(tmp_path / "a" / "one.png", pixels, "1")
    image(tmp_path / "b" / "palette.gif", pixels, "P")
    image(tmp_path / "b" / "clear.png", np.zeros((6, 5, 4), np.uint8))
    image(tmp_path / "b" / "deep.png", np.full((6, 5), 100 * 256, np.uint16))
    data = read(tmp_path)
    assert data.kind_hint == "images"
    assert labels(data) == ["a", "a", "b", "b", "b"]
    assert "images of several modes" in data.notes[0]
    found = dict(zip(data.names, samples(data), strict=True))
    assert {each.shape for each in found.values()} == {(6, 5, 3)}
    expected = (("a/grey.png", 100), ("b/deep.png", 100), ("b/clear.png", 255))  # transparent pixels are white
    assert all((found[name] == value).all() for name, value in expected)
    assert {each.shape for each in samples(read(tmp_path, Options(colour="grey")))} == {(6, 5)}
    (alone,) = samples(single := read(tmp_path / "a" / "grey.png", labelled=False))
    assert (len(single), single.names, single.y, alone.shape) == (1, ["grey.png"], None, (6, 5))


def test_a_damaged_image_is_named_when_it_is_read(tmp_path: Path) -> None:
    image(tmp_path / "a" / "good.png", np.zeros((50, 50), np.uint8))
    content = (tmp_path / "a" / "good.png").read_bytes()
    (tmp_path / "a" / "half.png").write_bytes(content[: len(content) // 2])
    data = read(tmp_path)
    with pytest.raises(UserError, match=r"half.png: the image is damaged"):
        samples(data)
    (tmp_path / "a" / "text.png").write_text("no image")
    with pytest.raises(UserError, match=r"text.png: expected an image"):
        read(tmp_path)


def test_splits_by_folder_and_files_that_are_left_out(tmp_path: Path) -> None:
    for name in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / name).mkdir(parents=True)
        np.save(tmp_path / name / "1.npy", np.zeros((2, 5 if name == "train/b" else 3)))
    (tmp_path / "readme.txt").write_text("about")
    (tmp_path / ".DS_Store").write_text("")
    data = read(tmp_path)
    splits = cast(Array, data.splits).tolist()
    assert sorted(zip(splits, labels(data), (each.shape[1] for each in samples(data)), strict=True)) == [
        ("test", "a", 3), ("test", "b", 3), ("train", "a", 3), ("train", "b", 5),
    ]  # fmt: skip
    assert data.notes == ("1 files of other types are left out, such as readme.txt",)


def test_a_flat_folder_needs_labels_only_for_training(tmp_path: Path) -> None:
    for k in range(3):
        image(tmp_path / f"{k}.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(UserError, match=r"no labels: put the files of each class in a sub-folder, or add labels.csv"):
        read(tmp_path)
    assert read(tmp_path, labelled=False).y is None
    (tmp_path / "labels.csv").write_text("file_name,age\n0.png,1.5\n1.png,2\n2.png,3\n")
    assert labels(read(tmp_path)) == [1.5, 2, 3]
    (tmp_path / "labels.csv").write_text("file_name,age\n0.png,1.5\n1.png,2\n")
    with pytest.raises(UserError, match=r"labels.csv, column file_name: no row for the file '2.png'"):
        read(tmp_path)


def test_recordings_get_one_rate_and_one_channel(tmp_path: Path) -> None:
    tone(tmp_path / "low" / "1.wav", 200)
    tone(tmp_path / "low" / "2.wav", 200, channels=2)
    tone(tmp_path / "high" / "3.wav", 800, rate=16000, num_samples=8000)
    data = read(tmp_path)
    assert (data.kind_hint, data.rate) == ("audio", 8000)
    assert "recordings of several sampling rates, 8000 Hz (2), 16000 Hz (1)" in data.notes[0]
    high, low, two = samples(data)
    assert high.shape == low.shape == two.shape == (4000,)
    np.testing.assert_array_equal(low, two)
    strongest = np.abs(np.fft.rfft(high)).argmax() * 8000 / 4000
    assert strongest == 800
    (tmp_path / "low" / "bad.wav").write_bytes(b"RIFF....WAVE")
    with pytest.raises(UserError, match=r"bad.wav"):
        read(tmp_path)


def test_other_recordings_than_wav(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    (tmp_path / "a").mkdir()
    soundfile.write(tmp_path / "a" / "1.flac", np.zeros(100), 8000)
    assert samples(read(tmp_path))[0].shape == (100,)
    (tmp_path / "a" / "1.flac").write_bytes(b"fLaC" + bytes(30))
    with pytest.raises(UserError, match=r"1.flac: expected a recording"):
        read(tmp_path)
