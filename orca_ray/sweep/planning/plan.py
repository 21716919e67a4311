"""What a sweep would run, on what, and what stands in its way: the answer to ``orca-sweep plan``."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from orca_ray.data.protocol import PAPER
from orca_ray.errors import UserError
from orca_ray.results.record import Record
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.planning.assets import Absent, absent
from orca_ray.sweep.planning.cost import TaskCost, cpu_rate, gpu_rate, task_costs
from orca_ray.sweep.planning.searches import NodeResources, SearchPlan, placement_problem, plan_searches
from orca_ray.sweep.planning.spec import SweepSpec
from orca_ray.sweep.search.search import Search


@dataclass(frozen=True)
class PlanRow:
    """One line of a printed plan."""

    task: str
    method: str
    body: str
    search_trials: int
    confirm_trials: int
    finished: int
    epochs: int
    cpus: float
    gpus: float
    memory_gib: float
    problem: str | None = None


@dataclass(frozen=True)
class Plan:
    """What a sweep would run."""

    sweep: str
    protocol: str
    deterministic: bool
    rows: tuple[PlanRow, ...]
    nodes: tuple[NodeResources, ...]
    gpu: str = ""
    """What the GPU hours of `costs` are reckoned for."""
    cpu: str = ""
    """What the CPU hours are reckoned for; "" where a node has a GPU."""
    costs: tuple[TaskCost, ...] = ()
    """Of each task, all of its trials run from nothing."""
    absent: tuple[Absent, ...] = ()
    """Bodies and alignment sources that this machine lacks."""

    @property
    def num_trials(self) -> int:
        """Trials planned."""
        return sum(row.search_trials + row.confirm_trials for row in self.rows)

    @property
    def num_finished(self) -> int:
        """Trials that the store already holds."""
        return sum(row.finished for row in self.rows)

    @property
    def problems(self) -> list[str]:
        """Why trials cannot be placed, one line a reason, naming the first (task, method) that it holds for."""
        reasons: dict[str, list[str]] = {}
        for row in self.rows:
            if row.problem:
                reasons.setdefault(row.problem, []).append(f"{row.task} {row.method}")
        return [
            f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {reason}"
            for reason, names in reasons.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """Return plain containers."""
        return {**asdict(self), "num_trials": self.num_trials, "num_finished": self.num_finished}


def build_plan(spec: SweepSpec, store: ResultsStore | None, nodes: list[NodeResources] | None = None) -> Plan:
    """Plan a sweep without running, fetching or writing anything.

    Fingerprints come from the task declarations, and from prepared data where a task declares none; where there are
    none of these either, none of its trials can have been run.
    """
    if nodes is None:
        from orca_ray.sweep.execution.executors.inline import this_node

        nodes = [this_node()]
    searches = plan_searches(spec, fingerprints(spec), gpus=any(node.gpus > 0 for node in nodes))
    if not searches:
        raise UserError("nothing to plan: the sweep has no task or no method")
    described = describe(searches, nodes, store.load(spec.sweep_id) if store else {})
    gpu, cpu = gpu_rate(), None if any(node.gpus for node in nodes) else cpu_rate()
    return replace(
        described,
        gpu=gpu.device,
        cpu=cpu.device if cpu else "",
        costs=tuple(task_costs(searches, gpu, cpu)),
        absent=tuple(absent(searches)),
    )


def fingerprints(spec: SweepSpec, *, prepare: bool = False) -> dict[str, str]:
    """Return the data fingerprint of each task of a sweep, preparing data where asked; "" where there are none yet."""
    from orca_ray.tasks.registry import get_task

    known = {}
    for name in spec.tasks:
        task = get_task(name)
        declared = None if task.paper_splits and spec.protocol == PAPER else task.fingerprint
        found = task.prepare(spec.protocol) if prepare else None if declared else task.prepared(spec.protocol)
        known[name] = found.fingerprint if found is not None else declared or ""
    return known


def describe(searches: Sequence[SearchPlan], nodes: Sequence[NodeResources], existing: Mapping[str, Record]) -> Plan:
    """Turn planned searches into the rows that ``plan`` prints."""
    rows = []
    for plan in searches:
        search = Search(plan, existing, {})
        rows.append(
            PlanRow(
                plan.task, plan.method, plan.body, plan.num_search, len(plan.confirm_seeds), search.num_finished,
                int(plan.first["refine.epochs"]), plan.resources.cpus, plan.resources.gpus, plan.resources.memory_gib,
                placement_problem(plan.resources, nodes),
            )
        )  # fmt: skip
    spec = searches[0].spec
    return Plan(spec.sweep_id, spec.protocol, spec.deterministic, tuple(rows), tuple(nodes))
