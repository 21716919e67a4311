"""The templates for ``ray up``: Ray's own validator accepts them, and each node has the token."""

import copy
from typing import Any

import jsonschema
import pytest
import yaml

from .processes import ROOT


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
