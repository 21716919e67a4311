"""Find, read and validate sweep files; errors name the file, the line, what is allowed and the nearest name."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from orca_ray.errors import UserError, nearest, printable, unknown_name
from orca_ray.paths import open_regular, refuse_special
from orca_ray.sweep.planning.schema import Budget, Layer, ResourceRequest, SweepFile
from orca_ray.sweep.planning.space import Dimension, Scalar
from orca_ray.sweep.planning.spec import Overrides, SweepSpec, resolve_spec
from orca_ray.sweep.planning.yaml_reader import MAX_BYTES, PositionedYaml
from orca_ray.sweep.search.stopping import SuccessiveHalving

MAX_MISTAKES = 5
"""Number of mistakes reported per file; a file that is not a sweep would otherwise fill the screen."""
MAX_BASES = 8
"""Longest chain of files that extend each other."""
_MAX_SHOWN = 200
_NESTED: Mapping[str, type[BaseModel]] = {
    "resources": ResourceRequest,
    "early_stopping": SuccessiveHalving,
    "per_task": Layer,
    "per_method": Layer,
    "budgets": Budget,
    "tasks": Layer,
    "space": Dimension,
}


def shipped_sweeps() -> dict[str, Path]:
    """Return the sweep files of this installation by name."""
    package = Path(__file__).resolve().parents[2]
    folders = (package / "sweeps", package.parent / "sweeps")  # in the wheel, in a checkout
    return {path.stem: path for folder in folders if folder.is_dir() for path in sorted(folder.glob("*.yaml"))}


def load_spec(source: str | Path, *, budget: str | None = None, overrides: Overrides | None = None) -> SweepSpec:
    """Read a sweep by benchmark name or by path to a YAML file.

    Raises:
        UserError: an unknown name, a file that does not exist or is not a sweep file, an unknown key, a wrong type, an
            empty range.
    """
    shipped = shipped_sweeps()
    path = shipped.get(str(source)) or Path(source)
    if not os.path.isfile(path) and path.suffix not in (".yaml", ".yml") and "/" not in str(source):
        raise unknown_name("benchmark", str(source), shipped, "A sweep of your own: orca-sweep run SWEEP.yaml.")
    return parse_spec(_read(path), str(path), budget=budget, overrides=overrides)


def parse_spec(
    text: str, name: str = "sweep.yaml", *, budget: str | None = None, overrides: Overrides | None = None
) -> SweepSpec:
    """Validate the text of a sweep file; see :func:`load_spec`."""
    document = _Document.parse(text, name)
    try:
        file = SweepFile.model_validate(document.data)
    except ValidationError as error:
        mistakes = list(dict.fromkeys(_explain(document, item) for item in _pertinent(error)))
        more = [f"and {len(mistakes) - MAX_MISTAKES} more"] if len(mistakes) > MAX_MISTAKES else []
        raise UserError("\n".join([*mistakes[:MAX_MISTAKES], *more])) from error
    spec = resolve_spec(file, budget, overrides or Overrides())
    _check_values(spec, document)
    return spec


def _read(path: Path) -> str:
    shown = printable(str(path))
    refuse_special(path, "the sweep file")
    if path.is_dir():
        raise UserError(f"{shown} is a directory: give the path of a YAML file")
    try:
        with open_regular(path) as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UserError(f"{shown} is larger than {MAX_BYTES // 2**20} MiB: it is not a sweep file")
        return content.decode()
    except FileNotFoundError:
        names = ", ".join(sorted(shipped_sweeps()))
        raise UserError(f"no sweep file {shown}: give the path of a YAML file, or one of {names}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {shown}: {printable(str(error))}: give a YAML file in UTF-8") from error


@dataclass(frozen=True)
class _Document:
    """A sweep file merged with the files that it extends, and the position of each key."""

    data: dict[str, Any]
    files: tuple[PositionedYaml, ...]
    """The file itself, then what it extends, then what that extends."""

    @classmethod
    def parse(cls, text: str, name: str) -> "_Document":
        """Parse a sweep file and its bases.

        Raises:
            UserError: a file that is not YAML, a base that is missing or extends itself, too long a chain.
        """
        files: list[PositionedYaml] = []
        paths: list[str] = [os.path.realpath(name)]
        data: dict[str, Any] = {}
        while True:
            file = PositionedYaml(text, name)
            files.append(file)
            if not isinstance(file.data, dict):
                raise UserError(f"{file.name}:1: a sweep file is a mapping with at least name, benchmark and methods")
            data = _merge({key: value for key, value in file.data.items() if key != "name"}, data)
            if (base := file.data.get("extends")) is None:
                break
            place = f"{file.name}:{file.find(['extends'])[1]}: extends"
            path = _base_path(base, Path(name).parent, place)
            if os.path.realpath(path) in paths:
                raise UserError(f"{place}: {printable(str(path))} extends itself through this file: remove one of them")
            if len(paths) > MAX_BASES:
                raise UserError(f"{place}: more than {MAX_BASES} files extend each other: merge some of them")
            paths.append(os.path.realpath(path))
            text, name = _read(path), str(path)
        own = files[0].data  # records are stored under the name: a base's must not be shared
        return cls({**data, **({"name": own["name"]} if "name" in own else {})}, tuple(files))

    def holds(self, location: Sequence[str | int]) -> bool:
        """Return whether a file has every part of ``location``."""
        return any(file.find(location)[0] == len(location) for file in self.files)

    def position(self, location: Sequence[str | int]) -> str:
        """Return ``file:line`` of the deepest part of ``location`` that exists, in the file that sets it."""
        found = [(file.find(location), file.name) for file in self.files]
        (_, line), name = max(found, key=lambda each: each[0][0])
        return f"{name}:{line}"


def _base_path(base: object, directory: Path, place: str) -> Path:
    """Return the file that ``extends`` names: a shipped sweep, or a path relative to the extending file."""
    shipped = shipped_sweeps()
    if not isinstance(base, str) or not base.isprintable() or not base:
        raise UserError(f"{place}: give the name of a shipped sweep or the path of a YAML file, got {_shown(base)}")
    path = shipped.get(base) or directory / base
    if not os.path.lexists(path):
        close = nearest(base, shipped)
        question = f" Did you mean {close!r}?" if close else ""
        raise UserError(
            f"{place}: no sweep file {base!r}.{question} Give a path relative to this file, or one of "
            f"{', '.join(sorted(shipped))}"
        )
    return path


def _merge(base: dict[str, Any], own: dict[str, Any], *parents: str) -> dict[str, Any]:
    """Return ``base`` updated by ``own``: mappings are merged key by key, but a range of a space is replaced."""
    merged = dict(base)
    is_space = parents[-1:] == ("space",) and parents[-2:-1] != ("budgets",)
    for key, value in own.items():
        theirs = base.get(key)
        both = isinstance(value, dict) and isinstance(theirs, dict) and not is_space
        merged[key] = _merge(theirs, value, *parents, key) if both else value
    return merged


def _pertinent(error: ValidationError) -> list[Mapping[str, Any]]:
    """Return pydantic's errors without those of the branch ``tasks: all`` where a list was given."""
    return [
        item for item in error.errors() if not (item["type"] == "literal_error" and item["loc"][0] == "tasks")
    ] or list(error.errors())


