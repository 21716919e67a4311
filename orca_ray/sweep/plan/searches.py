"""Plans of searches. There is one search for each (task, method)."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from orca_ray.data.prepared import PreparedData
from orca_ray.methods.recipe import Recipe
from orca_ray.methods.registry import get_method
from orca_ray.models.modality import Modality, modality_of
from orca_ray.models.names import BodyInfo, listed_body
from orca_ray.process import NodeResources
from orca_ray.sweep.plan.grid import cell_values
from orca_ray.sweep.plan.schema import Dimension, Scalar
from orca_ray.sweep.plan.spec import SweepSpec
from orca_ray.sweep.plan.trial_spec import Phase, Resources, TrialSpec, canonical_json
from orca_ray.tasks.registry import get_task
from orca_ray.tasks.task import Task


@dataclass(frozen=True)
class SearchPlan:
    """Plan of one (task, method): its trials, their resources and hyper-parameters."""

    spec: SweepSpec
    task: str
    method: str
    body: str
    fingerprint: str
    """Fingerprint of the task's data; "" if it is not known yet."""
    first: Mapping[str, Scalar]
    """Hyper-parameters of the first trial."""
    resources: Resources
    """Resources of each trial."""
    num_search: int
    """Number of search trials."""
    confirm_seeds: tuple[int, ...]
    source: str = ""
    """Alignment source of the trials whose ``align.source`` is empty.

    See `requirements.with_sources`.
    """
    replaced_source: str = ""
    """Name of the paper's alignment source if ``source`` replaces it; else ""."""
    cells: tuple[Mapping[str, Scalar], ...] = ()
    """Hyper-parameters of each distinct cell of the sweep's grid; () without a grid."""

    @property
    def declaration(self) -> Task:
        """Declaration of the task."""
        return get_task(self.task)

    @property
    def data(self) -> PreparedData | None:
        """Prepared data of the task; None if they are not on this machine."""
        return self.declaration.prepared(self.spec.protocol)

    @property
    def recipe(self) -> Recipe:
        """Recipe of the method."""
        return get_method(self.method)

    @property
    def body_info(self) -> BodyInfo | None:
        """Listed facts about the body; None for a body that is not listed."""
        return listed_body(self.body)

    @property
    def modality(self) -> Modality:
        """Modality of the body or, if the body is not listed, of the task."""
        return modality_of(self.body, self.declaration.modality)

    @cached_property
    def configurations(self) -> tuple[Mapping[str, Scalar], ...]:
        """Hyper-parameters of each cell of the grid.

        Without a grid, the first configuration is the only one.
        """
        return _distinct(map(self._with_source, self.cells or (self.first,)))

    @cached_property
    def space(self) -> Mapping[str, Dimension]:
        """Search space of the method, by hyper-parameter."""
        space = self.spec.space(self.task, self.method)
        return {
            name: dimension for name, dimension in space.items() if name in self.first
        }

    @property
    def num_confirm(self) -> int:
        """Number of planned confirm trials."""
        return len(self.configurations) * len(self.confirm_seeds)

    @property
    def num_trials(self) -> int:
        """Number of planned trials, search and confirm."""
        return self.num_search + self.num_confirm

    @property
    def most_at_once(self) -> float:
        """Largest number of trials that may run at the same time.

        It is infinite if the sweep sets no limit.
        """
        parallel = self.spec.file.parallel
        is_limited = parallel is not None or self.spec.deterministic
        if not self.num_search or not is_limited:
            return math.inf
        return max(parallel or 1, self.num_confirm)

    @cached_property
    def usual_trial(self) -> TrialSpec:
        """A trial of the first configuration, which stands for most trials."""
        return self.trial({}, 0, "search")

    def trial(self, values: Mapping[str, Scalar], seed: int, phase: Phase) -> TrialSpec:
        """Return a trial, whose ``values`` replace those of the first configuration."""
        hyperparameters = self._with_source({**self.first, **values})
        uses_source = hyperparameters.get("align.source") == self.source
        return TrialSpec(
            task=self.task,
            method=self.method,
            body=self.body,
            hyperparameters=hyperparameters,
            seed=seed,
            protocol=self.spec.protocol,
            data_fingerprint=self.fingerprint,
            phase=phase,
            resources=self.resources,
            epochs=num_epochs(hyperparameters),
            deterministic=self.spec.deterministic,
            replaced_source=self.replaced_source if uses_source else "",
        )

    def _with_source(self, values: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
        """Return ``values`` with the plan's alignment source if theirs is empty."""
        if values.get("align.source") == "":
            return {**values, "align.source": self.source}
        return values


def num_epochs(hyperparameters: Mapping[str, Scalar]) -> int:
    """Return the number of refine epochs.

    It is 1 for a method without this option, which fits in closed form.
    """
    return int(hyperparameters.get("refine.epochs", 1))


def _distinct(
    configurations: Iterable[Mapping[str, Scalar]],
) -> tuple[Mapping[str, Scalar], ...]:
    by_text = {canonical_json(dict(values)): values for values in configurations}
    return tuple(by_text.values())


def plan_searches(
    spec: SweepSpec, fingerprints: Mapping[str, str] | None = None, *, gpus: bool
) -> list[SearchPlan]:
    """Return one plan for each (task, method) of a sweep.

    Args:
        spec: the sweep.
        fingerprints: fingerprint of each task's data; None: not known yet.
        gpus: whether any node has a GPU. If not, trials request no GPUs, even if the
            sweep file does.
    """
    plans = []
    for task, method in spec.pairs:
        request = spec.resources(task, method)
        resources = Resources(
            request.cpus, request.gpus if gpus else 0.0, request.memory_gib
        )
        plan = SearchPlan(
            spec=spec,
            task=task,
            method=method,
            body=spec.body(task, method),
            fingerprint="" if fingerprints is None else fingerprints[task],
            first=spec.hyperparameters(task, method),
            resources=resources,
            num_search=spec.search_trials(task, method),
            confirm_seeds=spec.confirm_seeds,
            cells=_distinct(cell_values(spec, task, method)),
        )
        plans.append(plan)
    return plans


def placement_problem(
    resources: Resources, nodes: Sequence[NodeResources]
) -> str | None:
    """Return a sentence on why no node has the resources of a trial.

    Returns None if a node has them.
    """
    if any(map(resources.slots_on, nodes)):
        return None
    wanted = (
        f"{resources.cpus:g} CPUs, {resources.gpus:g} GPUs,"
        f" {resources.memory_gib:g} GiB"
    )
    sizes = [
        f"{node.name}: {node.cpus:g} CPUs, {node.gpus:g} GPUs,"
        f" {node.memory_gib:.1f} GiB"
        for node in nodes
    ]
    return (
        f"a trial asks for {wanted}, more than any node has"
        f" ({', '.join(sizes) or 'none'}): lower resources in the sweep file"
    )
