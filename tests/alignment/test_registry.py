"""Distances and sources are discovered; fitted distances: what is cached on disk, and a disk that fails."""

import logging
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from orca_ray.alignment import distances, source_features, sources, tensor_cache
from orca_ray.alignment.distance import SourceFeatures
from orca_ray.alignment.distances.otdd import OTDD
from orca_ray.alignment.registry import all_sources, get_distance, get_source, source_names
from orca_ray.alignment.source_features import fitted_distance
from orca_ray.data import cache
from orca_ray.errors import UserError
from orca_ray.testing.distances import cloud, source, value_and_gradient
from orca_ray.torch_private import has_bfloat16_units
from tests.plug_in_packages import EXAMPLE

SOURCE = """
from orca_ray.alignment.source import Source

SOURCE = Source(name="noise", modality="image", sample=lambda request: None)
"""


@pytest.fixture
def new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Directory of more distances and sources."""
    before = set(sys.modules)
    for package in (distances, sources):
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    all_sources.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    all_sources.cache_clear()
    for name in set(sys.modules) - before:
        sys.modules.pop(name)


def test_a_new_distance_is_one_new_file_named_like_it(new: Path) -> None:
    for name in ("coral", "silent"):
        (new / f"{name}.py").write_text((EXAMPLE / "orca_ray_example" / "coral.py").read_text())
    assert get_distance("coral").name == "coral"
    with pytest.raises(UserError, match=r"unknown distance 'corall'\. Did you mean 'coral'.*Allowed: bures, coral, "):
        get_distance("corall")
    with pytest.raises(ValueError, match="silent must define DISTANCE with the name 'silent'"):
        get_distance("silent")


def test_a_new_source_is_one_new_file(new: Path) -> None:
    before = source_names()
    (new / "_helper.py").touch()
    (new / "noise.py").write_text(SOURCE)
    all_sources.cache_clear()
    assert source_names() == sorted([*before, "noise"])
    assert "noise" in source_names("image")
    assert "noise" not in source_names("sequence")
    assert get_source("noise").present()


def test_names_and_sources_need_no_torch() -> None:
    code = (
        "import sys; from orca_ray.alignment import registry; "
        "registry.distance_names(); [registry.get_source(name).present() for name in registry.source_names()]; "
        "print({'torch', 'transformers', 'ray', 'ot', 'sklearn'} & set(sys.modules))"
    )
    ending = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ending.stdout.strip() == "set()"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(cache.HOME_VARIABLE, str(tmp_path))
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


@pytest.mark.parametrize("name", ["otdd", "otdd_reference", "wasserstein"])
def test_a_second_process_reads_what_the_first_stored(name: str, home: Path) -> None:
    src, (x, y) = source(), cloud(17, shift=0.5)
    first = fitted_distance(name, src)
    assert fitted_distance(name, src) is first
    assert [path.parent for path in files(home)] == [home / "source" / "terms"] * (name != "wasserstein")
    source_features._fitted.cache_clear()
    found = [
        value_and_gradient(each, x, y) for each in (first, fitted_distance(name, src), get_distance(name).fit(src))
    ]
    assert found[0][0] == found[1][0] == found[2][0]
    assert torch.equal(found[0][1], found[1][1])
    assert torch.equal(found[0][1], found[2][1])


def test_stored_by_all_that_the_terms_depend_on(fits: list[int], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src = source()
    for given in (src, SourceFeatures(src.x.clone(), src.y.clone(), "another name")):
        fitted_distance("otdd", given)
    assert fits == [24]
    fitted_distance("otdd", SourceFeatures(src.x + 1e-9, src.y, "test"))
    fitted_distance("otdd", SourceFeatures(src.x, src.y.roll(1), "test"))
    fitted_distance("otdd", SourceFeatures(src.x.float(), src.y, "test"))
    fitted_distance("bures", src)
    assert len(files(home)) == 5
    units = has_bfloat16_units(torch.device("cpu"))
    monkeypatch.setattr(tensor_cache, "has_bfloat16_units", lambda device: not units)
    fitted_distance("otdd", src)
    monkeypatch.setattr(tensor_cache, "processor", lambda: "another")
    fitted_distance("otdd", src)
    monkeypatch.setattr(tensor_cache, "_versions", lambda: ("torch 9.9",))
    fitted_distance("otdd", src)
    monkeypatch.setattr(OTDD, "version", OTDD.version + 1)
    source_features._fitted.cache_clear()
    fitted_distance("otdd", src)
    assert len(files(home)) == 9
    assert len(fits) == 8


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "text"])
def test_damaged_file_is_computed_again(
    damage: str, fits: list[int], home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    src = source()
    fitted_distance("otdd", src)
    (path,) = files(home)
    whole = path.read_bytes()
    flipped = whole[:-3] + bytes([whole[-3] ^ 255]) + whole[-2:]
    path.write_bytes({"empty": b"", "cut": whole[:-50], "flipped": flipped, "text": b"not a tensor"}[damage])
    source_features._fitted.cache_clear()
    with caplog.at_level(logging.WARNING):
        fitted_distance("otdd", src)
    assert "computing it again" in caplog.text
    assert str(path) in caplog.text
    assert len(fits) == 2
    assert path.read_bytes() == whole


def test_a_full_disk_costs_time_only(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_cache, "save_file", full)
    src, (x, y) = source(), cloud(17)
    with caplog.at_level(logging.WARNING):
        value = fitted_distance("otdd", src)(x, y)
    assert value == get_distance("otdd").fit(src)(x, y)
    assert "is not cached: no space left" in caplog.text
