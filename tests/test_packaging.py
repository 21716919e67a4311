"""The wheel and the source distribution: what they hold, and that an installed wheel works outside of the checkout."""

import email
import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Literal

import pytest
import yaml

import orca_ray
from tests.docs.pages import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def build(kind: Literal["wheel", "sdist"], source: Path, out: Path) -> Path:
    """Build the wheel or the source distribution of a checkout without a network, and return its path."""
    code = f"import sys; from hatchling.build import build_{kind}; print(build_{kind}(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(out)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def files(directory: Path) -> set[str]:
    """Return the paths of the files under a directory, without compiled ones."""
    found = (path for path in directory.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(directory)) for path in found}


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_the_sweeps_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        contents = {name.partition(".dist-info/")[2] or name: archive.read(name) for name in archive.namelist()}
    information = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    package = {f"orca_ray/{name}" for name in files(ROOT / "orca_ray")}
    assert set(contents) == package | {f"orca_ray/sweeps/{name}" for name in files(ROOT / "sweeps")} | information
    assert {"orca_ray/py.typed", "orca_ray/sweeps/pocket.yaml", "orca_ray/leaderboard/page/page.js"} <= set(contents)
    metadata = email.message_from_bytes(contents["METADATA"])
    assert (metadata["Version"], metadata["License-Expression"]) == (PROJECT["version"], "MIT")
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "# orca-ray" in str(metadata.get_payload())
    assert b"orca-sweep = orca_ray.cli.main:entry" in contents["entry_points.txt"]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_source_distribution_gives_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    archive = build("sdist", ROOT, tmp_path)
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    source = tmp_path / archive.name.removesuffix(".tar.gz")
    kept = {".gitignore", "PKG-INFO", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"}
    assert {path.name for path in source.iterdir()} == {"orca_ray", "sweeps", *kept}
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(build("wheel", source, tmp_path)) as other:
        assert one.namelist() == other.namelist()


@pytest.mark.slow
@pytest.mark.exhaustive
def test_an_installed_wheel_works_outside_of_the_checkout(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    subprocess.run([*pip, "--disable-pip-version-check", "--target", target, wheel], check=True)
    environment = {**os.environ, "PYTHONPATH": str(target), "ORCA_RAY_HOME": str(tmp_path / "home")}

    def sweep(*arguments: str) -> str:
        command = [str(target / "bin" / "orca-sweep"), *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert sweep("--version") == f"orca-ray {PROJECT['version']}\n"
    assert "digits" in sweep("benchmark", "pocket", "--dry-run")
    sweep("leaderboard", "nasbench360", "-o", "page.html")
    assert len((tmp_path / "page.html").read_text()) > 100_000


def test_one_version_and_a_citation_of_software_and_paper() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["version"] == orca_ray.__version__ == cited["version"]
    assert f"Version {PROJECT['version']}" in (ROOT / "docs" / "citing.md").read_text()
    assert {"cff-version", "message", "title", "authors", "version", "license", "references"} <= set(cited)
    [paper] = cited["references"]
    assert paper["title"] == "Cross-Modal Fine-Tuning: Align then Refine"
    assert paper["authors"][0]["family-names"] == "Shen"
