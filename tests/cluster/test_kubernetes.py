"""The KubeRay templates obey KubeRay's own schema, in which an unknown field is an error, and keep their promises."""

import gzip
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import orca_ray
from orca_ray.cli.predict import END_SECONDS, TOKEN
from tests.docs.pages import parse

from .processes import ROOT

Tree = dict[str, Any]
SCHEMA = json.loads(gzip.decompress((Path(__file__).parent / "schemas" / "rayjob-v1.json.gz").read_bytes()))


@pytest.fixture(params=["kuberay-rayjob.yaml", "kuberay-raycluster.yaml"])
def documents(request: pytest.FixtureRequest) -> list[Tree]:
    return list(yaml.safe_load_all((ROOT / "cluster" / request.param).read_text()))


def cluster_spec(documents: list[Tree]) -> Tree:
    [found] = [each["spec"] for each in documents if each["apiVersion"] == "ray.io/v1"]
    cluster: Tree = found.get("rayClusterSpec", found)
    return cluster


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


def test_the_template_obeys_the_schema_and_a_damaged_one_does_not(documents: list[Tree]) -> None:
    [document] = [each for each in documents if each["apiVersion"] == "ray.io/v1"]
    spec = SCHEMA["properties"]["spec"]
    schema = strict(spec if document["kind"] == "RayJob" else spec["properties"]["rayClusterSpec"])
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(document["spec"])
    found = cluster_spec(documents)
    container = found["headGroupSpec"]["template"]["spec"]["containers"][0]
    damages: list[tuple[Tree, Tree]] = [
        (found, {"rayVersoin": "2.60.0"}),
        (container, {"enviroment": []}),
        (found["headGroupSpec"]["rayStartParams"], {"num-cpus": 0}),
        (found["authOptions"], {"mode": "tokens"}),
    ]
    for place, damage in damages:
        before = dict(place)
        place.update(damage)
        with pytest.raises(jsonschema.ValidationError):
            validator.validate(document["spec"])
        place.clear()
        place.update(before)


def test_access_needs_the_token_and_pods_agree_on_image_and_results(documents: list[Tree]) -> None:
    spec, environments = cluster_spec(documents), []
    assert (spec["authOptions"], spec["enableInTreeAutoscaling"]) == ({"mode": "token"}, True)
    [policy] = [each for each in documents if each["kind"] == "NetworkPolicy"]
    for template in (group["template"] for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]):
        assert template["metadata"]["labels"] == policy["spec"]["podSelector"]["matchLabels"]
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        [container] = pod["containers"]
        assert container["image"] == f"orca-ray:{orca_ray.__version__}"
        volumes = {each["name"]: each for each in pod["volumes"]}
        mounts = {each["mountPath"]: volumes[each["name"]] for each in container["volumeMounts"]}
        assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
        environment = {each["name"]: each["value"] for each in container["env"]}
        assert environment["ORCA_RAY_HOME"] in mounts
        results = environment["ORCA_RAY_RESULTS"]
        assert results.startswith("s3://") or "persistentVolumeClaim" in mounts[str(Path(results).parent)]
        environments.append(environment)
    assert environments[1:] == environments[:-1]


def served() -> tuple[Tree, Tree]:
    """Return the specifications of the Deployment and the Service of model servers."""
    deployment, service = yaml.safe_load_all((ROOT / "cluster" / "kubernetes-serve.yaml").read_text())
    return deployment["spec"], service["spec"]


def test_servers_obey_the_schema_of_pods() -> None:
    pod = served()[0]["template"]["spec"]
    group = strict(SCHEMA["properties"]["spec"]["properties"]["rayClusterSpec"])["properties"]["headGroupSpec"]
    validator = jsonschema.Draft202012Validator(group["properties"]["template"]["properties"]["spec"])
    validator.validate(pod)
    assert pod["securityContext"]["runAsNonRoot"] is True
    pod["containers"][0]["readinesProbe"] = {}
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(pod)


def test_servers_get_requests_while_they_are_ready_and_end_before_they_are_killed() -> None:
    deployment, service = served()
    pod = deployment["template"]["spec"]
    [server] = pod["containers"]
    assert service["selector"] == deployment["selector"]["matchLabels"] == deployment["template"]["metadata"]["labels"]
    [port] = server["ports"]
    assert service["ports"][0]["targetPort"] == port["name"]
    program, *arguments = server["args"]
    given = parse(arguments).params
    assert (program, given["host"], given["port"]) == ("orca-sweep", "0.0.0.0", port["containerPort"])
    assert given["model"].startswith(server["volumeMounts"][0]["mountPath"])
    assert [each["name"] for each in server["env"]] == [TOKEN]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert server[probe]["httpGet"] == {"path": "/readyz", "port": port["name"]}
    pause = int(server["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert pause + END_SECONDS < pod["terminationGracePeriodSeconds"]
    assert server["image"] == f"orca-ray-serve:{orca_ray.__version__}"
