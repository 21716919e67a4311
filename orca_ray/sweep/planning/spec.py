"""The sweep file: YAML to a validated model, every mistake named with its line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from orca_ray.data.protocol import PAPER
from orca_ray.errors import UserError, nearest, unknown_name
from orca_ray.results.record import PROTOCOLS
from orca_ray.sweep.planning.published import published_settings
from orca_ray.sweep.planning.schema import Budget, EarlyStopping, Layer, ResourceRequest, SweepFile
from orca_ray.sweep.planning.space import Dimension, Scalar
from orca_ray.sweep.planning.yaml_reader import PositionedYaml

MAX_MISTAKES = 5
"""Of a sweep file that are told at once: a file that is none would fill the screen."""


@dataclass(frozen=True)
class Overrides:
    """What the command line changes of a sweep file."""

    tasks: Sequence[str] | None = None
    methods: Sequence[str] | None = None
    body: str | None = None
    protocol: str | None = None
    trials: int | None = None
    """Search trials a (task, method); 1 is the first configuration alone, one seed, scored on test."""
    seeds: int | None = None
    """How many confirm seeds."""
    deterministic: bool = False
    """Make the sweep deterministic; False leaves it to the file."""


@dataclass(frozen=True)
class SweepSpec:
    """A sweep file with one budget chosen and the command line's overrides applied."""

    file: SweepFile
    budget_name: str
    budget: Budget
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    overrides: Overrides

    @property
    def name(self) -> str:
        """Name of the sweep file."""
        return self.file.name

    @property
    def benchmark(self) -> str:
        """Benchmark whose tasks are swept."""
        return self.file.benchmark

    @property
    def protocol(self) -> str:
        """``held-out`` or ``paper``."""
        return self.overrides.protocol or self.file.protocol.value

    @property
    def deterministic(self) -> bool:
        """Whether equal trials must give equal scores, wherever they run."""
        return self.overrides.deterministic or self.file.deterministic

    @property
    def sweep_id(self) -> str:
        """Name under which records are kept, e.g. ``pocket/quick``.

        Another number of trials makes another sweep, and so does determinism: ``pocket/quick-trials1-deterministic``.
        """
        trials = "" if self.overrides.trials is None else f"-trials{self.overrides.trials}"
        return f"{self.name}/{self.budget_name}{trials}" + ("-deterministic" if self.deterministic else "")

    @property
    def confirm_seeds(self) -> tuple[int, ...]:
        """Seeds of the confirm trials."""
        seeds = self.budget.confirm_seeds
        if self.overrides.trials == 1 and self.protocol == PAPER and self.overrides.seeds is None:
            return (self.file.seed,)  # the reference's one run, with its seed; there is no search to keep it from
        if self.overrides.seeds is not None:
            seeds = [*seeds, *(s for s in range(1, 10_000) if s not in seeds and s != self.file.seed)]
            return tuple(seeds[: self.overrides.seeds])
        return tuple(seeds[:1] if self.overrides.trials == 1 else seeds)

    def layers(self, task: str, method: str) -> list[Layer]:
        """Return the layers that hold for one (task, method), the weakest first."""
        file, budget = self.file, self.budget
        candidates = [
            Layer(
                settings=file.settings, space=file.space, resources=file.resources, search_trials=budget.search_trials
            ),
            self._published(task, method) if file.published else None,
            file.per_method.get(method),
            file.per_task.get(task),
            Layer(settings=budget.settings),
            budget.tasks.get(task),
        ]
        return [layer for layer in candidates if layer is not None]

    def _published(self, task: str, method: str) -> Layer:
        body = self.body(task, method) if self.protocol == PAPER else None
        return Layer(settings=published_settings(task, paper_body=body))

    def search_trials(self, task: str, method: str) -> int:
        """Return how many search trials one (task, method) gets."""
        if self.overrides.trials is not None:
            return self.overrides.trials if self.overrides.trials > 1 else 0
        return [layer.search_trials for layer in self.layers(task, method) if layer.search_trials is not None][-1]

    def settings(self, task: str, method: str) -> dict[str, Scalar]:
        """Return the merged settings of one (task, method)."""
        return {name: value for layer in self.layers(task, method) for name, value in layer.settings.items()}

    def space(self, task: str, method: str) -> dict[str, Dimension]:
        """Return the merged search space of one (task, method)."""
        return {name: value for layer in self.layers(task, method) for name, value in layer.space.items()}

    def resources(self, task: str, method: str) -> ResourceRequest:
        """Return the resources of one trial."""
        return [layer.resources for layer in self.layers(task, method) if layer.resources is not None][-1]

    def body(self, task: str, method: str) -> str:
        """Return the body that one (task, method) adapts."""
        from orca_ray.tasks.registry import get_task

        if self.overrides.body is not None:
            return self.overrides.body
        layers = (self.file.per_method.get(method), self.file.per_task.get(task), self.budget.tasks.get(task))
        chosen = [layer.body for layer in layers if layer is not None and layer.body is not None]
        declared = get_task(task)
        return chosen[-1] if chosen else self.file.bodies.get(declared.kind, declared.body)


