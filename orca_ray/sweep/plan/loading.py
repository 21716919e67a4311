"""Find, read and validate sweep files.

Error messages contain the file, the line, the allowed values and the nearest name.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from pydantic import BaseModel, ValidationError

from orca_ray.errors import UserError, nearest, printable, shorten, unknown_name
from orca_ray.methods.registry import from_flat, resolve
from orca_ray.models.names import check_misspelt_body
from orca_ray.paths import check_special, open_regular
from orca_ray.sweep.plan import schema
from orca_ray.sweep.plan.grid import check_cells, check_grid
from orca_ray.sweep.plan.spec import Overrides, SweepSpec, check_fold, resolve_spec
from orca_ray.tasks.registry import is_own
from orca_ray.yaml_reader import MAX_BYTES, PositionedYaml

MAX_MISTAKES = 5
"""Largest number of mistakes reported for a sweep file.

A file of another kind would otherwise fill the screen.
"""
MAX_BASES = 8
"""Largest number of files in a chain in which each extends the next."""
_NESTED: Mapping[str, type[BaseModel]] = {
    **dict.fromkeys(("per_method", "tasks"), schema.Layer),
    "per_task": schema.TaskLayer,
    "budgets": schema.Budget,
    "space": schema.Dimension,
    "resources": schema.ResourceRequest,
    "early_stopping": schema.SuccessiveHalving,
}
"""Pydantic model of the mapping below a key; the top level is a `SweepFile`."""
_PLAIN = {
    "too_short": "give at least 1 item",
    "list_type": "give a list, such as [a, b]",
    "dict_type": "give a mapping, such as {key: value}",
}
"""Messages that replace those of pydantic, by the type of the error."""
_OF_SEARCH = ("space", "search_trials", "budgets", "default_budget")
"""Keys that a file with a grid does not inherit, at any depth.

