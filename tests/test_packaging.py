"""The wheel and the source distribution: what they hold, and that an installed wheel works outside of the checkout."""

import email
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

import orca_ray
from tests.building import build
from tests.docs.pages import ROOT, command_lines, parse

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RELEASE: Any = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the unpacked source distribution."""
    directory = tmp_path_factory.mktemp("sdist")
    archive = build("sdist", ROOT, directory)
    with tarfile.open(archive) as tar:
        tar.extractall(directory, filter="data")
    return directory / archive.name.removesuffix(".tar.gz")


def files(directory: Path) -> set[str]:
    """Return the paths of the files under a directory, without compiled ones."""
    found = (path for path in directory.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(directory)) for path in found}


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_the_sweeps_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = {f"orca_ray/{name}" for name in files(ROOT / "orca_ray")}
    sweeps = {f"orca_ray/sweeps/{name}" for name in files(ROOT / "sweeps")}
    assert names == package | sweeps
    assert {"orca_ray/py.typed", "orca_ray/sweeps/pocket.yaml", "orca_ray/leaderboard/page/page.js"} <= names


@pytest.mark.slow
def test_the_metadata_are_complete(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
        scripts = archive.read(name.replace("METADATA", "entry_points.txt")).decode()
    assert metadata["Version"] == PROJECT["version"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "# orca-ray" in str(metadata.get_payload())
    assert metadata["License-Expression"] == "MIT"
    assert "orca-sweep = orca_ray.cli.main:entry" in scripts


@pytest.mark.slow
def test_the_source_distribution_gives_the_same_wheel(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    top = {name.split("/")[0] for name in files(sdist)}
    kept = {".gitignore", "PKG-INFO", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"}
    assert top == {"orca_ray", "sweeps", *kept}
    again = build("wheel", sdist, tmp_path)
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert one.namelist() == other.namelist()


@pytest.mark.slow
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


def test_one_version_everywhere() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["version"] == orca_ray.__version__ == cited["version"]
    assert f"Version {PROJECT['version']}" in (ROOT / "docs" / "citing.md").read_text()


def test_the_citation_names_the_software_and_the_paper() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "version", "license", "references"} <= set(cited)
    [paper] = cited["references"]
    assert paper["title"] == "Cross-Modal Fine-Tuning: Align then Refine"
    assert paper["authors"][0]["family-names"] == "Shen"


@pytest.mark.parametrize("name", ["bug", "task", "method"])
def test_issue_forms_have_what_github_needs(name: str) -> None:
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())
    assert {"name", "description", "body"} <= set(form)
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    identifiers = [field["id"] for field in fields]
    assert len(identifiers) == len({*identifiers}) > 1
    assert all(field["attributes"]["label"] for field in fields)


def test_the_release_workflow_runs_commands_that_exist() -> None:
    steps = [step["run"] for step in RELEASE["jobs"]["build"]["steps"] if "run" in step]
    for script in steps:
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    lines = re.sub(r"\S*/orca-sweep", "orca-sweep", "\n".join(steps)).splitlines()
    commands = list(command_lines(lines))
    assert ["--version"] in commands
    for arguments in commands:
        if arguments != ["--version"]:
            parse(arguments)
