"""The KubeRay templates obey KubeRay's own schema, in which an unknown field is an error, and keep their promises."""

import copy
import gzip
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from .processes import ROOT

Tree = dict[str, Any]
NAMES = ("kuberay-rayjob.yaml", "kuberay-raycluster.yaml")
SCHEMA = json.loads(gzip.decompress((Path(__file__).parent / "schemas" / "rayjob-v1.json.gz").read_bytes()))


def strict(schema: Any) -> Any:
    """Return the schema with ``additionalProperties: false`` where the Kubernetes API server drops unknown fields."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: strict(each) for name, each in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        found["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields"))
    return found


@cache
def validator(kind: str) -> Any:
    """Return the strict validator of the ``spec`` of a RayJob or RayCluster."""
    spec = SCHEMA["properties"]["spec"]
    return jsonschema.Draft202012Validator(strict(spec if kind == "RayJob" else spec["properties"]["rayClusterSpec"]))


def documents(name: str) -> list[Tree]:
    return list(yaml.safe_load_all((ROOT / "cluster" / name).read_text()))


def ray_document(name: str) -> Tree:
    [found] = [each for each in documents(name) if each["apiVersion"] == "ray.io/v1"]
    return found


def cluster_spec(name: str) -> Tree:
    spec: Tree = ray_document(name)["spec"]
    found: Tree = spec.get("rayClusterSpec", spec)
    return found


def pods(name: str) -> list[Tree]:
    spec = cluster_spec(name)
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


@pytest.mark.parametrize("name", NAMES)
def test_the_template_obeys_the_schema(name: str) -> None:
    document = ray_document(name)
    validator(document["kind"]).validate(document["spec"])


DAMAGES: dict[str, Callable[[Tree], Any]] = {
    "a misspelt field of the cluster": lambda spec: spec.update(rayVersoin="2.60.0"),
    "a misspelt field of a group": lambda spec: spec["workerGroupSpecs"][0].update(maxReplica=4),
    "a misspelt field of a pod": lambda spec: spec["headGroupSpec"]["template"]["spec"].update(toleration=[]),
    "a misspelt field of a container": lambda spec: spec["headGroupSpec"]["template"]["spec"]["containers"][0].update(
        enviroment=[]
    ),
    "a missing name": lambda spec: spec["workerGroupSpecs"][0].pop("groupName"),
    "a number for a text": lambda spec: spec["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
    "an unknown choice": lambda spec: spec["authOptions"].update(mode="tokens"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_template_is_refused(name: str, damage: str) -> None:
    document = copy.deepcopy(ray_document(name))
    DAMAGES[damage](document["spec"].get("rayClusterSpec", document["spec"]))
    with pytest.raises(jsonschema.ValidationError):
        validator(document["kind"]).validate(document["spec"])


@pytest.mark.parametrize("name", NAMES)
def test_access_needs_the_token_and_passes_the_network_policy(name: str) -> None:
    assert cluster_spec(name)["authOptions"] == {"mode": "token"}
    [policy] = [each for each in documents(name) if each["kind"] == "NetworkPolicy"]
    labels = policy["spec"]["podSelector"]["matchLabels"]
    spec = cluster_spec(name)
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert group["template"]["metadata"]["labels"] == labels
    for pod in pods(name):
        assert pod["securityContext"]["runAsNonRoot"] is True


@pytest.mark.parametrize("name", NAMES)
def test_the_cluster_grows_with_gpu_pods_and_takes_spot_pods_first(name: str) -> None:
    spec = cluster_spec(name)
    assert spec["enableInTreeAutoscaling"] is True
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert groups["spot"]["priority"] > groups["on-demand"].get("priority", 0)
    for group in groups.values():
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        [container] = group["template"]["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in (
            group["template"]["spec"]["tolerations"]
        )


@pytest.mark.parametrize("name", NAMES)
def test_pods_have_memory_for_objects_and_agree_on_where_results_are(name: str) -> None:
    environments = []
    for pod in pods(name):
        [container] = pod["containers"]
        volumes = {each["name"]: each for each in pod["volumes"]}
        mounts = {each["mountPath"]: volumes[each["name"]] for each in container["volumeMounts"]}
        assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
        environment = {each["name"]: each["value"] for each in container["env"]}
        assert environment["ORCA_RAY_HOME"] in mounts
        results = environment["ORCA_RAY_RESULTS"]
        assert results.startswith("s3://") or "persistentVolumeClaim" in mounts[str(Path(results).parent)]
        environments.append(environment)
    assert environments[1:] == environments[:-1]


def test_the_image_is_that_of_the_version_and_ray_that_of_the_pin() -> None:
    import orca_ray

    images = {each["image"] for name in NAMES for pod in pods(name) for each in pod["containers"]}
    assert images == {f"orca-ray:{orca_ray.__version__}"}


def served() -> tuple[Tree, Tree]:
    """Return the Deployment and the Service of model servers."""
    deployment, service = documents("kubernetes-serve.yaml")
    return deployment["spec"], service["spec"]


def test_servers_obey_the_schema_of_pods() -> None:
    deployment, _ = served()
    pod_validator = validator("RayCluster").evolve(
        schema=strict(SCHEMA["properties"]["spec"]["properties"]["rayClusterSpec"])["properties"]["headGroupSpec"][
            "properties"
        ]["template"]["properties"]["spec"]
    )
    pod = deployment["template"]["spec"]
    pod_validator.validate(pod)
    assert pod["securityContext"]["runAsNonRoot"] is True
    pod["containers"][0]["readinesProbe"] = {}
    with pytest.raises(jsonschema.ValidationError):
        pod_validator.validate(pod)


def test_servers_get_requests_while_they_are_ready_and_end_before_they_are_killed() -> None:
    import typer

    import orca_ray
    from orca_ray.cli.app import app
    from orca_ray.cli.predict import END_SECONDS, TOKEN

    deployment, service = served()
    pod = deployment["template"]["spec"]
    [server] = pod["containers"]
    assert service["selector"] == deployment["selector"]["matchLabels"] == deployment["template"]["metadata"]["labels"]
    [port] = server["ports"]
    assert service["ports"][0]["targetPort"] == port["name"]
    program, name, *arguments = server["args"]
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    given = command.make_context(name, list(arguments)).params
    assert (program, given["host"], given["port"]) == ("orca-sweep", "0.0.0.0", port["containerPort"])
    assert given["model"].startswith(server["volumeMounts"][0]["mountPath"])
    assert [each["name"] for each in server["env"]] == [TOKEN]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert server[probe]["httpGet"] == {"path": "/readyz", "port": port["name"]}
    pause = int(server["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert pause + END_SECONDS < pod["terminationGracePeriodSeconds"]
    assert server["image"] == f"orca-ray-serve:{orca_ray.__version__}"
