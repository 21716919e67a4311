"""Files of ``cluster`` that other programs read.

The ``Dockerfile`` is read instruction by instruction, and its commands run as far as
they need no Docker. Templates for ``ray up`` are given to the validator of Ray, those
for KubeRay to the schema of KubeRay, in which an unknown field is an error here.
"""

import gzip
import json
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Instruction:
    """An instruction of the Dockerfile."""

    name: str
    arguments: str


def parse_instructions(text: str) -> list[Instruction]:
    """Return the instructions of a Dockerfile without comments and line breaks."""
    lines = [line for line in text.splitlines() if line.strip()]
    return [Instruction(*line.split(None, 1)) for line in lines]


INSTRUCTIONS = parse_instructions(JOINED)


def list_arguments(*names: str) -> list[str]:
    """Return the arguments of the instructions with some names, in their order."""
    return [
        instruction.arguments
        for instruction in INSTRUCTIONS
        if instruction.name in names
    ]


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_only_known_instructions_are_used() -> None:
    names = {instruction.name for instruction in INSTRUCTIONS}
    known = {"ARG", "FROM", "WORKDIR", "RUN", "COPY", "ENV", "USER", "CMD"}
    assert names <= known


def test_copied_files_exist_and_are_not_ignored() -> None:
    ignored = (ROOT / "cluster" / "Dockerfile.dockerignore").read_text().split()
    copies = [line for line in list_arguments("COPY") if "--from" not in line]
    assert copies
    for line in copies:
        *sources, _ = line.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert f"!{source}" in ignored, source


def test_the_last_stage_does_not_run_as_root_and_installs_nothing() -> None:
    last_stage = TEXT[TEXT.rindex("\nFROM") :]
    assert last_stage.index("\nUSER 1000:1000\n") > last_stage.rindex("RUN")
    assert "pip" not in last_stage
    assert "rm -rf /var/lib/apt/lists/*" in last_stage


def test_dependencies_have_a_layer_before_that_of_the_package() -> None:
    order = list_arguments("COPY", "RUN")
    [installation] = [line for line in order if "-r requirements.txt" in line]
    dependencies = order.index(installation)
    assert order.index("pyproject.toml ./") < dependencies
    assert dependencies < order.index("orca_ray orca_ray")


def test_the_project_allows_the_version_of_python() -> None:
    [argument] = [line for line in list_arguments("ARG") if "PYTHON=" in line]
    version = argument.removeprefix("PYTHON=")
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{version}.99")