def shipped_sweeps() -> dict[str, Path]:
    """Return the sweep files of this installation by name."""
    package = Path(__file__).resolve().parents[2]
    folders = (package / "sweeps", package.parent / "sweeps")  # in the wheel, in a checkout
    return {path.stem: path for folder in folders if folder.is_dir() for path in sorted(folder.glob("*.yaml"))}


def load_spec(source: str | Path, *, budget: str | None = None, overrides: Overrides | None = None) -> SweepSpec:
    """Read a sweep by benchmark name or by path to a YAML file.

    Raises:
        UserError: a misspelt name, a file that is not there or not YAML, an unknown key, a wrong type, an empty
            range; the message gives file, line, what is allowed and the nearest name.
    """
    shipped = shipped_sweeps()
    path = shipped.get(str(source)) or Path(source)
    if not path.is_file():
        if path.suffix in (".yaml", ".yml") or "/" in str(source):
            raise UserError(
                f"no sweep file {path}: give the path of a YAML file, or one of {', '.join(sorted(shipped))}"
            )
        raise unknown_name("benchmark", str(source), shipped, "A sweep of your own: orca-sweep run SWEEP.yaml.")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    return parse_spec(text, str(path), budget=budget, overrides=overrides)


def parse_spec(
    text: str, name: str = "sweep.yaml", *, budget: str | None = None, overrides: Overrides | None = None
) -> SweepSpec:
    """Validate the text of a sweep file; see :func:`load_spec`."""
    document = PositionedYaml(text, name)
    if not isinstance(document.data, dict):
        raise UserError(f"{name}:1: a sweep file is a mapping with at least name, benchmark and methods")
    try:
        file = SweepFile.model_validate(document.data)
    except ValidationError as error:
        told = list(dict.fromkeys(_explain(document, SweepFile, item) for item in _pertinent(error)))
        more = [f"and {len(told) - MAX_MISTAKES} more"] if len(told) > MAX_MISTAKES else []
        raise UserError("\n".join([*told[:MAX_MISTAKES], *more])) from error
    spec = _resolve(file, budget, overrides or Overrides())
    _check_values(spec, document)
    return spec


def _pertinent(error: ValidationError) -> list[Mapping[str, Any]]:
    """Return pydantic's errors without those on the branch ``tasks: all`` where a list was given."""
    return [
        item for item in error.errors() if not (item["type"] == "literal_error" and item["loc"][0] == "tasks")
    ] or list(error.errors())


def _explain(document: PositionedYaml, model: type[BaseModel], item: Mapping[str, Any]) -> str:
    # pydantic names the branch of a union in the path, which is in no file: "list[...]", "literal[...]".
    location = [part for part in item["loc"] if part != "[key]" and "[" not in str(part)]
    where = ".".join(str(part) for part in location)
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        allowed = _fields_at(model, location[:-1])
        close = nearest(str(location[-1]), allowed)
        question = f" Did you mean {close!r}?" if close else ""
        message = f"unknown key {str(location[-1])!r}.{question} Allowed: {', '.join(allowed)}"
    elif "input" in item and item["type"] not in ("missing", "value_error"):
        message = f"{message}; got {item['input']!r}"
    return f"{document.name}:{document.line(location)}: {where}: {message}"


