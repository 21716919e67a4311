"""Archives of the benchmark's host unpack to where the builds look.

What their roots hold is known from the scripts that unpack them, of NAS-Bench-360 and of DASH (Shen et al., 2022):
``protein.zip`` in a folder ``protein`` that they make, the two of Cosmic in ``cosmic``, ``audio.zip`` among the others.
"""

import shutil
from pathlib import Path

import pytest

from orca_ray.errors import UserError
from orca_ray.tasks.registry import get_task
from tests.raw_files import writers

PROTEINS = tuple(f"{name}{suffix}" for name in ("deepcov", "psicov", "cameo") for suffix in (".lst", ""))
ROOTS: dict[str, dict[str, tuple[str, ...]]] = {
    "psicov": {"protein/protein.zip": PROTEINS},
    "fsd50k": {"audio.zip": ("chunks", "noise_22050")},
    "cosmic": {f"cosmic/deepCR.ACS-WFC.{split}.tar": (f"npy_{split}",) for split in ("train", "test")},
}


def _pack(archive: Path, members: tuple[str, ...]) -> None:
    """Move files and folders beside an archive into its root."""
    inside = archive.with_name("inside")
    inside.mkdir()
    for member in members:
        shutil.move(archive.parent / member, inside)
    shutil.make_archive(str(archive.with_suffix("")), archive.suffix[1:], inside)
    shutil.rmtree(inside)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["cosmic", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("psicov", "fsd50k"))]
)
def test_an_archive_as_it_is_hosted_becomes_the_same_data(name: str, tmp_path: Path) -> None:
    task, raw = get_task(f"nasbench360/{name}"), tmp_path / "raw"
    raw.mkdir()
    writers()[task.name](raw)
    expected = task.prepare(raw=raw, out=tmp_path / "unpacked").fingerprint
    assert {file.path for file in task.files} == set(ROOTS[name])
    for path, members in ROOTS[name].items():
        _pack(raw / path, members)
    with pytest.raises(UserError, match="but not unpacked"):
        task.prepare(raw=raw, out=tmp_path / "again")
    task.fetch_raw(raw)
    assert task.prepare(raw=raw, out=tmp_path / "again").fingerprint == expected