def test_the_requirements_are_those_of_the_project() -> None:
    [line] = [line for line in list_arguments("RUN") if "tomllib" in line]
    command = shlex.split(line[line.index("python -c") : line.index('"$EXTRAS"')])
    completed = subprocess.run(
        [sys.executable, *command[1:], "sweep,serve"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    extras = PROJECT["optional-dependencies"]
    expected = [
        *PROJECT["dependencies"],
        *extras["predict"],
        *extras["sweep"],
        *extras["serve"],
    ]
    names = list_packages(completed.stdout.splitlines())
    assert names == [name for name in list_packages(expected) if name != "orca-ray"]
    assert {"ray", "torch", "uvicorn"} <= set(names)


def list_packages(requirements: list[str]) -> list[str]:
    """Return the names of the packages in requirements."""
    return [Requirement(requirement).name for requirement in requirements]


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
    assert types["spot"]["resources"] == {"CPU": 8, "GPU": 1}
    assert types["on-demand"]["resources"] == {"CPU": 8, "GPU": 1}


def test_all_nodes_have_the_token(text: str) -> None:
    template = yaml.safe_load(text)
    assert "--env RAY_AUTH_MODE=token" in template["docker"]["run_options"]
    assert template["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    commands = template["head_start_ray_commands"]
    [start] = [command for command in commands if "--head" in command]
    assert "--dashboard-host=127.0.0.1" in start


Tree = dict[str, Any]
SCHEMA_FILE = Path(__file__).parent / "schemas" / "rayjob-v1.json.gz"
SCHEMA = json.loads(gzip.decompress(SCHEMA_FILE.read_bytes()))


@pytest.fixture(params=["kuberay-rayjob.yaml", "kuberay-raycluster.yaml"])
def documents(request: pytest.FixtureRequest) -> list[Tree]:
    return list(yaml.safe_load_all((ROOT / "cluster" / request.param).read_text()))


def select_document(documents: list[Tree], key: str, value: str) -> Tree:
    """Return the only document that has a value."""
    [document] = [document for document in documents if document[key] == value]
    return document


def get_cluster_spec(documents: list[Tree]) -> Tree:
    """Return the specification of the Ray cluster, which may be part of a job."""
    spec: Tree = select_document(documents, "apiVersion", "ray.io/v1")["spec"]
    cluster: Tree = spec.get("rayClusterSpec", spec)
    return cluster


def make_strict(schema: Any) -> Any:
    """Return the schema with unknown fields as errors.

    The Kubernetes API server drops unknown fields.
    """
    if isinstance(schema, list):
        return [make_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {name: make_strict(part) for name, part in schema.items()}
    has_fields = isinstance(schema.get("properties"), dict)
    if has_fields and "additionalProperties" not in schema:
        preserves = schema.get("x-kubernetes-preserve-unknown-fields")
        strict["additionalProperties"] = bool(preserves)
    return strict


def test_the_template_obeys_the_schema(documents: list[Tree]) -> None:
    document = select_document(documents, "apiVersion", "ray.io/v1")
    schema = SCHEMA["properties"]["spec"]
    if document["kind"] != "RayJob":
        schema = schema["properties"]["rayClusterSpec"]
    validator = jsonschema.Draft202012Validator(make_strict(schema))
    validator.validate(document["spec"])


def list_pod_templates(documents: list[Tree]) -> list[Tree]:
    """Return the templates of the pods of the head and of the workers."""
    spec = get_cluster_spec(documents)
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [group["template"] for group in groups]


def test_access_needs_the_token(documents: list[Tree]) -> None:
    spec = get_cluster_spec(documents)
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["enableInTreeAutoscaling"] is True


def test_the_network_policy_is_that_of_all_pods(documents: list[Tree]) -> None:
    policy = select_document(documents, "kind", "NetworkPolicy")
    labels = policy["spec"]["podSelector"]["matchLabels"]
    for template in list_pod_templates(documents):
        assert template["metadata"]["labels"] == labels


def test_pods_do_not_run_as_root_and_have_shared_memory(documents: list[Tree]) -> None:
    for template in list_pod_templates(documents):
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        [container] = pod["containers"]
        assert container["image"] == f"orca-ray:{orca_ray.__version__}"
        assert get_mounts(pod)["/dev/shm"]["emptyDir"]["medium"] == "Memory"


def test_pods_have_the_same_cache_and_results(documents: list[Tree]) -> None:
    environments = []
    for template in list_pod_templates(documents):
        pod = template["spec"]
        [container] = pod["containers"]
        environment = {item["name"]: item["value"] for item in container["env"]}
        environments.append(environment)
        mounts = get_mounts(pod)
        assert environment["ORCA_RAY_HOME"] in mounts
        results = environment["ORCA_RAY_RESULTS"]
        if not results.startswith("s3://"):
            assert "persistentVolumeClaim" in mounts[str(Path(results).parent)]
    first, *others = environments
    assert all(environment == first for environment in others)


def get_mounts(pod: Tree) -> dict[str, Tree]:
    """Return the volumes of a pod by the path where its container mounts them."""
    [container] = pod["containers"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    return {
        mount["mountPath"]: volumes[mount["name"]]
        for mount in container["volumeMounts"]
    }


def read_servers() -> tuple[Tree, Tree]:
    """Return the specifications of the Deployment and the Service of model servers."""
    deployment, service = yaml.safe_load_all(
        (ROOT / "cluster" / "kubernetes-serve.yaml").read_text()
    )
    return deployment["spec"], service["spec"]


def test_servers_obey_the_schema_of_pods() -> None:
    deployment, _ = read_servers()
    pod = deployment["template"]["spec"]
    schema = SCHEMA
    for name in ("spec", "rayClusterSpec", "headGroupSpec", "template", "spec"):
        schema = schema["properties"][name]
    jsonschema.Draft202012Validator(make_strict(schema)).validate(pod)
    assert pod["securityContext"]["runAsNonRoot"] is True


def test_servers_get_requests_while_they_are_ready_and_end_before_they_are_killed() -> (
    None
):
    deployment, service = read_servers()
    pod = deployment["template"]["spec"]
    [server] = pod["containers"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels
    assert service["selector"] == labels
    [port] = server["ports"]
    assert service["ports"][0]["targetPort"] == port["name"]
    program, *arguments = server["args"]
    given = parse(arguments).params
    assert program == "orca-sweep"
    assert given["host"] == "0.0.0.0"
    assert given["port"] == port["containerPort"]
    assert given["model"].startswith(server["volumeMounts"][0]["mountPath"])
    assert [variable["name"] for variable in server["env"]] == [TOKEN]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert server[probe]["httpGet"] == {"path": "/readyz", "port": port["name"]}
    pause = int(server["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert pause + END_SECONDS < pod["terminationGracePeriodSeconds"]
    assert server["image"] == f"orca-ray-serve:{orca_ray.__version__}"
