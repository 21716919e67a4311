"""The plan of a sweep that ``orca-sweep plan`` prints."""

from dataclasses import dataclass

from orca_ray.errors import UserError
from orca_ray.process import NodeResources, this_node
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.plan.cost import TaskCost, core_rate, gpu_rate, task_costs
from orca_ray.sweep.plan.requirements import (
    Absent,
    absent,
    check_bodies,
    with_fingerprints,
    with_sources,
)
from orca_ray.sweep.plan.searches import num_epochs, placement_problem, plan_searches
from orca_ray.sweep.plan.spec import SweepSpec
from orca_ray.sweep.run.placement import GpuRequest, Placement
from orca_ray.sweep.search import History, Search


@dataclass(frozen=True)
class PlanRow:
    """Row of a plan, for one (task, method): its trials and their resources."""

    task: str
    method: str
    body: str
    search_trials: int
    confirm_trials: int
    finished: int
    epochs: int
    """Refine epochs of a trial; in a grid, those of the longest trial."""
    cpus: float
    gpus: float
    memory_gib: float
    problem: str | None = None
    """Why no node can run these trials; None if a node can."""


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
    """Device for which ``costs`` estimates CPU hours.

    "" if a node has a GPU: there are no CPU hours then.
    """
    costs: tuple[TaskCost, ...]
    """Estimated cost of each task; trials that have already finished are included."""
    feeding: str
    """Sentence on how many GPUs the nodes' CPUs keep busy; "" without a GPU."""
    absent: tuple[Absent, ...]
    """Bodies and alignment sources that are not on this machine."""

    @property
    def num_trials(self) -> int:
        """Number of planned trials, search and confirm, finished or not."""
        return sum(row.search_trials + row.confirm_trials for row in self.rows)

    @property
    def num_finished(self) -> int:
        """Number of trials that have a record in the results store."""
        return sum(row.finished for row in self.rows)

    @property
    def problems(self) -> list[str]:
        """Sentences, one for each reason why trials fit on no node.

        An example is "pocket/digits orca and 3 more: REASON".
        """
        pairs_by_reason: dict[str, list[str]] = {}
        for row in self.rows:
            if row.problem:
                pairs = pairs_by_reason.setdefault(row.problem, [])
                pairs.append(f"{row.task} {row.method}")
        sentences = []
        for reason, pairs in pairs_by_reason.items():
            more = f" and {len(pairs) - 1} more" if len(pairs) > 1 else ""
            sentences.append(f"{pairs[0]}{more}: {reason}")
        return sentences


def build_plan(
    spec: SweepSpec,
    store: ResultsStore | None,
    nodes: list[NodeResources] | None = None,
) -> Plan:
    """Plan a sweep without running, downloading or writing anything.

    Trials with a record in ``store`` count as finished; None: there are no records.
    ``nodes`` are those of the cluster; None: this machine alone. Raises UserError if
    the sweep has no task or no method, or if a local body cannot be read.
    """
    nodes = [this_node()] if nodes is None else nodes
    has_gpu = any(node.gpus > 0 for node in nodes)
    searches = with_fingerprints(plan_searches(spec, gpus=has_gpu))
    if not searches:
        raise UserError("nothing to plan: the sweep has no task or no method")
    check_bodies(searches, local=True)
    searches = with_sources(searches)
    history = History.read(store, spec) if store else History()
    rows = []
    for search in searches:
        row = PlanRow(
            task=search.task,
            method=search.method,
            body=search.body,
            search_trials=search.num_search,
            confirm_trials=search.num_confirm,
            finished=Search(search, history).num_finished,
            epochs=max(map(num_epochs, search.configurations)),
            cpus=search.resources.cpus,
            gpus=search.resources.gpus,
            memory_gib=search.resources.memory_gib,
            problem=placement_problem(search.resources, nodes),
        )
        rows.append(row)
    requests = {
        (search.task, search.method): GpuRequest(search.resources.gpus)
        for search in searches
    }
    placement = Placement(lambda: nodes, requests)
    gpu = gpu_rate()
    cpu = None if has_gpu else core_rate()
    return Plan(
        sweep=spec.sweep_id,
        protocol=spec.protocol,
        deterministic=spec.deterministic,
        rows=tuple(rows),
        nodes=tuple(nodes),
        gpu=gpu.device,
        cpu=cpu.device if cpu else "",
        costs=tuple(task_costs(searches, gpu, cpu)),
        feeding=placement.feeding(search.usual_trial for search in searches),
        absent=tuple(absent(searches)),
    )
