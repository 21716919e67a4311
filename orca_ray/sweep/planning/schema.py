"""The schema of sweep files: one class per block of the YAML."""

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from orca_ray.data.bodies import ModalityName
from orca_ray.protocol import Protocol
from orca_ray.sweep.planning.space import Dimension, Scalar
from orca_ray.sweep.planning.yaml_reader import MAX_INTEGER
from orca_ray.sweep.search.stopping import SuccessiveHalving

MAX_TRIALS = 100_000
"""Most search trials of one (task, method)."""
MAX_PARALLEL = 1_000


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _known(kind: str, registry: str) -> BeforeValidator:
    """Return a validator that refuses unknown names; ``registry`` is imported at the first check."""

    def check(value: object) -> object:
        allowed: Mapping[str, object] = resolve_name(registry)()
        if isinstance(value, str) and value not in allowed:
            # The message is composed when it is shown: the search for the nearest name takes milliseconds.
            raise PydanticCustomError("unknown_name", "unknown {kind}", {"kind": kind, "registry": registry})
        return value

    return BeforeValidator(check)


def _distinct(values: list[int]) -> list[int]:
    if len(set(values)) < len(values):
        raise ValueError(f"each seed once: two confirm trials of one seed are one trial; got {values}")
    return values


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError(f"control characters and line breaks are not allowed, got {value!r}")
    return value


Text = Annotated[str, AfterValidator(_printable)]
TaskName = Annotated[str, _known("task", "orca_ray.tasks.registry:all_tasks")]
MethodName = Annotated[str, _known("method", "orca_ray.methods.recipe:all_methods")]
HyperparameterName = Annotated[str, _known("hyper-parameter", "orca_ray.methods.hyperparameters:names")]
Settings = dict[HyperparameterName, Scalar]
Space = dict[HyperparameterName, Dimension]
Seed = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
NumTrials = Annotated[int, Field(ge=0, le=MAX_TRIALS)]


class ResourceRequest(_Model):
    """Resources of one trial; ``gpus`` is ignored where the cluster has none."""

    cpus: Annotated[float, Field(gt=0)] = 1.0
    gpus: Annotated[float, Field(ge=0)] = 1.0
    memory_gib: Annotated[float, Field(ge=0)] = 0.0


class Layer(_Model):
    """Settings of all trials of a task, of a method, or of a task in one budget; stronger layers win."""

    settings: Settings = {}
    space: Space = {}
    body: Text | None = None
    resources: ResourceRequest | None = None
    search_trials: NumTrials | None = None


class Budget(_Model):
    """A number of trials and seeds: ``quick`` to try a sweep out, ``full`` for a leaderboard."""

    search_trials: NumTrials = 0
    """Search trials per (task, method); with 0 the first configuration is confirmed without a search."""
    confirm_seeds: Annotated[list[Seed], Field(min_length=1), AfterValidator(_distinct)] = [1, 2, 3]
    """Seeds of the confirm trials, which are scored on test; the search's own seed is not allowed."""
    methods: list[MethodName] | None = None
    settings: Settings = {}
    tasks: dict[TaskName, Layer] = {}


class SweepFile(_Model):
    """A whole sweep file."""

    extends: str | None = None
    """Shipped sweep, or path relative to this file, that gives the values which this file does not set."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    benchmark: Text
    protocol: Protocol = Protocol.HELD_OUT
    methods: Annotated[list[MethodName], Field(min_length=1)]
    tasks: Literal["all"] | Annotated[list[TaskName], Field(min_length=1)] = "all"
    bodies: dict[ModalityName, Text] = {}
    """Body for 1-D and for 2-D inputs, instead of each task's default."""
    resources: ResourceRequest = ResourceRequest()
    seed: Seed = 0
    """Seed of the search trials and of the samplers."""
    parallel: Annotated[int, Field(ge=1, le=MAX_PARALLEL)] = 1
    """Search trials of one (task, method) that run at the same time."""
    deterministic: bool = False
    """Whether scores must be equal wherever a trial runs, on CPUs bit for bit: one thread, reproducible kernels, full
    precision."""
    early_stopping: SuccessiveHalving | None = SuccessiveHalving()
    settings: Settings = {}
    """Values of hyper-parameters; for searched ones, of the first trial."""
    published: bool = False
    """Whether each task's published configuration (`orca_ray.sweep.planning.published`) is added to ``settings``;
    the file's values for a method, a task or a budget win over it."""
    space: Space = {}
    per_task: dict[TaskName, Layer] = {}
    per_method: dict[MethodName, Layer] = {}
    budgets: Annotated[dict[Text, Budget], Field(min_length=1)] = {"full": Budget()}
    default_budget: Text = "full"
