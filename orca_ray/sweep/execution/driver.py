"""Run a sweep from its spec to its last record."""

import logging
from collections.abc import Callable, Mapping

from orca_ray.errors import unknown_name
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.execution.conductor import Conductor, checkpoint_directory
from orca_ray.sweep.execution.events import Event, Listener, Message, Summary, SweepFinished, SweepStarted
from orca_ray.sweep.execution.executors.base import Executor
from orca_ray.sweep.planning.plan import fingerprints
from orca_ray.sweep.planning.searches import SearchPlan, plan_searches, refuse_unplaceable
from orca_ray.sweep.planning.spec import SweepSpec

logger = logging.getLogger(__name__)


def _inline() -> Executor:
    from orca_ray.sweep.execution.executors.inline import InlineExecutor

    return InlineExecutor()


def _ray() -> Executor:
    from orca_ray.sweep.execution.executors.ray import RayExecutor

    return RayExecutor()


EXECUTORS: Mapping[str, Callable[[], Executor]] = {"ray": _ray, "inline": _inline}


def make_executor(name: str) -> Executor:
    """Return an executor by name; raise UserError for a misspelt one."""
    if name not in EXECUTORS:
        raise unknown_name("executor", name, EXECUTORS)
    return EXECUTORS[name]()


def run_sweep(
    spec: SweepSpec,
    store: ResultsStore,
    *,
    executor: str = "ray",
    listener: Listener | None = None,
    address: str | None = None,
    retry_failed: bool = False,
    checkpoint_seconds: float = 30.0,
) -> Summary:
    """Run what the store does not hold yet; the same call after an interruption goes on where it stopped.

    Args:
        spec: the sweep.
        store: its results.
        executor: ``ray`` or ``inline``.
        listener: told of everything that happens, in the calling thread.
        address: Ray cluster to join; None joins the one that RAY_ADDRESS names, else starts one here.
        retry_failed: run failed trials again.
        checkpoint_seconds: least time between two checkpoints of a trial.

    Raises:
        UserError: bad data, an unreachable body or cluster, a trial that fits on no node.
    """
    emit = listener or _ignore
    fetch(spec, lambda text: emit(Message(text)))
    known = fingerprints(spec, prepare=True)
    with make_executor(executor) as engine:
        nodes = engine.open(address)
        searches = plan_searches(spec, known, gpus=any(node.gpus > 0 for node in nodes))
        refuse_unplaceable(searches, nodes)
        conductor = Conductor(
            searches, store, executor=executor, costs=_costs(searches), retry_failed=retry_failed, listener=listener
        )
        emit(SweepStarted(spec.sweep_id, executor, engine.where, conductor.rows()))
        interrupted = False
        if not conductor.done:
            interrupted = engine.run(conductor, checkpoint_directory(store), checkpoint_seconds)
    store.compact()
    conductor.tidy()
    summary = conductor.summary(interrupted=interrupted)
    emit(SweepFinished(summary))
    return summary


def fetch(spec: SweepSpec, progress: Callable[[str], None]) -> None:
    """Bring data, bodies and alignment sources into the cache before any worker waits for them."""
    from orca_ray.alignment.source import default_source, fetch_source
    from orca_ray.methods.recipe import get_method
    from orca_ray.models.weights import body_modality, fetch_body
    from orca_ray.tasks.registry import get_task

    bodies = sorted({spec.body(task, method) for task in spec.tasks for method in spec.methods})
    for body in bodies:
        body_modality(body)  # refuses a misspelt name before anything is fetched
    for name in spec.tasks:
        get_task(name).fetch(progress, protocol=spec.protocol)
    for body in bodies:
        fetch_body(body, progress)
    sources = {
        str(spec.settings(task, method).get("align.source") or default_source(spec.body(task, method)))
        for task in spec.tasks
        for method in spec.methods
        if get_method(method).aligns
    }
    for source in sorted(sources):
        fetch_source(source, progress)


def _costs(searches: list[SearchPlan]) -> dict[str, float]:
    """Guess the relative cost of a trial of each task: training samples times tokens times epochs."""
    from orca_ray.tasks.registry import get_task

    costs = {}
    for search in {search.task: search for search in searches}.values():
        data = get_task(search.task).prepare(search.spec.protocol)
        task = get_task(search.task).resolved(data)
        assert task.input_shape is not None
        samples = len(data.train)
        if len(task.input_shape) == 3:
            tokens = (int(search.first["embedder.image_size"]) / 14) ** 2
        else:
            tokens = min(float(search.first["embedder.sequence_length"]), task.input_shape[-1])
        costs[search.task] = samples * tokens * float(search.first["refine.epochs"])
    return costs


def _ignore(event: Event) -> None:
    logger.debug("%s", event)