They describe a search, but a sweep with a grid has no search.
"""


def shipped_sweeps() -> dict[str, Path]:
    """Return the sweep files that come with orca-ray, by name, e.g. ``pocket``."""
    package = Path(__file__).resolve().parents[2]
    # A wheel installs them inside the package; a checkout has them beside it.
    folders = (package / "sweeps", package.parent / "sweeps")
    return {
        path.stem: path
        for folder in folders
        if folder.is_dir()
        for path in sorted(folder.glob("*.yaml"))
    }


def load_spec(
    source: str | Path, *, budget: str | None = None, overrides: Overrides | None = None
) -> SweepSpec:
    """Read and validate a sweep file.

    ``source`` is the name of a shipped sweep, or the path of a YAML file. ``budget`` is
    the name of a budget of the file (None: the default one). ``overrides`` replace
    values of the file. Raises UserError if the name is unknown, if the file is missing
    or not YAML, or if it has an unknown key, a value of the wrong type, an empty range
    or a configuration that no trial can run.
    """
    shipped = shipped_sweeps()
    path = shipped.get(str(source)) or Path(source)
    is_name = path.suffix not in (".yaml", ".yml") and "/" not in str(source)
    if is_name and not os.path.isfile(path):
        raise unknown_name(
            "benchmark",
            str(source),
            shipped,
            "A sweep of your own: orca-sweep run SWEEP.yaml.",
        )
    return parse_spec(_read(path), str(path), budget=budget, overrides=overrides)


def parse_spec(
    text: str,
    name: str = "sweep.yaml",
    *,
    budget: str | None = None,
    overrides: Overrides | None = None,
) -> SweepSpec:
    """Validate ``text``, the content of a sweep file.

    ``name`` is the name of the file in error messages. The other arguments and the
    errors are those of :func:`load_spec`.
    """
    document = _Document.parse(text, name)
    try:
        file = schema.SweepFile.model_validate(document.data)
    except ValidationError as error:
        raise UserError("\n".join(_mistakes(document, error))) from error
    spec = resolve_spec(file, budget, overrides or Overrides())
    check_grid(spec, document.position)
    _check_values(spec, document)
    return spec


def _mistakes(document: "_Document", error: ValidationError) -> list[str]:
    """Return one line for each mistake in a sweep file, at most `MAX_MISTAKES`."""
    # Unions report a mistake twice.
    items = {
        (*_location(document, item), item["msg"]): item for item in _pertinent(error)
    }
    lines = [_explain(document, item) for item in [*items.values()][:MAX_MISTAKES]]
    if len(items) > MAX_MISTAKES:
        lines.append(f"and {len(items) - MAX_MISTAKES} more")
    return lines


def _read(path: Path) -> str:
    """Return the content of a sweep file; UserError if it cannot be read."""
    name = printable(str(path))
    check_special(path, "the sweep file")
    if os.path.isdir(path):
        raise UserError(f"{name} is a directory: give the path of a YAML file")
    try:
        with open_regular(path) as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UserError(
                f"{name} is larger than {MAX_BYTES // 2**20} MiB: it is not a sweep"
                " file"
            )
        return content.decode()
    except FileNotFoundError:
        names = ", ".join(sorted(shipped_sweeps()))
        raise UserError(
            f"no sweep file {name}: give the path of a YAML file, or one of {names}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read {name}: {printable(str(error))}: give a YAML file in UTF-8"
        ) from error


@dataclass(frozen=True)
class _Document:
    """A sweep file merged with the files that it extends.

    `position` returns the file and the line of a key.
    """

    data: dict[str, Any]
    files: tuple[PositionedYaml, ...]
    """The file itself, then the file that it extends, and so on."""

    @classmethod
    def parse(cls, text: str, name: str, below: tuple[str, ...] = ()) -> "_Document":
        """Parse the sweep file ``name`` with content ``text``, and its bases.

        A base is the file that a file extends. ``below`` has the paths of the files
        that extend this one, directly or through others. Raises UserError if a file is
        not YAML, if a base is missing, if files extend each other in a circle, or if
        there are more than `MAX_BASES`.
        """
        file = PositionedYaml(text, name)
        if not isinstance(file.data, dict):
            raise UserError(
                f"{file.name}:1: a sweep file is a mapping with at least name,"
                " benchmark and methods"
            )
        base = file.data.get("extends")
        if base is None:
            return cls(file.data, (file,))
        chain = (*below, os.path.realpath(name))
        try:
            path = _base_path(base, Path(name).parent)
            if os.path.realpath(path) in chain:
                raise UserError(
                    f"{printable(str(path))} extends itself through this file: remove"
                    " one of the two"
                )
            if len(chain) > MAX_BASES:
                raise UserError(
                    f"more than {MAX_BASES} files extend each other: merge some of them"
                )
            content = _read(path)
        except UserError as error:
            raise UserError(
                f"{file.name}:{file.find(['extends']).line}: extends: {error}"
            ) from error
        above = cls.parse(content, str(path), chain)
        data = _without_search(above.data) if file.data.get("grid") else above.data
        # The name is not inherited, because it names the records.
        inherited = {key: value for key, value in data.items() if key != "name"}
        return cls(_merge(inherited, file.data), (file, *above.files))

    def holds(self, location: Sequence[str | int]) -> bool:
        """Return whether the merged file contains ``location``.

        A location is a sequence of keys and list indices.
        """
        value: Any = self.data
        try:
            for part in location:
                value = value[part]
        except (LookupError, TypeError):
            return False
        return True

    def position(self, location: Sequence[str | int]) -> str:
        """Return ``file:line`` of ``location``, a sequence of keys and list indices.

        If no file has the whole location, it is the position of the longest leading
        part that a file has.
        """
        is_inherited = location != ["name"]
        files = self.files if is_inherited else self.files[:1]
        file = max(files, key=lambda file: file.find(location).depth)
        return f"{file.name}:{file.find(location).line}"


def _base_path(base: object, directory: Path) -> Path:
    """Return the path of the sweep file that ``extends: base`` names.

    ``base`` is the name of a shipped sweep, or a path relative to ``directory``.
    """
    shipped = shipped_sweeps()
    if not isinstance(base, str) or not base.isprintable() or not base:
        raise UserError(
            "give the name of a shipped sweep or the path of a YAML file, got"
            f" {shorten(repr(base))}"
        )
    path = shipped.get(base) or directory / base
    if not os.path.lexists(path):
        raise unknown_name(
            "sweep file", base, shipped, "Or give a path relative to this file."
        )
    return path


def _without_search(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping of a sweep file without the keys of searches, at any depth."""
    return {
        key: _without_search(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if key not in _OF_SEARCH
    }


def _merge(base: dict[str, Any], own: dict[str, Any], *parents: str) -> dict[str, Any]:
    """Return the mapping ``base`` overridden by ``own``.

    ``base`` is a mapping of an extended file, and ``own`` the mapping below the same
    keys ``parents`` in the extending file. Nested mappings are merged, but a range in a
    search ``space``, and a ``grid``, are replaced.
    """
    merged = dict(base)
    # Below ``budgets``, "space" is the name of a budget.
    is_space = parents[-1:] == ("space",) and parents[-2:-1] != ("budgets",)
    for key, value in own.items():
        theirs = base.get(key)
        replaced = is_space or (not parents and key == "grid")
        if isinstance(value, dict) and isinstance(theirs, dict) and not replaced:
            merged[key] = _merge(theirs, value, *parents, key)
        else:
            merged[key] = value
    return merged


def _pertinent(error: ValidationError) -> list[Mapping[str, Any]]:
    """Return the errors of pydantic that help a user.

    Errors that a list of ``tasks`` is not "all" are left out if there are others.
    """
    items: list[Mapping[str, Any]] = [*error.errors()]
    others = [
        item
        for item in items
        if item["type"] != "literal_error" or item["loc"][0] != "tasks"
    ]
    return others or items


def _location(document: _Document, item: Mapping[str, Any]) -> list[str | int]:
    """Return the keys and list indices of the value that an error of pydantic names."""
    location: list[str | int] = []
    for part in item["loc"]:
        # pydantic adds branches of unions, such as "list[...]" and "[key]", which no
        # file has.
        if "[" not in str(part) or document.holds([*location, part]):
            location.append(part)
    return location


def _explain(document: _Document, item: Mapping[str, Any]) -> str:
    """Return the line on an error of pydantic: position, keys, and message."""
    location = _location(document, item)
    where = printable(shorten(".".join(str(part) for part in location)))
    message = _PLAIN.get(item["type"], str(item["msg"]).removeprefix("Value error, "))
    if item["type"] == "extra_forbidden":
        allowed = sorted(_model_at(location).model_fields)
        close = nearest(str(location[-1]), allowed)
        question = f" Did you mean {close!r}?" if close else ""
        message = (
            f"unknown key {shorten(location[-1])!r}.{question} Allowed:"
            f" {', '.join(allowed)}"
        )
    elif item["type"] == "unknown_name":
        allowed = list(resolve_name(item["ctx"]["registry"])())
        message = str(unknown_name(item["ctx"]["kind"], item["input"], allowed))
    elif "input" in item and item["type"] not in ("missing", "value_error"):
        message = f"{message}; got {shorten(repr(item['input']))}"
    return f"{document.position(location)}: {where}: {message}"


def _model_at(location: Sequence[str | int]) -> type[BaseModel]:
    """Return the Pydantic model of the mapping that contains ``location``."""
    for part in reversed(location[:-1]):
        if str(part) in _NESTED:
            return _NESTED[str(part)]
    return schema.SweepFile


def _check_values(spec: SweepSpec, document: _Document) -> None:
    """Raise UserError if the first configuration of a (task, method) is invalid.

    It must be inside the search space. It must also be valid when any one
    hyper-parameter is set to an end of its range, or to one of its choices.
    """
    checked: set[object] = set()
    for task, method in spec.pairs:
        check_misspelt_body(spec.body(task, method))
        first = _first_configuration(spec, document, task, method)
        check_cells(spec, task, method, document.position)
        if spec.file.grid:
            _check_no_search(spec, document, task, method)
        for name, dimension in spec.space(task, method).items():
            where = _position(spec, document, task, method, "space", name)
            if not dimension.contains(first[name]):
                raise UserError(
                    f"{where}: the first trial of {task} with {method} has {name} ="
                    f" {first[name]!r}, outside its range {dimension.describe()}: widen"
                    " the range, or set a value inside it under settings"
                )
            _check_ends(task, first, name, dimension, where, checked)


def _first_configuration(
    spec: SweepSpec, document: _Document, task: str, method: str
) -> dict[str, schema.Scalar]:
    """Return the hyper-parameters of the first trial.

    Raises UserError if one of them is invalid.
    """
    settings: dict[str, schema.Scalar] = {}
    try:
        settings = spec.settings(task, method)
        resolved = resolve(method, settings)
        check_fold(task, resolved.data.fold)
        return resolved.to_flat()
    except ValueError as error:
        invalid = next((name for name in settings if name in str(error)), "")
        where = _position(spec, document, task, method, "settings", invalid)
        raise UserError(
            f"{where}: settings of {task} with {method}: {error}"
        ) from error


def _check_no_search(
    spec: SweepSpec, document: _Document, task: str, method: str
) -> None:
    """Raise UserError if a sweep with a grid has search trials or a search space."""
    values = {
        "search_trials": spec.search_trials(task, method),
        "space": spec.space(task, method),
    }
    for key, value in values.items():
        if value:
            where = _position(spec, document, task, method, key)
            raise UserError(
                f"{where}: {key}: all cells of a grid run, without a search: remove it,"
                " or the grid"
            )


def _check_ends(
    task: str,
    first: Mapping[str, schema.Scalar],
    name: str,
    dimension: schema.Dimension,
    where: str,
    checked: set[object],
) -> None:
    """Raise UserError if a configuration is invalid at an end of a dimension.

    All hyper-parameters but ``name`` have their ``first`` values. ``checked`` has the
    cases that were checked before. Hyper-parameters of other sections than that of
    ``name`` are not part of a case.
    """
    section = name.split(".")[0]
    same_section = tuple(
        (key, value) for key, value in first.items() if key.split(".")[0] == section
    )
    for value in dimension.choice or dimension.bounds():
        # own data may have folds
        case = (name, type(value), value, same_section, is_own(task))
        if case in checked:
            continue
        checked.add(case)
        try:
            values = from_flat({**first, name: value})
            check_fold(task, values.data.fold)
        except ValueError as error:
            raise UserError(f"{where}: {name} may become {value!r}: {error}") from error


def _position(
    spec: SweepSpec, document: _Document, task: str, method: str, *keys: str
) -> str:
    """Return ``file:line`` of the value below ``keys`` that one (task, method) uses.

    For example, ``keys`` are ``space`` and the name of a hyper-parameter.
    """
    budget = ["budgets", spec.budget_name]
    of_task = ["per_task", task]
    layers = [
        [*budget, "tasks", task],
        budget,
        [*of_task, "per_method", method],
        of_task,
        ["per_method", method],
        [],
    ]
    places = [[*layer, *keys] for layer in layers]
    return document.position(
        next((place for place in places if document.holds(place)), [*keys[:1]])
    )
