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
    """Return the nodes on which an executor would run trials.

    If it joins a cluster, these are the nodes of the cluster, else only this machine.
    Raises UserError if the cluster cannot be reached.
    """
    if executor != "ray" or joined_address(address) is None:
        return [this_node()]
    with make_executor(executor) as engine:
        return engine.open(address)


def joined_address(address: str | None) -> str | None:
    """Return the address of the Ray cluster to join; None if none is to be joined.

    It is ``address``, or RAY_ADDRESS if ``address`` is empty. "local" names no cluster.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    if not address or address == "local":
        return None
    return address
