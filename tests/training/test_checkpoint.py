"""Checkpoints, and the keys and files of alignments that trials share."""

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orca_ray.alignment import tensor_cache
from orca_ray.alignment.distance import SourceFeatures
from orca_ray.data import cache as cache_module
from orca_ray.data.prepared import Split
from orca_ray.testing.trials import copy_of
from orca_ray.training import checkpoint
from orca_ray.training.checkpoint import (
    AlignedCache,
    AlignEpoch,
    Alignment,
    alignment_key,
)

from .training_toys import CPU, files_of_at_most, same, toy_model, toy_split

SMALL = {"epoch": 3, "score": 0.1, "best": None, "names": ["x", "y"]}
WEIGHTS = {
    "a": torch.arange(1000, dtype=torch.float32),
    "b": torch.tensor(3, dtype=torch.int64),
}
STATE: dict[str, Any] = {"weights": WEIGHTS, **SMALL}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "deeper" / "trial.ckpt"
    tensor_cache.save(path, STATE)
    return path


def assert_whole(path: Path) -> None:
    loaded = tensor_cache.load(path)
    assert loaded is not None
    assert same(loaded["weights"], WEIGHTS)
    assert {key: loaded[key] for key in SMALL} == SMALL
    assert os.listdir(path.parent) == ["trial.ckpt"]


