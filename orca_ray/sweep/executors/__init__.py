"""Executors run the trials that the controller chooses."""

import os
from pkgutil import resolve_name

from orca_ray.errors import lookup
from orca_ray.process import NodeResources, this_node
from orca_ray.sweep.run.executor import Executor

EXECUTORS = {
    "ray": "orca_ray.sweep.executors.ray:RayExecutor",
    "inline": "orca_ray.sweep.executors.inline:InlineExecutor",
}


def make_executor(name: str) -> Executor:
    """Return a new executor, ``ray`` or ``inline``; UserError for another name."""
    executor: Executor = resolve_name(lookup("executor", name, EXECUTORS))()
    return executor


def nodes_of(executor: str, address: str | None) -> list[NodeResources]:
    """Return the nodes of the cluster that is joined, else this machine.

    UserError if the cluster is not reached.
    """
    if executor != "ray" or joined_address(address) is None:
        return [this_node()]
    with make_executor(executor) as engine:
        return engine.open(address)


def joined_address(address: str | None) -> str | None:
    """Return the Ray cluster to join: ``address``, or else RAY_ADDRESS.

    None if neither is set, or if the address is "local".
    """
    address = address or os.environ.get("RAY_ADDRESS")
    if not address or address == "local":
        return None
    return address
