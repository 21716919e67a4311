"""Waiting for the nodes of a cluster that is still starting."""

import time
from collections import Counter
from collections.abc import Callable, Sequence

from orca_ray.errors import UserError
from orca_ray.sweep.execution.events import Listener, Message
from orca_ray.sweep.execution.executors.base import Executor
from orca_ray.sweep.planning.searches import NodeResources, plan_searches, refuse_unplaceable
from orca_ray.sweep.planning.spec import SweepSpec

POLL_SECONDS = 2.0


def wait_for_room(
    engine: Executor,
    spec: SweepSpec,
    nodes: Sequence[NodeResources],
    seconds: float,
    emit: Listener,
    *,
    needs_gpus: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Return once every trial of a sweep fits on a node of the cluster: whether trials get GPUs.

    ``nodes`` are those of now. Meanwhile an autoscaler is asked for room for one trial of each (task, method), with its
    GPUs. Unless a sweep ``needs_gpus``, trials do without where no node has any.

    Raises:
        UserError: some trial fits on no node, after ``seconds`` seconds if the executor's cluster grows.
    """
    fingerprints, waited, told = dict.fromkeys(spec.tasks, ""), 0.0, False
    while True:
        try:
            gpus = needs_gpus or any(node.gpus for node in nodes)
            refuse_unplaceable(plan_searches(spec, fingerprints, gpus=gpus), nodes)
        except UserError as error:
            if not engine.grows or waited >= seconds:
                raise
            if not told:
                emit(Message(f"waiting up to {seconds:g} s for a node that is large enough: {error}"))
                engine.announce(Counter(plan.resources for plan in plan_searches(spec, fingerprints, gpus=True)))
                told = True
        else:
            return gpus
        sleep(POLL_SECONDS)
        waited += POLL_SECONDS
        nodes = engine.nodes()
