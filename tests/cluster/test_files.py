"""Files of ``cluster`` that other programs read.

``Dockerfile``: read instruction by instruction, and its own commands run as far as that
needs no Docker. Templates for ``ray up``: Ray's own validator accepts them, and each
node has the token. KubeRay templates obey KubeRay's own schema, in which an unknown
field is an error, and keep their promises.
"""

import gzip
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import orca_ray
from orca_ray.cli.predict import END_SECONDS, TOKEN
from tests.docs.pages import parse

from .processes import ROOT

TEXT = (ROOT / "cluster" / "Dockerfile").read_text()
JOINED = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE))
INSTRUCTIONS = [
    (line.split(None, 1)[0], line.split(None, 1)[1])
    for line in JOINED.splitlines()
    if line.strip()
]
COPIED = [
    path
    for name, rest in INSTRUCTIONS
    if name == "COPY" and "--from" not in rest
    for path in rest.split()[:-1]
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_instructions() -> None:
    assert {name for name, _ in INSTRUCTIONS} <= {
        "ARG",
        "FROM",
        "WORKDIR",
        "RUN",
        "COPY",
        "ENV",
        "USER",
        "CMD",
    }
    ignored = (ROOT / "cluster" / "Dockerfile.dockerignore").read_text().split()
    assert [
        path
        for path in COPIED
        if not (ROOT / path).exists() or f"!{path}" not in ignored
    ] == []
    last = TEXT[TEXT.rindex("\nFROM") :]
    assert last.index("\nUSER 1000:1000\n") > last.rindex("RUN"), (
        "the last stage does not run as root"
    )
    assert "pip" not in last
    assert "rm -rf /var/lib/apt/lists/*" in last
    order = [rest for name, rest in INSTRUCTIONS if name in ("COPY", "RUN")]
    dependencies = next(
        index for index, rest in enumerate(order) if "-r requirements.txt" in rest
    )
    assert (
        order.index("pyproject.toml ./")
        < dependencies
        < order.index("orca_ray orca_ray")
    ), "their layer is kept"
    [version] = [
        rest.removeprefix("PYTHON=")
        for name, rest in INSTRUCTIONS
        if name == "ARG" and "PYTHON=" in rest
    ]
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{version}.99")


def test_the_requirements_are_those_of_the_project() -> None:
    [line] = [
        rest for name, rest in INSTRUCTIONS if name == "RUN" and "tomllib" in rest
    ]
    command = shlex.split(line[line.index("python -c") : line.index('"$EXTRAS"')])
    done = subprocess.run(
        [sys.executable, *command[1:], "sweep,serve"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    found = [Requirement(each).name for each in done.stdout.splitlines()]
    groups = [
        PROJECT["dependencies"],
        *map(PROJECT["optional-dependencies"].get, ("predict", "sweep", "serve")),
    ]
    assert found == [
        name
        for group in groups
        for each in group
        if (name := Requirement(each).name) != "orca-ray"
    ]
    assert {"ray", "torch", "uvicorn"} <= {*found}


@pytest.fixture(params=["aws.yaml", "gcp.yaml"])
def text(request: pytest.FixtureRequest) -> str:
    return (ROOT / "cluster" / str(request.param)).read_text()


@pytest.mark.slow
def test_ray_accepts_the_template(text: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(yaml.safe_load(text))
    validate_config(prepared)
    types = prepared["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert types["head"]["max_workers"] == 0
    assert (
        types["spot"]["resources"]
        == types["on-demand"]["resources"]
        == {
            "CPU": 8,
            "GPU": 1,
        }
    )


def test_all_nodes_have_the_token(text: str) -> None:
    found = yaml.safe_load(text)
    assert "--env RAY_AUTH_MODE=token" in found["docker"]["run_options"]
    assert found["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    [start] = [line for line in found["head_start_ray_commands"] if "--head" in line]
    assert "--dashboard-host=127.0.0.1" in start


Tree = dict[str, Any]
SCHEMA = json.loads(
    gzip.decompress(
        (Path(__file__).parent / "schemas" / "rayjob-v1.json.gz").read_bytes()
    )
)


@pytest.fixture(params=["kuberay-rayjob.yaml", "kuberay-raycluster.yaml"])
def documents(request: pytest.FixtureRequest) -> list[Tree]:
    return list(yaml.safe_load_all((ROOT / "cluster" / request.param).read_text()))


def cluster_spec(documents: list[Tree]) -> Tree:
    [found] = [each["spec"] for each in documents if each["apiVersion"] == "ray.io/v1"]
    cluster: Tree = found.get("rayClusterSpec", found)
    return cluster


def strict(schema: Any) -> Any:
    """Return the schema with ``additionalProperties: false`` where the Kubernetes API
    server drops unknown fields.
    """
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: strict(each) for name, each in schema.items()}
    if (
        isinstance(schema.get("properties"), dict)
        and "additionalProperties" not in schema
    ):
        found["additionalProperties"] = bool(
            schema.get("x-kubernetes-preserve-unknown-fields")
        )
    return found


def test_the_template_obeys_the_schema(documents: list[Tree]) -> None:
    [document] = [each for each in documents if each["apiVersion"] == "ray.io/v1"]
    spec = SCHEMA["properties"]["spec"]
    schema = strict(
        spec if document["kind"] == "RayJob" else spec["properties"]["rayClusterSpec"]
    )
    jsonschema.Draft202012Validator(schema).validate(document["spec"])


def test_access_needs_the_token_and_pods_agree_on_image_and_results(
    documents: list[Tree],
) -> None:
    spec = cluster_spec(documents)
    environments = []
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["enableInTreeAutoscaling"] is True
    [policy] = [each for each in documents if each["kind"] == "NetworkPolicy"]
    for template in (
        group["template"]
        for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    ):
        assert (
            template["metadata"]["labels"]
            == policy["spec"]["podSelector"]["matchLabels"]
        )
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        [container] = pod["containers"]
        assert container["image"] == f"orca-ray:{orca_ray.__version__}"
        volumes = {each["name"]: each for each in pod["volumes"]}
        mounts = {
            each["mountPath"]: volumes[each["name"]]
            for each in container["volumeMounts"]
        }
        assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
        environment = {each["name"]: each["value"] for each in container["env"]}
        assert environment["ORCA_RAY_HOME"] in mounts
        results = environment["ORCA_RAY_RESULTS"]
        assert (
            results.startswith("s3://")
            or "persistentVolumeClaim" in mounts[str(Path(results).parent)]
        )
        environments.append(environment)
    assert environments[1:] == environments[:-1]


def served() -> tuple[Tree, Tree]:
    """Return the specifications of the Deployment and the Service of model servers."""
    deployment, service = yaml.safe_load_all(
        (ROOT / "cluster" / "kubernetes-serve.yaml").read_text()
    )
    return deployment["spec"], service["spec"]


def test_servers_obey_the_schema_of_pods() -> None:
    pod = served()[0]["template"]["spec"]
    group = strict(SCHEMA["properties"]["spec"]["properties"]["rayClusterSpec"])[
        "properties"
    ]["headGroupSpec"]
    validator = jsonschema.Draft202012Validator(
        group["properties"]["template"]["properties"]["spec"]
    )
    validator.validate(pod)
    assert pod["securityContext"]["runAsNonRoot"] is True


def test_servers_get_requests_while_they_are_ready_and_end_before_they_are_killed() -> (
    None
):
    deployment, service = served()
    pod = deployment["template"]["spec"]
    [server] = pod["containers"]
    assert (
        service["selector"]
        == deployment["selector"]["matchLabels"]
        == deployment["template"]["metadata"]["labels"]
    )
    [port] = server["ports"]
    assert service["ports"][0]["targetPort"] == port["name"]
    program, *arguments = server["args"]
    given = parse(arguments).params
    assert program == "orca-sweep"
    assert given["host"] == "0.0.0.0"
    assert given["port"] == port["containerPort"]
    assert given["model"].startswith(server["volumeMounts"][0]["mountPath"])
    assert [each["name"] for each in server["env"]] == [TOKEN]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert server[probe]["httpGet"] == {"path": "/readyz", "port": port["name"]}
    pause = int(server["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert pause + END_SECONDS < pod["terminationGracePeriodSeconds"]
    assert server["image"] == f"orca-ray-serve:{orca_ray.__version__}"
