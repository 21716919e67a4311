"""Distances and sources are discovered: one new file registers one name."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from orca_ray.alignment import distances, sources
from orca_ray.alignment.distance import SourceFeatures
from orca_ray.alignment.registry import all_sources, distance_names, get_distance, get_source, source_names
from orca_ray.errors import UserError

Drop = Callable[[str, str, str], None]

DISTANCE = """
from orca_ray.alignment.distance import Distance

class Shifted(Distance):
    name = "shifted"

    def _prepare(self, x_ND, y_N, terms):
        self._x_ND = x_ND

    def _distance(self, x_nD, y_n, shares_L):
        return (x_nD.mean() - self._x_ND.mean()).square()

DISTANCE = Shifted
"""
SOURCE = """
from orca_ray.alignment.source import Source

SOURCE = Source(name="noise", modality="image", sample=lambda request: None)
"""


@pytest.fixture
def drop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Drop]:
    """Write a module into a directory that one of the packages is extended by."""
    dropped = []

    def write(package: str, name: str, text: str) -> None:
        (tmp_path / package).mkdir(exist_ok=True)
        (tmp_path / package / f"{name}.py").write_text(text)
        module = {"distances": distances, "sources": sources}[package]
        monkeypatch.setattr(module, "__path__", [*module.__path__, str(tmp_path / package)])
        dropped.append(f"{module.__name__}.{name}")

        all_sources.cache_clear()

    yield write
    monkeypatch.undo()
    all_sources.cache_clear()
    for name in dropped:
        sys.modules.pop(name, None)


def test_a_new_distance_is_one_new_file(drop: Drop) -> None:
    drop("distances", "shifted", DISTANCE)
    assert "shifted" in distance_names()
    labels = torch.zeros(4, dtype=torch.int64)
    distance = get_distance("shifted").fit(SourceFeatures(torch.zeros(4, 2), labels, "test"))
    assert distance(torch.full((4, 2), 3.0), labels).item() == 9.0
    with pytest.raises(UserError, match=r"unknown distance 'shiftd'\. Did you mean 'shifted'"):
        get_distance("shiftd")


def test_a_new_source_is_one_new_file(drop: Drop) -> None:
    drop("sources", "noise", SOURCE)
    assert "noise" in source_names()
    assert "noise" in source_names("image")
    assert "noise" not in source_names("sequence")
    assert get_source("noise").present()


def test_helpers_are_not_listed_and_a_distance_is_named_like_its_module(drop: Drop) -> None:
    before = source_names()
    drop("sources", "_helper", "")
    assert source_names() == before
    drop("distances", "silent", DISTANCE)
    with pytest.raises(ValueError, match="silent must define DISTANCE with the name 'silent'"):
        get_distance("silent")


def test_names_and_sources_need_no_torch() -> None:
    code = (
        "import sys; from orca_ray.alignment import registry; "
        "registry.distance_names(); [registry.get_source(name).present() for name in registry.source_names()]; "
        "print({'torch', 'transformers', 'ray', 'ot', 'sklearn'} & set(sys.modules))"
    )
    ending = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ending.stdout.strip() == "set()"