def test_a_saved_state_is_loaded_as_it_was(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert_whole(path)
    assert tensor_cache.load(path.parent / "none") is None
    assert not caplog.records


def test_every_damage_is_noticed(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = path.read_bytes()
    damaged_contents = [content + b"x", b"not a checkpoint at all"]
    for length in (0, 3, 11, 12, 100, len(content) - 1):
        damaged_contents.append(content[:length])
    for position in range(0, len(content), 97):
        flipped = bytearray(content)
        flipped[position] ^= 1
        damaged_contents.append(bytes(flipped))
    with caplog.at_level(logging.WARNING):
        for number, damaged in enumerate(damaged_contents):
            path.write_bytes(damaged)
            assert tensor_cache.load(path) is None, number
    assert len(caplog.records) == len(damaged_contents)
    assert "starting again" in caplog.text


def test_code_in_a_checkpoint_does_not_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    tensor_cache.save(tmp_path / "evil", {"a": Evil()})
    assert tensor_cache.load(tmp_path / "evil") is None
    assert "cannot be decoded" in caplog.text
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("num_bytes", [5, 2000, 300_000])
def test_a_full_disk_is_an_os_error_and_keeps_the_previous_one(
    num_bytes: int, path: Path
) -> None:
    """torch alone raises a RuntimeError about a position in its archive."""
    with files_of_at_most(num_bytes), pytest.raises(OSError, match="too large"):
        tensor_cache.save(path, {**STATE, "large": torch.zeros(100_000)})
    assert_whole(path)


KEY = "0123abcd"


def an_alignment() -> Alignment:
    embedder = {
        name: 2 * value for name, value in copy_of(toy_model().embedder).items()
    }
    epochs = tuple(AlignEpoch(number, 1.0 / number, 1e-2, 3.0) for number in (1, 2, 3))
    return Alignment(embedder, epochs, 1.5, 0.25, True, ("a class left out",))


def assert_loads(cache: AlignedCache, key: str = KEY) -> None:
    loaded = cache.load(key, toy_model().embedder)
    expected = an_alignment()
    assert loaded is not None
    assert same(dict(loaded.embedder), dict(expected.embedder))
    assert replace(loaded, embedder={}) == replace(expected, embedder={})


def source(shift: float = 0.0) -> SourceFeatures:
    return SourceFeatures(
        torch.arange(24.0).reshape(4, 6) + shift, torch.tensor([0, 1, 0, 1]), "toy"
    )


def key(
    *,
    seed: int = 0,
    features: SourceFeatures | None = None,
    train: Split | None = None,
    settings: Mapping[str, Any] | None = None,
) -> str:
    return alignment_key(
        toy_model(seed=seed).embedder,
        source() if features is None else features,
        toy_split(30) if train is None else train,
        CPU,
        {"seed": 0} if settings is None else settings,
    )


def test_keys_are_equal_for_equal_alignments_and_differ_with_everything_that_decides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    renamed = SourceFeatures(source().x.clone(), source().y, "another name")
    assert key() == key(features=renamed)
    assert key(settings={"a": 1, "b": 2}) == key(settings={"b": 2, "a": 1})
    split = toy_split(30)
    x = split.x[:].copy()
    y = split.y.copy()
    x[29, 0, 7] += 1e-6
    y[3] += 1
    keys = [
        key(),
        key(seed=1),
        key(features=source(1e-6)),
        key(features=replace(source(), y=torch.tensor([0, 1, 1, 0]))),
        key(train=Split(x, split.y)),
        key(train=Split(split.x, y)),
        key(train=Split(split.x, np.zeros((30, 4, 4), dtype=np.float32))),
        key(train=toy_split(29)),
        key(settings={"seed": 1}),
        key(settings={"seed": 0, "threads": 2}),
    ]
    monkeypatch.setattr(tensor_cache, "version", lambda _: "9.9")
    keys.append(key())
    assert len(set(keys)) == len(keys)


def test_splits_of_one_data_set_have_different_keys_however_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkpoint, "_SAMPLED_BYTES", 100)
    split = toy_split(3000)
    shares = [slice(0, 1000), slice(0, 2000), slice(0, 3000), slice(1000, 2000)]
    keys = {key(train=Split(split.x[rows], split.y[rows])) for rows in shares}
    assert len(keys) == len(shares)


def test_alignments_are_stored_in_the_cache_directory(empty_home: Path) -> None:
    assert AlignedCache().load(KEY, toy_model().embedder) is None
    AlignedCache().store(KEY, an_alignment())
    assert_loads(AlignedCache())
    (file,) = (path for path in empty_home.rglob("*") if path.is_file())
    assert file.parent.name == "aligned"


@pytest.mark.parametrize("damage", ["truncated", "foreign", "of another embedder"])
def test_a_damaged_file_is_reported_and_replaced(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = AlignedCache(tmp_path)
    cache.store(KEY, an_alignment())
    (path,) = tmp_path.iterdir()
    if damage == "of another embedder":
        cache.store(KEY, replace(an_alignment(), embedder={"weight": torch.zeros(3)}))
    elif damage == "foreign":
        tensor_cache.save(path, {"something": "else"})
    else:
        path.write_bytes(path.read_bytes()[:-200])
    with caplog.at_level(logging.WARNING):
        assert cache.load(KEY, toy_model().embedder) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    cache.store(KEY, an_alignment())
    assert_loads(cache)


def test_a_disk_that_takes_nothing_or_fills_up_only_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    AlignedCache(tmp_path / "file").store(KEY, an_alignment())
    large = replace(an_alignment(), embedder={"weight": torch.zeros(100_000)})
    with files_of_at_most(300_000):
        AlignedCache(tmp_path / "full").store(KEY, large)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert list((tmp_path / "full").iterdir()) == []
    assert AlignedCache(tmp_path / "file").load(KEY, toy_model().embedder) is None


def test_the_least_recently_used_go_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        cache_module, "prune", partial(cache_module.prune, most_files=3)
    )
    cache = AlignedCache(tmp_path)
    for age, name in enumerate(["d", "c", "b"]):
        cache.store(name, an_alignment())
        os.utime(tmp_path / f"{name}.aligned", times=(2e9 - 1e9 * age,) * 2)
    os.utime(tmp_path / "d.aligned", times=(1.0, 1.0))  # the oldest, but used again
    assert_loads(cache, "d")
    cache.store("a", an_alignment())
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["a", "c", "d"]
