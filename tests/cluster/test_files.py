"""Files of ``cluster`` that other programs read.

``Dockerfile``: read instruction by instruction, and its own commands run as far as that needs no Docker. Templates for
``ray up``: Ray's own validator accepts them, and each node has the token.
"""

import copy
import re
import shlex
import subprocess
import sys
import tomllib
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from .processes import ROOT

TEXT = (ROOT / "cluster" / "Dockerfile").read_text()
JOINED = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE))
INSTRUCTIONS = [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in JOINED.splitlines() if line.strip()]
COPIED = [path for name, rest in INSTRUCTIONS if name == "COPY" and "--from" not in rest for path in rest.split()[:-1]]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_instructions() -> None:
    assert {name for name, _ in INSTRUCTIONS} <= {"ARG", "FROM", "WORKDIR", "RUN", "COPY", "ENV", "USER", "CMD"}
    ignored = (ROOT / "cluster" / "Dockerfile.dockerignore").read_text().split()
    assert [path for path in COPIED if not (ROOT / path).exists() or f"!{path}" not in ignored] == []
    last = TEXT[TEXT.rindex("\nFROM") :]
    assert last.index("\nUSER 1000:1000\n") > last.rindex("RUN"), "the last stage does not run as root"
    assert "pip" not in last
    assert "rm -rf /var/lib/apt/lists/*" in last
    order = [rest for name, rest in INSTRUCTIONS if name in ("COPY", "RUN")]
    dependencies = next(index for index, rest in enumerate(order) if "-r requirements.txt" in rest)
    assert order.index("pyproject.toml ./") < dependencies < order.index("orca_ray orca_ray"), "their layer is kept"
    [version] = [rest.removeprefix("PYTHON=") for name, rest in INSTRUCTIONS if name == "ARG" and "PYTHON=" in rest]
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{version}.99")


def test_the_requirements_are_those_of_the_project() -> None:
    [line] = [rest for name, rest in INSTRUCTIONS if name == "RUN" and "tomllib" in rest]
    command = shlex.split(line[line.index("python -c") : line.index('"$EXTRAS"')])
    done = subprocess.run([sys.executable, *command[1:], "sweep,mlflow"], cwd=ROOT, capture_output=True, text=True)
    found = [Requirement(each).name for each in done.stdout.splitlines()]
    groups = [PROJECT["dependencies"], *map(PROJECT["optional-dependencies"].get, ("predict", "sweep", "mlflow"))]
    assert found == [name for group in groups for each in group if (name := Requirement(each).name) != "orca-ray"]
    assert {"ray", "torch", "mlflow-skinny"} <= {*found}


@pytest.fixture(params=["aws.yaml", "gcp.yaml"])
def text(request: pytest.FixtureRequest) -> str:
    return (ROOT / "cluster" / str(request.param)).read_text()


@pytest.mark.slow
def test_ray_accepts_the_template_and_refuses_a_damaged_one(text: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    def validated(**changes: Any) -> Any:
        prepared = prepare_config(copy.deepcopy({**yaml.safe_load(text), **changes}))
        validate_config(prepared)
        return prepared

    types = validated()["available_node_types"]
    assert (types["head"]["resources"], types["head"]["max_workers"]) == ({"CPU": 0}, 0)
    assert types["spot"]["resources"] == types["on-demand"]["resources"] == {"CPU": 8, "GPU": 1}
    with pytest.raises(jsonschema.ValidationError):
        validated(max_worker=3)


def test_all_nodes_have_the_token(text: str) -> None:
    found = yaml.safe_load(text)
    assert "--env RAY_AUTH_MODE=token" in found["docker"]["run_options"]
    assert found["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    [start] = [line for line in found["head_start_ray_commands"] if "--head" in line]
    assert "--dashboard-host=127.0.0.1" in start
