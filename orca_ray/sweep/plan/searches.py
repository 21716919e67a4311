"""The plan of each search, i.e. of each (task, method), and where its trials fit."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from orca_ray.process import NodeResources
from orca_ray.sweep.plan.grid import cell_values
from orca_ray.sweep.plan.schema import Dimension, Scalar
from orca_ray.sweep.plan.spec import SweepSpec
from orca_ray.sweep.plan.trial_spec import Phase, Resources, TrialSpec, canonical_json


@dataclass(frozen=True)
class SearchPlan:
    """Plan of one (task, method): hyper-parameters of the first trial, resources of
    each trial, number of trials.
    """

    spec: SweepSpec
    task: str
    method: str
    body: str
    fingerprint: str
    first: Mapping[str, Scalar]
    resources: Resources
    num_search: int
    confirm_seeds: tuple[int, ...]
    source: str = ""
    """Alignment source of the trials whose ``align.source`` is empty; see
    `plan.with_sources`.
    """
    replaced_source: str = ""
    """Name of the paper's alignment source if ``source`` replaces it; else ""."""
    cells: tuple[Mapping[str, Scalar], ...] = ()
    """Hyper-parameters of each distinct cell of the sweep's grid; empty without a grid.
    """

    @cached_property
    def configurations(self) -> tuple[Mapping[str, Scalar], ...]:
        """Hyper-parameters of each cell of the grid; without a grid, those of the first
        configuration alone.
        """
        return _distinct(map(self._named, self.cells or (self.first,)))

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
        """Largest number of trials that may run at the same time; infinity if the sweep
        sets no limit.
        """
        if not self.num_search or (
            self.spec.file.parallel is None and not self.spec.deterministic
        ):
            return math.inf
        return max(self.spec.file.parallel or 1, self.num_confirm)

    @cached_property
    def usual_trial(self) -> TrialSpec:
        """A trial of the first configuration, with the resources that most trials have."""
        return self.trial({}, 0, "search")

    def trial(self, values: Mapping[str, Scalar], seed: int, phase: Phase) -> TrialSpec:
        """Build a trial: the hyper-parameters in ``values`` replace those of the first
        configuration.
        """
        hyperparameters = self._named({**self.first, **values})
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
            replaced_source=(
                self.replaced_source
                if hyperparameters.get("align.source") == self.source
                else ""
            ),
        )

    def _named(self, values: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
        return (
            {**values, "align.source": self.source}
            if values.get("align.source") == ""
            else values
        )


def num_epochs(hyperparameters: Mapping[str, Scalar]) -> int:
    """Return the number of refine epochs; 1 for a method without this option, which
    fits in closed form.
    """
    return int(hyperparameters.get("refine.epochs", 1))


def _distinct(
    configurations: Iterable[Mapping[str, Scalar]],
) -> tuple[Mapping[str, Scalar], ...]:
    return tuple({canonical_json(dict(each)): each for each in configurations}.values())


def plan_searches(
    spec: SweepSpec, fingerprints: Mapping[str, str], *, gpus: bool
) -> list[SearchPlan]:
    """Return one plan for each (task, method) of a sweep, given the data fingerprint of
    each task.

    ``gpus``: whether any node has a GPU; if not, trials request none, whatever the
    sweep file says.
    """

    def plan(task: str, method: str) -> SearchPlan:
        request = spec.resources(task, method)
        return SearchPlan(
            spec=spec,
            task=task,
            method=method,
            body=spec.body(task, method),
            fingerprint=fingerprints[task],
            first=spec.hyperparameters(task, method),
            resources=Resources(
                request.cpus, request.gpus if gpus else 0.0, request.memory_gib
            ),
            num_search=spec.search_trials(task, method),
            confirm_seeds=spec.confirm_seeds,
            cells=_distinct(cell_values(spec, task, method)),
        )

    return [plan(task, method) for task, method in spec.pairs]


def placement_problem(
    resources: Resources, nodes: Sequence[NodeResources]
) -> str | None:
    """Return a sentence that says why no node has the resources of a trial; None if
    some node has them.
    """
    wanted = (
        f"{resources.cpus:g} CPUs, {resources.gpus:g} GPUs,"
        f" {resources.memory_gib:g} GiB"
    )
    if any(map(resources.slots_on, nodes)):
        return None
    largest = (
        ", ".join(
            f"{n.name}: {n.cpus:g} CPUs, {n.gpus:g} GPUs, {n.memory_gib:.1f} GiB"
            for n in nodes
        )
        or "none"
    )
    return (
        f"a trial asks for {wanted}, more than any node has ({largest}): lower"
        " resources in the sweep file"
    )
