"""Fitted distances: what is kept on disk, and what happens when the disk does not play along."""

import logging
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from orca_ray.alignment import fitted, tensor_cache
from orca_ray.alignment.distance import SourceFeatures
from orca_ray.alignment.distances.otdd import OTDD
from orca_ray.alignment.registry import get_distance
from orca_ray.alignment.source_features import fitted_distance
from orca_ray.data import cache
from orca_ray.testing.distances import cloud, source, value_and_gradient
from orca_ray.training.numerics import has_bfloat16_units

SAMPLE = ("otdd", "otdd_reference", "wasserstein")
WITH_TERMS = ("otdd", "otdd_reference")
"""Names of distances that have terms to keep."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.HOME_VARIABLE, str(tmp_path))
    monkeypatch.setattr(fitted, "_in_process", type(fitted._in_process)())
    return tmp_path


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one whenever otdd's source terms are computed."""
    counted: list[int] = []
    plain = OTDD._source_terms

    def counting(self: OTDD, x_ND: Tensor, y_N: Tensor) -> Mapping[str, Tensor]:
        counted.append(len(x_ND))
        return plain(self, x_ND, y_N)

    monkeypatch.setattr(OTDD, "_source_terms", counting)
    return counted


def files(home: Path) -> list[Path]:
    return sorted(home.rglob("*.safetensors"))


@pytest.mark.parametrize("name", SAMPLE)
def test_a_second_process_reads_what_the_first_kept(name: str, home: Path) -> None:
    src, (x, y) = source(), cloud(17, shift=0.5)
    first = value_and_gradient(fitted_distance(name, src), x, y)
    assert len(files(home)) == (name in WITH_TERMS)
    fitted._in_process.clear()
    second = value_and_gradient(fitted_distance(name, src), x, y)
    plain = value_and_gradient(get_distance(name).fit(src), x, y)
    assert first[0] == second[0] == plain[0]
    assert torch.equal(first[1], second[1])
    assert torch.equal(first[1], plain[1])


def test_computed_once(fits: list[int], home: Path) -> None:
    src = source()
    one = fitted_distance("otdd", src)
    assert fitted_distance("otdd", SourceFeatures(src.x.clone(), src.y.clone(), "other name")) is one
    fitted._in_process.clear()
    two = fitted_distance("otdd", src)
    assert two is not one
    assert fits == [24]
    assert [path.parent for path in files(home)] == [home / "source" / "terms"]
    for seed in range(9):
        fitted_distance("l2", source(9, seed=seed))
    assert len(fitted._in_process) <= 4
    assert fitted_distance("otdd", src) is not two


def test_kept_by_all_that_the_terms_depend_on(fits: list[int], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src = source()
    fitted_distance("otdd", src)
    fitted_distance("otdd", SourceFeatures(src.x + 1e-9, src.y, "test"))
    fitted_distance("otdd", SourceFeatures(src.x, src.y.roll(1), "test"))
    fitted_distance("otdd", SourceFeatures(src.x.float(), src.y, "test"))
    fitted_distance("bures", src)
    assert len(files(home)) == 5
    monkeypatch.setattr(OTDD, "version", OTDD.version + 1)
    fitted_distance("otdd", src)
    assert len(files(home)) == 6
    units = has_bfloat16_units(torch.device("cpu"))
    monkeypatch.setattr(tensor_cache, "has_bfloat16_units", lambda device: not units)
    fitted_distance("otdd", src)
    monkeypatch.setattr(tensor_cache, "processor", lambda: "another")
    fitted_distance("otdd", src)
    monkeypatch.setattr(tensor_cache, "_versions", lambda: ("torch 9.9",))
    fitted_distance("otdd", src)
    assert len(files(home)) == 9
    assert len(fits) == 8


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "text"])
def test_damaged_file_is_computed_again(
    damage: str, fits: list[int], home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    src, (x, y) = source(), cloud(17)
    value = fitted_distance("otdd", src)(x, y)
    (path,) = files(home)
    whole = path.read_bytes()
    flipped = whole[:-3] + bytes([whole[-3] ^ 255]) + whole[-2:]
    path.write_bytes({"empty": b"", "cut": whole[:-50], "flipped": flipped, "text": b"not a tensor"}[damage])
    fitted._in_process.clear()
    with caplog.at_level(logging.WARNING):
        assert fitted_distance("otdd", src)(x, y) == value
    assert "computing it again" in caplog.text
    assert str(path) in caplog.text
    assert len(fits) == 2
    assert path.read_bytes() == whole


@pytest.mark.parametrize("way", ["full", "a file in the way"])
def test_unusable_disk_costs_time_only(
    way: str, home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    if way == "full":
        monkeypatch.setattr(tensor_cache, "save_file", full)
    else:
        (home / "source").write_text("")
    src, (x, y) = source(), cloud(17)
    with caplog.at_level(logging.WARNING):
        value = fitted_distance("otdd", src)(x, y)
    assert value == get_distance("otdd").fit(src)(x, y)
    assert "source terms are not cached on disk" in caplog.text
    assert ("no space left" in caplog.text) == (way == "full")
