"""Distances and sources are discovered: one new file registers one name."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orca_ray.alignment import distances, sources
from orca_ray.alignment.registry import all_sources, get_distance, get_source, source_names
from orca_ray.errors import UserError
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
    with pytest.raises(UserError, match=r"unknown distance 'corall'\. Did you mean 'coral'"):
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
