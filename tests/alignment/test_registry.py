"""Distances and sources are discovered: one new file registers one name."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from orca_ray.alignment import distances, sources
from orca_ray.alignment.distance import SourceFeatures
from orca_ray.alignment.registry import all_sources, get_distance, get_source, source_names
from orca_ray.errors import UserError

Drop = Callable[[ModuleType, str, str], None]

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
    before = set(sys.modules)

    def write(package: ModuleType, name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
        all_sources.cache_clear()

    yield write
    monkeypatch.undo()
    all_sources.cache_clear()
    for name in set(sys.modules) - before:
        sys.modules.pop(name)


def test_a_new_distance_is_one_new_file_named_like_it(drop: Drop) -> None:
    drop(distances, "shifted", DISTANCE)
    drop(distances, "silent", DISTANCE)
    labels = torch.zeros(4, dtype=torch.int64)
    distance = get_distance("shifted").fit(SourceFeatures(torch.zeros(4, 2), labels, "test"))
    assert distance(torch.full((4, 2), 3.0), labels).item() == 9.0
    with pytest.raises(UserError, match=r"unknown distance 'shiftd'\. Did you mean 'shifted'"):
        get_distance("shiftd")
    with pytest.raises(ValueError, match="silent must define DISTANCE with the name 'silent'"):
        get_distance("silent")


def test_a_new_source_is_one_new_file(drop: Drop) -> None:
    before = source_names()
    drop(sources, "_helper", "")
    drop(sources, "noise", SOURCE)
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
