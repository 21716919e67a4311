"""Run a whole sweep: plan, stage data, run trials, and store their records."""

import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

from orca_ray.errors import LostLeaseError, UserError
from orca_ray.options import KeepModels
from orca_ray.process import NodeResources
from orca_ray.results.folder import open_folder
from orca_ray.results.lease import Lease
from orca_ray.results.live import Limits
from orca_ray.results.store import ResultsStore, check_writable
from orca_ray.sweep.messages.settings import WorkerSettings
from orca_ray.sweep.plan.cost import trial_seconds
from orca_ray.sweep.plan.requirements import resolve, sources_of, with_fingerprints
from orca_ray.sweep.plan.searches import SearchPlan, placement_problem, plan_searches
from orca_ray.sweep.plan.spec import SweepSpec
from orca_ray.sweep.run import events
from orca_ray.sweep.run.controller import SweepController
from orca_ray.sweep.run.executor import Executor, ExecutorOptions
from orca_ray.sweep.run.hours import HourLimit
from orca_ray.sweep.search import MakeSources, make_searches
from orca_ray.sweep.worker.checkpoints import Checkpoints
from orca_ray.sweep.worker.models import ModelKeeper
from orca_ray.sweep.worker.staging import Stager
from orca_ray.sweep.worker.staging_items import StagingRequest
from orca_ray.version import code_version

logger = logging.getLogger(__name__)

POLL_SECONDS = 2.0
"""Seconds between two checks of a cluster that is still starting."""


def run_sweep(
    spec: SweepSpec,
    results: ResultsStore | str,
    *,
    executor: Executor,
    listener: events.Listener | None = None,
    address: str | None = None,
    retry_failed: bool = False,
    checkpoint_seconds: float = 30.0,
    options: ExecutorOptions | None = None,
    wait_seconds: float = 300.0,
    staging: str | None = None,
    keep_models: KeepModels = KeepModels.NONE,
    command: str = "",
    deadline: float = math.inf,
    make_sources: MakeSources = make_searches,
    limit: HourLimit | None = None,
    limits: Limits | None = None,
) -> events.Summary:
    """Run the trials of a sweep that have no record yet, and return a summary.

    After an interruption, the same call continues the sweep.

    Args:
        spec: the sweep.
        results: the results store, or its path or URI. A missing store is created when
            the sweep is known to be valid and the cluster is reached.
        executor: runs the trials; it is closed at the end.
        listener: called with every event, in the calling thread.
        address: Ray cluster to join; None joins the one that RAY_ADDRESS names, or
            starts one on this machine.
        retry_failed: whether to run trials again whose record says that they failed.
        checkpoint_seconds: minimum time between two checkpoints of a trial.
        options: time limits and GPUs of trials; None: the defaults.
        wait_seconds: seconds to wait for nodes that are large enough, if further nodes
            may join the cluster.
        staging: path or URI of a folder through which nodes share staged data; None:
            each node prepares its own.
        keep_models: which models of confirm trials stay in the store (see
            `models.ModelKeeper`).
        command: the command that runs the sweep, for the cards of models.
        deadline: time of `time.monotonic` at which the sweep ends as after Ctrl-C.
        make_sources: function that makes the searches, which decide which trials run.
        limit: hours that all trials of the sweep may take together. Searches end early
            where too few are left, and their best configurations are confirmed.
        limits: limits of what runs at once, and the priority among the sweeps of a
            cluster; None: there are none.

    Raises:
        UserError: the store cannot be written, the cluster cannot be reached, a trial
            fits on no node, a body cannot be read, no task has data, or another driver
            runs this sweep (`lease.Lease`).
    """
    options = options or ExecutorOptions()
    emit = listener or (lambda event: logger.debug("%s", event))
    shared = open_folder(staging).uri if staging else None
    check_writable(results)  # before data are prepared
    code_version()  # that of the records: read before files can change

    def emit_message(text: str) -> None:
        emit(events.Message(text, passing=True))

    with (
        contextlib.ExitStack() as after_workers,
        executor as engine,
        contextlib.ExitStack() as stack,
    ):
        nodes = engine.open(address)
        gpus = wait_for_room(
            engine, spec, nodes, wait_seconds, emit, needs_gpus=options.needs_gpus
        )
        plans = plan_searches(spec, gpus=gpus)
        if limit is not None and limit.unit == "GPU":
            _check_gpus(plans, limit)
        searches = resolve(with_fingerprints(plans), emit_message)
        store = results
        if not isinstance(store, ResultsStore):
            store = ResultsStore(store, create=True)
        after_workers.enter_context(deletes_late_checkpoints(store, spec.sweep_id))
        keeper = ModelKeeper(store.uri, keep_models, command=command, emit=emit_message)

        def watch(event: events.Event) -> None:
            emit(event)
            if isinstance(event, events.TrialFinished) and not event.remaining:
                keeper.tidy(controller.searches)

        controller = SweepController(
            searches,
            store,
            executor=engine.name,
            trial_seconds=trial_seconds(searches),
            retry_failed=retry_failed,
            listener=watch,
            lease=stack.enter_context(Lease(store, spec.sweep_id)),
            make_sources=make_sources,
            limit=limit,
            limits=limits,
        )
        stack.enter_context(contextlib.closing(controller))
        settings = WorkerSettings(
            store.uri, shared, checkpoint_seconds, keep_models, options.time
        )
        requests = staging_requests(searches, controller.searches.unfinished_tasks)
        stager = engine.stager(requests, settings, emit_message)
        interrupted = False
        with contextlib.closing(stager):
            start(controller, engine, stager, emit)
            controller.control.deadline = deadline
            if not controller.done:
                interrupted = engine.run(controller, settings, options)
        controller.tidy()
        keeper.tidy(controller.searches, ended=True)
        advice = Checkpoints(store.uri).deletion_advice() if interrupted else ""
        if advice:
            emit_message(advice)
    summary = replace(
        controller.summary(interrupted=interrupted),
        models=keeper.best,
        missing_models=keeper.missing,
    )
    emit(events.SweepFinished(summary))
    return summary


