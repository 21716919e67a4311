"""The plan that ``orca-sweep plan`` prints; fetch data, bodies (pretrained models) and alignment sources."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from orca_ray.alignment.registry import get_source
from orca_ray.data import cache
from orca_ray.data.bodies import ModalityName
from orca_ray.data.packages import is_cached
from orca_ray.data.prepared import PAPER
from orca_ray.errors import UserError
from orca_ray.models.modality import get_modality, modality_of
from orca_ray.models.names import PACKAGED, parse_body_name
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.execution.executors.base import this_node
from orca_ray.sweep.planning.cost import TaskCost, cpu_rate, gpu_rate, task_costs
from orca_ray.sweep.planning.searches import NodeResources, SearchPlan, placement_problem, plan_searches
from orca_ray.sweep.planning.spec import SweepSpec
from orca_ray.sweep.search import Search
from orca_ray.tasks.registry import get_task


@dataclass(frozen=True)
class PlanRow:
    """One (task, method) of a plan: trials in total and already finished; resources of each trial."""

    task: str
    method: str
    body: str
    search_trials: int
    confirm_trials: int
    finished: int
    epochs: int
    """Refine epochs of a trial; of the longest one in a grid."""
    cpus: float
    gpus: float
    memory_gib: float
    problem: str | None = None
    """Why no node can run these trials; None if one can."""


@dataclass(frozen=True)
class Absent:
    """Bodies or alignment sources (``what`` says which) that a sweep needs and that are not on this machine."""

    what: str
    names: tuple[str, ...]
    command: str
    """Shell command that fetches all ``names``."""


@dataclass(frozen=True)
class Plan:
    """The trials of a sweep, their estimated cost, and what is missing to run them."""

    sweep: str
    protocol: str
    deterministic: bool
    rows: tuple[PlanRow, ...]
    nodes: tuple[NodeResources, ...]
    gpu: str
    """Device for which ``costs`` estimates GPU hours."""
    cpu: str
    """Device for which ``costs`` estimates CPU hours; "" if a node has a GPU (no CPU hours then)."""
    costs: tuple[TaskCost, ...]
    """Estimated cost of each task; trials that have already finished are included."""
    absent: tuple[Absent, ...]
    """Bodies and alignment sources that are not on this machine."""

    @property
    def num_trials(self) -> int:
        """Number of planned trials, search and confirm, including those that have finished."""
        return sum(row.search_trials + row.confirm_trials for row in self.rows)

    @property
    def num_finished(self) -> int:
        """Number of trials that have a record in the results store."""
        return sum(row.finished for row in self.rows)

    @property
    def problems(self) -> list[str]:
        """Distinct reasons why trials fit on no node; each names the first (task, method) and the number of others."""
        reasons: dict[str, list[str]] = {}
        for row in self.rows:
            if row.problem:
                reasons.setdefault(row.problem, []).append(f"{row.task} {row.method}")
        more = {reason: f" and {len(names) - 1} more" if len(names) > 1 else "" for reason, names in reasons.items()}
        return [f"{names[0]}{more[reason]}: {reason}" for reason, names in reasons.items()]


def build_plan(spec: SweepSpec, store: ResultsStore | None, nodes: list[NodeResources] | None = None) -> Plan:
    """Plan a sweep without running, downloading or writing anything.

    Trials with a record in ``store`` count as finished (None: none has one). ``nodes`` are those of the cluster (None:
    this machine alone).

    Raises:
        UserError: the sweep has no task or no method, or a body in a local directory cannot be read.
    """
    nodes = [this_node()] if nodes is None else nodes
    has_gpu = any(node.gpus > 0 for node in nodes)
    searches = plan_searches(spec, fingerprints(spec), gpus=has_gpu)
    if not searches:
        raise UserError("nothing to plan: the sweep has no task or no method")
    check_bodies(searches, local=True)
    existing = store.load(spec.sweep_id) if store else {}
    rows = [
        PlanRow(
            plan.task, plan.method, plan.body, plan.num_search, plan.num_confirm,
            Search(plan, existing, {}).num_finished, max(int(each["refine.epochs"]) for each in plan.configurations),
            plan.resources.cpus, plan.resources.gpus, plan.resources.memory_gib,
            placement_problem(plan.resources, nodes),
        )
        for plan in searches
    ]  # fmt: skip
    gpu, cpu = gpu_rate(), None if has_gpu else cpu_rate()
    return Plan(
        sweep=spec.sweep_id, protocol=spec.protocol, deterministic=spec.deterministic, rows=tuple(rows),
        nodes=tuple(nodes), gpu=gpu.device, cpu=cpu.device if cpu else "",
        costs=tuple(task_costs(searches, gpu, cpu)), absent=tuple(absent(searches)),
    )  # fmt: skip


def fingerprints(spec: SweepSpec, *, prepare: bool = False) -> dict[str, str]:
    """Return the data fingerprint (a hash of the prepared arrays) of each task of a sweep.

    With ``prepare``, the data are prepared first. Without it, the fingerprint is the one that the task declares, else
    that of data prepared earlier, else "". With "" no trial of the task has run, since trials prepare their data.
    """
    known = {}
    for name in spec.tasks:
        task = get_task(name)
        declared = None if task.paper_splits and spec.protocol == PAPER else task.fingerprint
        found = task.prepare(spec.protocol) if prepare else None if declared else task.prepared(spec.protocol)
        known[name] = found.fingerprint if found is not None else declared or ""
    return known


def fetch(searches: Sequence[SearchPlan], progress: Callable[[str], None]) -> None:
    """Fetch the data, bodies and alignment sources of ``searches`` into the cache, before any trial starts.

    ``progress`` is called with one line of text per message.

    Raises:
        UserError: a download fails, or a body cannot be read.
    """
    from orca_ray.models.packaged import fetch_body

    check_bodies(searches)
    modalities = {body: _modality(body) for body in sorted({search.body for search in searches})}
    for task, protocol in dict.fromkeys((search.task, search.spec.protocol) for search in searches):
        get_task(task).fetch(progress, protocol=protocol)
    for body in modalities:
        fetch_body(body, progress)
    for source in sorted({source for search in searches for source in _sources(search, modalities[search.body])}):
        get_source(source).fetch(progress)


def check_bodies(searches: Sequence[SearchPlan], *, local: bool = False) -> None:
    """Raise UserError if a body of ``searches`` cannot be read; otherwise every trial would fail after the downloads.

    With ``local``, only bodies in local directories are checked, and nothing is requested from a model hub.
    """
    from orca_ray.methods.recipe import get_method

    pretrained = {search.body for search in searches if get_method(search.method).pretrained}
    for body in sorted({search.body for search in searches}):
        base, _ = parse_body_name(body)
        if base not in PACKAGED and (not local or Path(base).is_dir()):
            from orca_ray.models.weights import check_body  # it imports torch, which packaged bodies do not need here

            check_body(body, pretrained=body in pretrained)


def absent(searches: Sequence[SearchPlan]) -> list[Absent]:
    """Return bodies and alignment sources of ``searches`` that are not on this machine; no model hub is contacted."""
    bodies = sorted({parse_body_name(search.body)[0] for search in searches})
    sources = sorted(
        {
            source
            for search in searches
            for source in _sources(search, modality_of(search.body, get_task(search.task).kind).name)
        }
    )
    lacking = (
        ("bodies", [name for name in bodies if not _has_body(name)], "orca-sweep bodies --fetch"),
        ("alignment sources", [name for name in sources if not get_source(name).present()], "orca-sweep data fetch"),
    )
    return [Absent(what, tuple(names), " ".join((command, *names))) for what, names, command in lacking if names]


def _modality(body: str) -> ModalityName:
    if packaged := PACKAGED.get(parse_body_name(body)[0]):
        return packaged.modality
    from orca_ray.models.weights import body_modality

    return body_modality(body)


def _sources(search: SearchPlan, modality: ModalityName) -> set[str]:
    """Return the names of the alignment sources of a search; empty if its method does not align."""
    default = get_modality(modality).default_source
    return {str(each["align.source"]) or default for each in search.configurations if "align.source" in each}


def _has_body(name: str) -> bool:
    """Return whether a body's weights are on this machine; True for every timm model, whose files only timm knows."""
    if name in PACKAGED:
        return (cache.home() / "bodies" / name).is_dir() or all(is_cached(each) for each in PACKAGED[name].packages)
    if name.startswith("timm:") or Path(name).is_dir():
        return True
    from orca_ray.models.hugging_face import WEIGHT_FILES, local_file

    return any(local_file(name, file) for file in WEIGHT_FILES)
