"""Run a whole sweep: plan it, fetch and prepare data, run the trials, and store their records."""

import contextlib
import logging
from dataclasses import replace
from pkgutil import resolve_name

from orca_ray.errors import lookup
from orca_ray.results.lease import Lease
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.execution.conductor import Conductor
from orca_ray.sweep.execution.events import Listener, Message, Summary, SweepFinished, SweepStarted
from orca_ray.sweep.execution.executors.base import Executor, RunOptions
from orca_ray.sweep.execution.waiting import wait_for_room
from orca_ray.sweep.planning.cost import trial_seconds
from orca_ray.sweep.planning.plan import fetch, fingerprints
from orca_ray.sweep.planning.searches import plan_searches
from orca_ray.sweep.planning.spec import SweepSpec

logger = logging.getLogger(__name__)

EXECUTORS = {
    "ray": "orca_ray.sweep.execution.executors.ray:RayExecutor",
    "inline": "orca_ray.sweep.execution.executors.base:InlineExecutor",
}


def make_executor(name: str) -> Executor:
    """Return a new executor, ``ray`` or ``inline``; raise UserError for another name."""
    executor: Executor = resolve_name(lookup("executor", name, EXECUTORS))()
    return executor


def run_sweep(
    spec: SweepSpec,
    results: ResultsStore | str,
    *,
    executor: str = "ray",
    listener: Listener | None = None,
    address: str | None = None,
    retry_failed: bool = False,
    checkpoint_seconds: float = 30.0,
    options: RunOptions | None = None,
    wait_seconds: float = 300.0,
) -> Summary:
    """Run the trials of a sweep that have no record yet; after an interruption the same call continues the sweep.

    Args:
        spec: the sweep.
        results: the results store, or its path or URI. A missing store is created just before the first trial, so that
            a sweep that cannot start creates none.
        executor: ``ray`` or ``inline``.
        listener: called with every event, in the calling thread.
        address: Ray cluster to join; None joins the one that RAY_ADDRESS names, or starts one on this machine.
        retry_failed: whether to run trials again whose record says that they failed.
        checkpoint_seconds: minimum time between two checkpoints of a trial.
        options: time limits and GPUs of trials; None: the defaults.
        wait_seconds: how long to wait for nodes that are large enough, if the cluster is one that nodes may join.

    Raises:
        UserError: the cluster cannot be reached, a trial fits on no node, a body or data cannot be fetched or read, or
            another driver runs this sweep (`lease.Lease`).
    """
    emit = listener or (lambda event: logger.debug("%s", event))
    with make_executor(executor) as engine:
        nodes = wait_for_room(engine, spec, engine.open(address), wait_seconds, emit)
        searches = plan_searches(spec, dict.fromkeys(spec.tasks, ""), gpus=any(node.gpus > 0 for node in nodes))
        searches = fetch(searches, lambda text: emit(Message(text)))
        known = fingerprints(spec, prepare=True)
        searches = [replace(search, fingerprint=known[search.task]) for search in searches]
        estimates = trial_seconds(searches)
        store = results if isinstance(results, ResultsStore) else ResultsStore(results, create=True)
        with Lease(store, spec.sweep_id) as lease:
            conductor = Conductor(
                searches, store, executor=executor, trial_seconds=estimates, retry_failed=retry_failed,
                listener=listener, lease=lease,
            )  # fmt: skip
            with contextlib.closing(conductor):
                emit(SweepStarted(spec.sweep_id, executor, engine.where, conductor.rows()))
                if conductor.reused and not conductor.done:
                    emit(Message(conductor.reused))
                interrupted = not conductor.done and engine.run(conductor, checkpoint_seconds, options)
            store.compact()
            conductor.tidy()
    summary = conductor.summary(interrupted=interrupted)
    emit(SweepFinished(summary))
    return summary
