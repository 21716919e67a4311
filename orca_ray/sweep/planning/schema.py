"""The sweep file as a validated model: one class a block of the YAML."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from orca_ray.errors import unknown_name
from orca_ray.protocol import Protocol
from orca_ray.sweep.planning.space import Dimension, Scalar
from orca_ray.sweep.search.stopping import SuccessiveHalving


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _task_name(value: object) -> object:
    from orca_ray.tasks.registry import all_tasks

    if isinstance(value, str) and value not in all_tasks():
        raise ValueError(str(unknown_name("task", value, all_tasks())))
    return value


def _method_name(value: object) -> object:
    from orca_ray.methods.recipe import all_methods

    if isinstance(value, str) and value not in all_methods():
        raise ValueError(str(unknown_name("method", value, all_methods())))
    return value


def _hyperparameter_name(value: object) -> object:
    from orca_ray.methods.hyperparameters import names

    allowed = names()
    if isinstance(value, str) and value not in allowed:
        raise ValueError(str(unknown_name("hyper-parameter", value, allowed)))
    return value


def _distinct(values: list[int]) -> list[int]:
    if len(set(values)) < len(values):
        raise ValueError(f"each seed once: two confirm trials of one seed are one trial; got {values}")
    return values


TaskName = Annotated[str, BeforeValidator(_task_name)]
MethodName = Annotated[str, BeforeValidator(_method_name)]
HyperparameterName = Annotated[str, BeforeValidator(_hyperparameter_name)]
Settings = dict[HyperparameterName, Scalar]
Space = dict[HyperparameterName, Dimension]
NonNegative = Annotated[int, Field(ge=0)]


class ResourceRequest(_Model):
    """Resources of one trial; ``gpus`` counts only where the cluster has GPUs."""

    cpus: Annotated[float, Field(gt=0)] = 1.0
    gpus: Annotated[float, Field(ge=0)] = 1.0
    memory_gib: Annotated[float, Field(ge=0)] = 0.0


class EarlyStopping(_Model):
    """Successive halving of search trials; see :class:`~orca_ray.sweep.search.stopping.SuccessiveHalving`."""

    eta: Annotated[float, Field(gt=1)] = 2.0
    min_epochs: Annotated[int, Field(ge=1)] = 2

    def rule(self) -> SuccessiveHalving:
        """Return the rule itself."""
        return SuccessiveHalving(self.eta, self.min_epochs)


class Layer(_Model):
    """Settings for some of the trials: all of a task, of a method, or of a budget; later layers win."""

    settings: Settings = {}
    space: Space = {}
    body: str | None = None
    resources: ResourceRequest | None = None
    search_trials: NonNegative | None = None


class Budget(_Model):
    """How much to spend: ``quick`` to see it work, ``full`` for a table."""

    search_trials: NonNegative = 0
    """Search trials a (task, method); 0 confirms the first configuration without a search."""
    confirm_seeds: Annotated[list[NonNegative], Field(min_length=1), AfterValidator(_distinct)] = [1, 2, 3]
    """Seeds of the confirm trials, scored on test; the search's own seed is not among them."""
    methods: list[MethodName] | None = None
    settings: Settings = {}
    tasks: dict[TaskName, Layer] = {}


class SweepFile(_Model):
    """A sweep as written in YAML."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    benchmark: str
    protocol: Protocol = Protocol.HELD_OUT
    methods: Annotated[list[MethodName], Field(min_length=1)]
    tasks: Literal["all"] | Annotated[list[TaskName], Field(min_length=1)] = "all"
    bodies: dict[Literal["sequence", "image"], str] = {}
    """Body for 1-D inputs and for 2-D inputs, in place of each task's default."""
    resources: ResourceRequest = ResourceRequest()
    seed: NonNegative = 0
    """Seed of the search trials and of the samplers."""
    parallel: Annotated[int, Field(ge=1)] = 1
    """Search trials of one (task, method) at the same time."""
    deterministic: bool = False
    """Equal scores wherever a trial runs, on CPUs bit for bit: one thread, reproducible kernels, full precision."""
    early_stopping: EarlyStopping | None = EarlyStopping()
    settings: Settings = {}
    """Values of hyper-parameters; for searched ones, the first trial's."""
    published: bool = False
    """Whether each task's published configuration (`orca_ray.sweep.planning.published`) is added to ``settings``;
    the file's values for a method, a task or a budget win over it."""
    space: Space = {}
    per_task: dict[TaskName, Layer] = {}
    per_method: dict[MethodName, Layer] = {}
    budgets: Annotated[dict[str, Budget], Field(min_length=1)] = {"full": Budget()}
    default_budget: str = "full"
