"""``cluster/Dockerfile``: read instruction by instruction, and its own commands run as far as that needs no Docker."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.building import build

from .processes import ROOT

TEXT = (ROOT / "cluster" / "Dockerfile").read_text()
KNOWN = {"ARG", "FROM", "WORKDIR", "RUN", "COPY", "ENV", "USER", "CMD"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions() -> list[tuple[str, str]]:
    """Return the instructions in order, with continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE))
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined.splitlines() if line.strip()]


def of(kind: str) -> list[str]:
    return [rest for name, rest in instructions() if name == kind]


def copied() -> list[str]:
    """Return the paths of the checkout that are copied into the image."""
    return [path for rest in of("COPY") if "--from" not in rest for path in rest.split()[:-1]]


def test_the_instructions_are_known_and_what_is_copied_exists() -> None:
    assert {name for name, _ in instructions()} <= KNOWN
    ignored = (ROOT / "cluster" / "Dockerfile.dockerignore").read_text().split()
    for path in copied():
        assert (ROOT / path).exists(), path
        assert f"!{path}" in ignored, f"{path} does not reach the build"


def test_the_last_stage_does_not_run_as_root_and_holds_no_build_tools() -> None:
    last = TEXT[TEXT.rindex("\nFROM") :]
    assert re.search(r"^USER 1000:1000$", last, re.MULTILINE)
    assert last.index("USER") > last.rindex("RUN")
    assert "pip" not in last
    assert "rm -rf /var/lib/apt/lists/*" in last


def test_dependencies_come_before_the_code_so_that_their_layer_is_kept() -> None:
    order = [rest for name, rest in instructions() if name in ("COPY", "RUN")]
    dependencies = next(index for index, rest in enumerate(order) if "-r requirements.txt" in rest)
    assert order.index("pyproject.toml ./") < dependencies < order.index("orca_ray orca_ray")


def test_the_python_is_one_that_the_project_supports() -> None:
    [version] = [rest.partition("=")[2] for rest in of("ARG") if rest.startswith("PYTHON=")]
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{version}.99")


def test_the_requirements_are_those_of_the_project() -> None:
    [line] = [rest for rest in of("RUN") if "tomllib" in rest]
    command = shlex.split(line[line.index("python -c") : line.index('"$EXTRAS"')])
    done = subprocess.run([sys.executable, *command[1:], "sweep,mlflow"], cwd=ROOT, capture_output=True, text=True)
    found = [Requirement(each).name for each in done.stdout.splitlines()]
    groups = [PROJECT["dependencies"], *map(PROJECT["optional-dependencies"].get, ("predict", "sweep", "mlflow"))]
    assert found == [name for group in groups for each in group if (name := Requirement(each).name) != "orca-ray"]
    assert {"ray", "torch", "mlflow-skinny"} <= {*found}


@pytest.mark.slow
def test_the_package_builds_from_what_is_copied(tmp_path: Path) -> None:
    """The wheel that the last step of the build installs."""
    source = tmp_path / "src"
    source.mkdir()
    for path in copied():
        if (ROOT / path).is_dir():
            shutil.copytree(ROOT / path, source / path, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / path, source / path)
    with zipfile.ZipFile(build("wheel", source, tmp_path)) as wheel:
        names = wheel.namelist()
    assert {"orca_ray/cli/main.py", "orca_ray/sweeps/pocket.yaml"} <= set(names)
