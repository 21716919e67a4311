"""Fitted distances: what is cached on disk, and a disk that fails."""

import logging
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from orca_ray.alignment import source_features, tensor_cache
from orca_ray.alignment.distance import SourceFeatures
from orca_ray.alignment.distances.otdd import OTDD
from orca_ray.alignment.registry import get_distance
from orca_ray.alignment.source_features import fitted_distance
from orca_ray.testing.distances import cloud, source, value_and_gradient
from orca_ray.torch_private import has_bfloat16_units

pytestmark = pytest.mark.usefixtures("empty_home")


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """List that grows by one whenever otdd's source terms are computed."""
    num_points: list[int] = []
    source_terms = OTDD._source_terms

    def count(self: OTDD, x_ND: Tensor, y_N: Tensor) -> Mapping[str, Tensor]:
        num_points.append(len(x_ND))
        return source_terms(self, x_ND, y_N)

    monkeypatch.setattr(OTDD, "_source_terms", count)
    return num_points


def files(home: Path) -> list[Path]:
    return sorted(home.rglob("*.tensors"))


@pytest.mark.parametrize("name", ["otdd", "otdd_reference"])
def test_a_second_process_reads_what_the_first_stored(
    name: str, empty_home: Path
) -> None:
    src = source()
    x, y = cloud(17, shift=0.5)
    first = fitted_distance(name, src)
    assert fitted_distance(name, src) is first
    (file,) = files(empty_home)
    assert file.parent == empty_home / "source" / "terms"
    source_features._fitted.cache_clear()
    value, gradient = value_and_gradient(first, x, y)
    for distance in (fitted_distance(name, src), get_distance(name).fit(src)):
        other_value, other_gradient = value_and_gradient(distance, x, y)
        assert other_value == value
        assert torch.equal(other_gradient, gradient)


def test_stored_by_all_that_the_terms_depend_on(
    fits: list[int], empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src = source()
    fitted_distance("otdd", src)
    fitted_distance("otdd", SourceFeatures(src.x.clone(), src.y.clone(), "another"))
    assert fits == [24]
    fitted_distance("otdd", SourceFeatures(src.x + 1e-9, src.y, "test"))
    fitted_distance("otdd", SourceFeatures(src.x, src.y.roll(1), "test"))
    fitted_distance("otdd", SourceFeatures(src.x.float(), src.y, "test"))
    fitted_distance("otdd_reference", src)
    assert len(files(empty_home)) == 5
    units = has_bfloat16_units(torch.device("cpu"))
    monkeypatch.setattr(tensor_cache, "has_bfloat16_units", lambda device: not units)
    fitted_distance("otdd", src)
    monkeypatch.setattr(tensor_cache, "processor", lambda: "another")
    fitted_distance("otdd", src)
    monkeypatch.setattr(tensor_cache, "version", lambda _: "9.9")
    fitted_distance("otdd", src)
    monkeypatch.setattr(OTDD, "version", OTDD.version + 1)
    source_features._fitted.cache_clear()
    fitted_distance("otdd", src)
    assert len(files(empty_home)) == 9
    assert len(fits) == 8


def test_damaged_file_is_computed_again(
    fits: list[int], empty_home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    src = source()
    fitted_distance("otdd", src)
    (path,) = files(empty_home)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3] + bytes([whole[-3] ^ 255]) + whole[-2:])
    source_features._fitted.cache_clear()
    with caplog.at_level(logging.WARNING):
        fitted_distance("otdd", src)
    assert f"{path} is damaged" in caplog.text
    assert len(fits) == 2
    assert path.read_bytes() == whole


def test_a_full_disk_costs_time_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_cache, "save", fail)
    src = source()
    x, y = cloud(17)
    with caplog.at_level(logging.WARNING):
        value = fitted_distance("otdd", src)(x, y)
    assert value == get_distance("otdd").fit(src)(x, y)
    assert "is not cached: [Errno 28] No space left" in caplog.text
