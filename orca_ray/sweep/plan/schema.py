"""The schema of sweep files: a Pydantic model for each kind of mapping."""

import math
from collections.abc import Iterable, Sequence
from pkgutil import resolve_name
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

from orca_ray.data.rows import ModalityName
from orca_ray.options import Protocol
from orca_ray.yaml_reader import MAX_INTEGER

MAX_TRIALS = 100_000
"""Largest number of search trials of one (task, method)."""
MAX_PARALLEL = 1_000
MAX_LEVELS = 256
"""Largest number of choices of a dimension, or of levels of a factor."""

Scalar = int | float | str | bool


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    """Return ``bounds``; ValueError if they are no range of finite width."""
    if not bounds[0] < bounds[1]:
        raise ValueError(
            f"the range {list(bounds)} is empty: give [low, high] with low < high"
        )
    if not math.isfinite(bounds[1] - bounds[0]):
        raise ValueError(
            f"the range {list(bounds)} is too wide: give bounds closer to zero"
        )
    return bounds


def _positive(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] <= 0:
        raise ValueError(f"a log_uniform range must be positive, got {list(bounds)}")
    return bounds


def _each_once(values: list[Any]) -> list[Any]:
    """Return ``values``; ValueError if one is repeated."""
    for place, value in enumerate(values):
        if value in values[:place]:
            raise ValueError(f"each value once: {value!r} is repeated")
    return values


Bounds = Annotated[tuple[float, float], AfterValidator(_ordered)]


class Dimension(_Model):
    """The values that a searched hyper-parameter may take.

    Exactly one of the four fields is set.
    """

    log_uniform: Annotated[Bounds, AfterValidator(_positive)] | None = None
    uniform: Bounds | None = None
    integer: tuple[int, int] | None = None
    choice: (
        Annotated[
            list[Scalar],
            Field(min_length=1, max_length=MAX_LEVELS),
            AfterValidator(_each_once),
        ]
        | None
    ) = None

    @model_validator(mode="after")
    def _one_kind(self) -> "Dimension":
        """Raise ValueError unless exactly one kind of dimension is given."""
        given = [
            name for name in type(self).model_fields if getattr(self, name) is not None
        ]
        if len(given) != 1:
            raise ValueError(
                "give exactly one of log_uniform: [low, high], uniform: [low, high],"
                " integer: [low, high], choice: [a, b, ...]; got"
                f" {', '.join(given) or 'none'}"
            )
        if self.integer is not None and self.integer[0] > self.integer[1]:
            raise ValueError(
                f"the range {list(self.integer)} is empty: give [low, high] with low <="
                " high"
            )
        return self

    def distribution(self) -> Any:
        """Return the dimension as an Optuna distribution."""
        from optuna import distributions

        if self.integer is not None:
            return distributions.IntDistribution(*self.integer)
        if self.choice is not None:
            return distributions.CategoricalDistribution(self.choice)
        return distributions.FloatDistribution(
            *self.bounds(), log=self.log_uniform is not None
        )

    def bounds(self) -> tuple[float, float]:
        """Return the lowest and the highest value of a range.

        Raises AssertionError for a ``choice``, which is no range.
        """
        bounds = self.log_uniform or self.uniform or self.integer
        assert bounds is not None, "a choice has no bounds"
        return bounds

    def contains(self, value: Scalar) -> bool:
        """Return whether ``value`` is a choice, or in the range (ends included)."""
        if self.choice is not None:
            return value in self.choice
        low, high = self.bounds()
        return isinstance(value, (int, float)) and low <= value <= high

    def quantile(self, fraction: float) -> Scalar:
        """Return the quantile ``fraction`` of the dimension's random values.

        ``fraction`` is at least 0 and below 1.
        """
        if self.choice is not None:
            return self.choice[int(fraction * len(self.choice))]
        low, high = self.bounds()
        if self.integer is not None:
            return min(int(low + fraction * (high - low + 1)), self.integer[1])
        if self.log_uniform is not None:
            value = math.exp(
                math.log(low) + fraction * (math.log(high) - math.log(low))
            )
        else:
            value = low + fraction * (high - low)
        return min(max(value, low), high)  # rounding may leave the range

    def describe(self) -> str:
        """Return the dimension as text for messages, e.g. "uniform [0.0, 0.5]"."""
        [(kind, value)] = self.model_dump(exclude_none=True).items()
        return f"{kind} {list(value)}"