@contextlib.contextmanager
def deletes_late_checkpoints(store: ResultsStore, sweep: str) -> Iterator[None]:
    """Context manager: delete late checkpoints if the driver has lost the sweep.

    The workers of a driver that has lost the sweep may write checkpoints and outcomes
    after the next driver has recorded their trials and deleted their files. Such files
    would stay, and would replace a later run of these trials. Leave the block when all
    workers have ended.
    """
    try:
        yield
    except LostLeaseError:
        with contextlib.suppress(UserError):  # the user must see the first error
            keys = [
                key
                for key, record in store.load(sweep).items()
                if not record.status.failed
            ]
            Checkpoints(store.uri).remove(*keys)
        raise


def _check_gpus(plans: Sequence[SearchPlan], limit: HourLimit) -> None:
    """Raise UserError if no trial uses a GPU, so that a limit of GPU hours is void."""
    if not any(plan.resources.gpus for plan in plans):
        raise UserError(
            f"a limit of {limit} does not limit this sweep: no trial gets a GPU here."
            " Give --core-hours instead."
        )


def start(
    controller: SweepController, engine: Executor, stager: Stager, emit: events.Listener
) -> None:
    """Wait until a task is staged or all tasks have failed, and announce the sweep.

    The stager becomes that of the controller. Raises UserError if no task can be staged
    and no trial has ended in an earlier run.
    """
    errors = [task.error for task in engine.first_staged(stager)]
    searches = controller.searches
    if errors and all(errors) and not searches.finished_before:
        message = errors[0]
        if len(errors) > 1:
            message += f" (and {len(errors) - 1} more tasks could not be staged)"
        raise UserError(message)
    controller.stager = stager
    emit(events.SweepStarted(controller.sweep, engine.where, searches.rows()))
    if searches.reused and not controller.done:
        emit(events.Message(searches.reused))


def staging_requests(
    searches: Sequence[SearchPlan], tasks: Collection[str]
) -> list[StagingRequest]:
    """Return a staging request for each of ``tasks`` that has a search.

    A request names the data of the task, and the bodies and sources of its searches.
    """
    by_task: dict[str, list[SearchPlan]] = {}
    for search in searches:
        if search.task in tasks:
            by_task.setdefault(search.task, []).append(search)
    requests = []
    for task, plans in by_task.items():
        pretrained = [plan.body for plan in plans if plan.recipe.pretrained]
        sources = set[str]().union(*map(sources_of, plans))
        request = StagingRequest(
            task=task,
            protocol=plans[0].spec.protocol,
            fingerprint=plans[0].fingerprint,
            bodies=tuple(dict.fromkeys(pretrained)),
            sources=tuple(sorted(sources)),
        )
        requests.append(request)
    return requests


def wait_for_room(
    engine: Executor,
    spec: SweepSpec,
    nodes: Sequence[NodeResources],
    seconds: float,
    emit: events.Listener,
    *,
    needs_gpus: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Wait until every trial of a sweep fits on a node; return whether it gets GPUs.

    ``nodes`` are the present nodes. During the wait, an autoscaler is asked for room
    for one trial of each (task, method), with its GPUs. Unless ``needs_gpus``, trials
    run without GPUs if no node has one. Raises UserError if some trial fits on no node.
    If nodes may join the cluster (``engine.grows``), it is raised after ``seconds``.
    """
    waited = 0.0
    announced = False
    while True:
        gpus = needs_gpus or any(node.gpus for node in nodes)
        plans = plan_searches(spec, gpus=gpus)
        problems = []
        for plan in plans:
            problem = placement_problem(plan.resources, nodes)
            if problem is not None:
                problems.append(f"{plan.task} with {plan.method}: {problem}")
        if not problems:
            return gpus
        if not engine.grows or waited >= seconds:
            raise UserError(problems[0])
        if not announced:
            emit(
                events.Message(
                    f"waiting up to {seconds:g} s for a node that is large enough:"
                    f" {problems[0]}"
                )
            )
            engine.announce(
                Counter(plan.resources for plan in plan_searches(spec, gpus=True))
            )
            announced = True
        sleep(POLL_SECONDS)
        waited += POLL_SECONDS
        nodes = engine.nodes()