def _fields_at(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """Return the field names of the model that stands at ``location``: the last part that names a nested model."""
    nested: dict[str, type[BaseModel]] = {
        "resources": ResourceRequest,
        "early_stopping": EarlyStopping,
        "per_task": Layer,
        "per_method": Layer,
        "budgets": Budget,
        "tasks": Layer,
        "space": Dimension,
    }
    for part in location:
        model = nested.get(str(part), model)
    return sorted(model.model_fields)


def _resolve(file: SweepFile, budget: str | None, overrides: Overrides) -> SweepSpec:
    from orca_ray.methods.recipe import all_methods
    from orca_ray.tasks.registry import all_tasks, get_benchmark, get_task

    chosen = file.default_budget if budget is None else budget
    if chosen not in file.budgets:
        raise unknown_name("budget", chosen, file.budgets)
    members = [task.name for task in get_benchmark(file.benchmark)]
    tasks = members if file.tasks == "all" else list(file.tasks)
    if overrides.tasks:
        tasks = [_qualified(name, file.benchmark, all_tasks()) for name in overrides.tasks]
    for name in tasks:
        if get_task(name).benchmark != file.benchmark:
            raise UserError(f"task {name!r} is not of benchmark {file.benchmark!r}: its tasks are {', '.join(members)}")
    methods = overrides.methods or file.budgets[chosen].methods or file.methods
    for name in methods:
        if name not in all_methods():
            raise unknown_name("method", name, all_methods())
    if overrides.protocol is not None and overrides.protocol not in PROTOCOLS:
        raise unknown_name("protocol", overrides.protocol, PROTOCOLS)
    for option, value in (("--trials", overrides.trials), ("--seeds", overrides.seeds)):
        if value is not None and value < 1:
            raise UserError(f"{option} must be at least 1, got {value}")
    spec = SweepSpec(
        file, chosen, file.budgets[chosen], tuple(dict.fromkeys(tasks)), tuple(dict.fromkeys(methods)), overrides
    )
    if file.seed in spec.confirm_seeds and overrides.trials != 1:
        raise UserError(
            f"seed {file.seed} is the search's own: confirm_seeds must not contain it, got {list(spec.confirm_seeds)}"
        )
    return spec


def _qualified(name: str, benchmark: str, known: Mapping[str, object]) -> str:
    full = name if "/" in name else f"{benchmark}/{name}"
    if full not in known:
        raise unknown_name("task", name, known)
    return full


def _check_values(spec: SweepSpec, document: PositionedYaml) -> None:
    """Build every trial's first configuration, and hold it against the space."""
    from orca_ray.methods.hyperparameters import from_flat, resolve
    from orca_ray.models.names import refuse_misspelt_body

    for task in spec.tasks:
        for method in spec.methods:
            refuse_misspelt_body(spec.body(task, method))
            try:
                first = resolve(method, spec.settings(task, method)).to_flat()
            except ValueError as error:
                named = next((name for name in spec.settings(task, method) if name in str(error)), "")
                line = _line(spec, document, task, method, "settings", named)
                raise UserError(f"{document.name}:{line}: settings of {task} with {method}: {error}") from error
            for name, dimension in spec.space(task, method).items():
                line = _line(spec, document, task, method, "space", name)
                if not dimension.contains(first[name]):
                    raise UserError(
                        f"{document.name}:{line}: the first trial of {task} with {method} has {name} = "
                        f"{first[name]!r}, outside its range {dimension.describe()}: widen the range, or set a value "
                        "inside it under settings"
                    )
                for value in _corners(dimension):
                    try:
                        from_flat({**first, name: value})
                    except ValueError as error:
                        raise UserError(f"{document.name}:{line}: {name} may become {value!r}: {error}") from error


def _line(spec: SweepSpec, document: PositionedYaml, task: str, method: str, block: str, name: str) -> int:
    """Return the line that sets ``name`` for one (task, method): the strongest layer's, as in SweepSpec.layers."""
    budget = ["budgets", spec.budget_name]
    layers = [[*budget, "tasks", task], budget, ["per_task", task], ["per_method", method], []]
    places = [[*layer, block, name] for layer in layers]
    return document.line(next((place for place in places if document.holds(place)), [block]))


def _corners(dimension: Dimension) -> list[Scalar]:
    bounds = dimension.log_uniform or dimension.uniform or dimension.integer
    return list(dimension.choice or bounds or ())