def tidy(value: Scalar) -> Scalar:
    """Return a float rounded to four significant digits, and other values unchanged."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _known(kind: str, *registries: str) -> BeforeValidator:
    """Return a validator that accepts the names in some registries.

    Each of ``registries`` is a function that returns names, written as module:name. A
    function is called only if those before it do not return the name. The last function
    must return all names.
    """

    def check(value: object) -> object:
        if isinstance(value, str) and not any(
            value in resolve_name(registry)() for registry in registries
        ):
            # The message is composed when it is shown: the search for the nearest name
            # takes milliseconds.
            raise PydanticCustomError(
                "unknown_name",
                "unknown {kind}",
                {"kind": kind, "registry": registries[-1]},
            )
        return value

    return BeforeValidator(check)


def _suitable(sources: dict[ModalityName, str]) -> dict[ModalityName, str]:
    """Return ``sources``; UserError if one does not fit its modality."""
    from orca_ray.alignment.registry import check_suitable

    for modality, name in sources.items():
        check_suitable(name, modality)
    return sources


def _distinct(values: list[int]) -> list[int]:
    """Return ``values``, which are seeds; ValueError if one is repeated."""
    if len(set(values)) < len(values):
        raise ValueError(
            "each seed once: two confirm trials of one seed are one trial; got"
            f" {values}"
        )
    return values


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError(
            f"control characters and line breaks are not allowed, got {value!r}"
        )
    return value


Text = Annotated[str, AfterValidator(_printable)]
TaskName = Annotated[
    str,
    _known(
        "task",
        "orca_ray.tasks.registry:all_tasks",
        "orca_ray.tasks.registry:known_tasks",
    ),
]
MethodName = Annotated[str, _known("method", "orca_ray.methods.registry:all_methods")]
MethodChoice = Annotated[
    str, _known("method", "orca_ray.methods.registry:method_choices")
]
Methods = Annotated[list[MethodChoice], AfterValidator(_each_once)]
HyperparameterName = Annotated[
    str, _known("hyper-parameter", "orca_ray.methods.registry:hyperparameter_types")
]
SourceName = Annotated[
    str, _known("source", "orca_ray.alignment.registry:source_names")
]
Settings = dict[HyperparameterName, Scalar]
Space = dict[HyperparameterName, Dimension]
_LevelCount = Field(min_length=1, max_length=MAX_LEVELS)
# Pydantic adds a tag to the location of an error; `loading` drops those with brackets.
Levels = Annotated[
    Annotated[list[Scalar], _LevelCount, Tag("[values]")]
    | Annotated[dict[Text, Settings], _LevelCount, Tag("[levels]")],
    Discriminator(lambda value: "[levels]" if isinstance(value, dict) else "[values]"),
]
"""Levels of a factor.