def _explain(document: _Document, item: Mapping[str, Any]) -> str:
    # pydantic adds the branch of a union to the path, which no file has: "list[...]", "literal[...]".
    location = [part for part in item["loc"] if part != "[key]" and "[" not in str(part)]
    where = printable(".".join(str(part) for part in location))
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        allowed = _fields_at(location[:-1])
        close = nearest(str(location[-1]), allowed)
        question = f" Did you mean {close!r}?" if close else ""
        message = f"unknown key {str(location[-1])!r}.{question} Allowed: {', '.join(allowed)}"
    elif "input" in item and item["type"] not in ("missing", "value_error"):
        message = f"{message}; got {_shown(item['input'])}"
    return f"{document.position(location)}: {where}: {message}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _fields_at(location: Sequence[Any]) -> list[str]:
    """Return the field names of the model at ``location``: that of the last part that names a nested model."""
    model = next((_NESTED[str(part)] for part in reversed(location) if str(part) in _NESTED), SweepFile)
    return sorted(model.model_fields)


def _check_values(spec: SweepSpec, document: _Document) -> None:
    """Build every trial's first configuration, and check it against the space."""
    from orca_ray.methods.hyperparameters import from_flat, resolve
    from orca_ray.models.names import refuse_misspelt_body

    for task in spec.tasks:
        for method in spec.methods:
            refuse_misspelt_body(spec.body(task, method))
            try:
                first = resolve(method, spec.settings(task, method)).to_flat()
            except ValueError as error:
                named = next((name for name in spec.settings(task, method) if name in str(error)), "")
                where = _position(spec, document, task, method, "settings", named)
                raise UserError(f"{where}: settings of {task} with {method}: {error}") from error
            for name, dimension in spec.space(task, method).items():
                where = _position(spec, document, task, method, "space", name)
                if not dimension.contains(first[name]):
                    raise UserError(
                        f"{where}: the first trial of {task} with {method} has {name} = {first[name]!r}, outside its "
                        f"range {dimension.describe()}: widen the range, or set a value inside it under settings"
                    )
                for value in _corners(dimension):
                    try:
                        from_flat({**first, name: value})
                    except ValueError as error:
                        raise UserError(f"{where}: {name} may become {value!r}: {error}") from error


def _position(spec: SweepSpec, document: _Document, task: str, method: str, block: str, name: str) -> str:
    """Return the position that sets ``name`` for one (task, method): the strongest layer's, as in SweepSpec.layers."""
    budget = ["budgets", spec.budget_name]
    layers = [[*budget, "tasks", task], budget, ["per_task", task], ["per_method", method], []]
    places = [[*layer, block, name] for layer in layers]
    return document.position(next((place for place in places if document.holds(place)), [block]))


def _corners(dimension: Dimension) -> list[Scalar]:
    bounds = dimension.log_uniform or dimension.uniform or dimension.integer
    return list(dimension.choice or bounds or ())
