"""The templates for ``ray up``: Ray's own validator accepts them, and each node has the token."""

import copy
import re
import shlex
from typing import Any

import click
import jsonschema
import pytest
import yaml

from .processes import ROOT

NAMES = ("aws.yaml", "gcp.yaml")


def config(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "cluster" / name).read_text())
    return found


def validated(found: dict[str, Any]) -> Any:
    """Return the configuration with Ray's defaults, as ``ray up`` uses it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(found))
    validate_config(prepared)
    return prepared


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_ray_accepts_the_template(name: str) -> None:
    prepared = validated(config(name))
    types = prepared["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert types["head"]["max_workers"] == 0
    assert types["spot"]["resources"] == types["on-demand"]["resources"] == {"CPU": 8, "GPU": 1}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_ray_refuses_a_damaged_template(name: str) -> None:
    for damage in ({"max_worker": 3}, {"idle_timeout_minutes": "long"}, {"auth": {"ssh_user": 5}}):
        with pytest.raises(jsonschema.ValidationError):
            validated({**config(name), **damage})


@pytest.mark.parametrize("name", NAMES)
def test_all_nodes_have_the_token(name: str) -> None:
    found = config(name)
    assert "--env RAY_AUTH_MODE=token" in found["docker"]["run_options"]
    assert found["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    [start] = [line for line in found["head_start_ray_commands"] if "--head" in line]
    assert "--dashboard-host=127.0.0.1" in start


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_commands_exist(name: str) -> None:
    """``ray start`` knows the options of both start commands, and the comment's commands are those of Ray."""
    from ray.scripts.scripts import cli

    start: click.Command = cli.commands["start"]
    known = {option for parameter in start.params for option in parameter.opts}
    found = config(name)
    for line in (*found["head_start_ray_commands"], *found["worker_start_ray_commands"]):
        options = {word.partition("=")[0] for word in shlex.split(line) if word.startswith("--")}
        assert options <= known
    text = (ROOT / "cluster" / name).read_text()
    for command in re.findall(r"^#   ray ([\w-]+)", text, re.MULTILINE):
        assert command in cli.commands, command