If the factor is a hyper-parameter, they are a list of its values. Otherwise, they are a
mapping from the names of levels to settings.
"""
GridBlock = Annotated[dict[Text, Levels], Field(min_length=1)]
"""One block of a grid: factors, all of whose levels are combined."""
GridSpec = Annotated[
    Annotated[GridBlock, Tag("[block]")]
    | Annotated[list[GridBlock], Field(min_length=1), Tag("[blocks]")],
    Discriminator(lambda value: "[blocks]" if isinstance(value, list) else "[block]"),
]
Seed = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
NumTrials = Annotated[int, Field(ge=0, le=MAX_TRIALS)]
NumSteps = Annotated[int, Field(ge=1, le=MAX_INTEGER)]


def _whole_above_one(gpus: float) -> float:
    """Return ``gpus``; ValueError for a number above 1 that is not whole."""
    if gpus > 1 and not float(gpus).is_integer():
        raise ValueError(
            "a trial trains on whole GPUs or on a part of one: give e.g. 2, 1 or 0.5;"
            f" got {gpus:g}"
        )
    return gpus


class ResourceRequest(_Model):
    """Resources that one trial requests.

    ``gpus`` is ignored if no node of the cluster has a GPU. With several GPUs, each GPU
    computes a part of every batch (docs/decisions/0019-several-gpus.md). A share of a
    GPU is the least that a trial gets, and ``cpus`` of a trial on a GPU are the most:
    they change where GPUs would idle (docs/decisions/0033-no-idle-gpu.md).
    """

    cpus: Annotated[float, Field(gt=0)] = 1.0
    gpus: Annotated[float, Field(ge=0), AfterValidator(_whole_above_one)] = 1.0
    memory_gib: Annotated[float, Field(ge=0)] = 0.0


class SuccessiveHalving(_Model):
    """Early stopping by successive halving.

    At certain epochs (rungs), only the best ``1 / eta`` of the trials continue. As in
    ASHA (Li et al., 2020, "A System for Massively Parallel Hyperparameter Tuning"), a
    trial never waits for others: it is compared with all trials of its search that have
    reached the rung so far. Decisions therefore depend on timing. In a deterministic
    sweep, a trial is compared only with the trials of earlier generations
    (docs/decisions/0015-journal.md).
    """

    eta: Annotated[float, Field(ge=1.01)] = 2.0
    """Reduction factor.

    A trial continues if it is among the best ceil(n / eta) of n trials at a rung.
    """
    min_epochs: Annotated[int, Field(ge=1)] = 2
    """Epoch of the first rung.

    Each further rung is at ``eta`` times the epoch of the rung before it.
    """

    def rungs(self, epochs: int) -> list[int]:
        """Return the epochs of all rungs before the last epoch, ascending.

        An example is [2, 4, 8] for 10 ``epochs``.
        """
        rungs = []
        epoch = float(self.min_epochs)
        while math.ceil(epoch) < epochs:
            rungs.append(math.ceil(epoch))
            epoch *= self.eta
        return sorted(set(rungs))

    def stops(
        self, scores: Sequence[float], epochs: int, rivals: Iterable[Sequence[float]]
    ) -> bool:
        """Return whether a trial must stop now.

        It never stops at an epoch that is not a rung.

        Args:
            scores: validation scores of the trial, one per epoch so far; lower is
                better. The lowest is compared.
            epochs: number of epochs of the whole trial.
            rivals: validation scores of each other trial; trials that have not reached
                this rung are ignored.
        """
        epoch = len(scores)
        if epoch not in self.rungs(epochs):
            return False
        bests = [min(rival[:epoch]) for rival in rivals if len(rival) >= epoch]
        rank = 1 + sum(best < min(scores) for best in bests)
        # One trial in ``eta`` continues, counting this one.
        return rank > math.ceil((len(bests) + 1) / self.eta)


class Layer(_Model):
    """Values that a sweep file sets for some of its trials.

    `SweepSpec.layers` defines which layers take precedence.
    """

    settings: Settings = {}
    space: Space = {}
    body: Text | None = None
    resources: ResourceRequest | None = None
    search_trials: NumTrials | None = None
    steps: NumSteps | None = None
    """Number of optimiser steps of the refine stage; it sets ``refine.epochs``.

    Each trial has the least number of epochs that makes at least so many steps, by its
    task's declared samples. Methods that train without optimiser steps ignore it. Of
    ``steps`` and ``refine.epochs``, the one in the layer of higher precedence counts.
    """


class TaskLayer(Layer):
    """Values for the trials of one task, or of one method on it."""

    per_method: dict[MethodName, Layer] = {}


class Budget(_Model):
    """Numbers of trials and seeds that a sweep runs.

    Usual names of budgets are ``quick`` (a first look) and ``full`` (a leaderboard).
    """

    search_trials: NumTrials = 0
    """Number of search trials per (task, method).

    With 0, there is no search, and confirm trials run the first configuration.
    """
    confirm_seeds: Annotated[
        list[Seed], Field(min_length=1), AfterValidator(_distinct)
    ] = [1, 2, 3]
    """Seeds of confirm trials, which rerun the best configuration and score it on test.

    `SweepFile.seed` is not allowed.
    """
    methods: Methods | None = None
    settings: Settings = {}
    steps: NumSteps | None = None
    """Number of optimiser steps of each trial; see `Layer.steps`."""
    tasks: dict[TaskName, Layer] = {}


class SweepFile(_Model):
    """The content of a sweep file; the fields are its top-level keys."""

    extends: str | None = None
    """Sweep file with the values that are not set in this file.

    It is the name of a shipped sweep, or a path relative to this file.
    """
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    benchmark: Text
    protocol: Protocol = Protocol.HELD_OUT
    methods: Annotated[Methods, Field(min_length=1)]
    """Names of methods.

    ``field`` stands for all methods whose `Recipe.variant` is False.
    """
    baselines: Methods = []
    """Names of methods that run after ``methods``.

    A baseline runs only on the tasks that it can adapt to.
    """
    tasks: Literal["all"] | Annotated[list[TaskName], Field(min_length=1)] = "all"
    bodies: dict[ModalityName, Text] = {}
    """Body by modality of the task (``sequence`` or ``image``).

    It replaces the default body of the task.
    """
    sources: Annotated[dict[ModalityName, SourceName], AfterValidator(_suitable)] = {}
    """Alignment source by modality of the body, used where ``align.source`` is empty.

    It replaces the default source.
    """
    resources: ResourceRequest = ResourceRequest()
    seed: Seed = 0
    """Seed of all search trials, and of the samplers that suggest hyper-parameters."""
    parallel: Annotated[int, Field(ge=1, le=MAX_PARALLEL)] | None = None
    """Largest number of search trials of one (task, method) that run at the same time.

    None: as many as the cluster has room for. In a deterministic sweep, it is the
    number of trials that are suggested together (None: 1). The next trials are
    suggested when all of these have ended.
    """
    order: Literal["longest", "tasks"] = "longest"
    """Which trials start first.

    ``longest``: the trials of the longest search, so that no worker is idle at the end.
    ``tasks``: the trials of one task after another, in the order of ``tasks``, so that
    a leaderboard soon has whole rows.
    """
    deterministic: bool = False
    """Whether a trial gives the same scores on every run, on CPUs bit for bit.

    A deterministic trial uses one thread, reproducible kernels and full precision, and
    is slower.
    """
    early_stopping: SuccessiveHalving | None = SuccessiveHalving()
    steps: NumSteps | None = None
    """Number of optimiser steps of each trial; see `Layer.steps`."""
    settings: Settings = {}
    """Hyper-parameters of all trials.

    The value of a hyper-parameter in ``space`` is only that of the first search trial.
    """
    published: bool = False
    """Whether each task's published configuration overrides ``settings``.

    See `orca_ray.sweep.plan.spec`. The values that the file sets for a method, a task
    or a budget override it in turn.
    """
    space: Space = {}
    grid: GridSpec | None = None
    """Factors whose levels are all combined instead of a search.

    Each (task, method) runs all cells with all confirm seeds. The values of a cell
    override all other settings. A list has several blocks of factors. Equal cells run
    once.
    """
    per_task: dict[TaskName, TaskLayer] = {}
    per_method: dict[MethodName, Layer] = {}
    budgets: Annotated[dict[Text, Budget], Field(min_length=1)] = {"full": Budget()}
    default_budget: Text = "full"
