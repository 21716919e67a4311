"""The floors of the house: which room may import which, and which rooms must stay
light.

The tables of ``floors.toml`` are the design's. Imports inside functions and under
``TYPE_CHECKING`` count, because an arrow that points upwards is wrong wherever it
starts.
"""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import orca_ray

PACKAGE = Path(orca_ray.__file__).parent

TABLES = tomllib.loads(Path(__file__).with_name("floors.toml").read_text())
FLOORS = TABLES["floors"]
INTERFACE = TABLES["interface"]
INNER_FLOORS: dict[str, dict[str, int]] = TABLES["rooms"]
"""Floors of the rooms inside a package, by name of the package."""
SIDEWAYS = {
    (importer, imported)
    for importer, rooms in TABLES["sideways"].items()
    for imported in rooms
}
HEAVY = frozenset(TABLES["heavy"])
FORBIDDEN = {
    room: {
        package for name in names for package in (HEAVY if name == "heavy" else [name])
    }
    for room, names in TABLES["forbidden"].items()
}


def imports(
    source: str, module: str, *, is_package: bool = False
) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of everything a module imports, by statement or by
    `importlib.import_module`.
    """
    base = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = base[: len(base) - node.level + 1] if node.level else []
            origin = ".".join([*parents, *([node.module] if node.module else [])])
            # `from orca_ray import sweep` names a room only in what it imports.
            yield from ((node.lineno, f"{origin}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and _name(node.func) in (
            "import_module",
            "__import__",
        ):
            argument = node.args[0] if node.args else None
            if isinstance(argument, ast.JoinedStr):
                argument = argument.values[0]
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield node.lineno, argument.value


def _name(function: ast.expr) -> str:
    return (
        function.attr
        if isinstance(function, ast.Attribute)
        else getattr(function, "id", "")
    )


def room(name: str) -> str:
    """Return the part of a dotted name below ``orca_ray``: a room, a top-level module,
    or nothing.
    """
    return [*name.split("."), ""][1]


def complaint(importer: str, imported: str) -> str | None:
    """Say what is wrong with one arrow, or None."""
    here = room(importer)
    package = imported.split(".")[0]
    if package != "orca_ray":
        return (
            f"{here or 'orca_ray'} never imports {package}"
            if package in FORBIDDEN.get(here, ())
            else None
        )
    there = room(imported)
    floors = FLOORS | INTERFACE
    if (
        there not in floors
        or there == here
        or (here, there) in SIDEWAYS
        or (not here and there in INTERFACE)
    ):
        return None
    if here not in floors:
        return f"a module at the top of the package imports no room, and {there} is one"
    if floors[there] < floors[here]:
        return None
    return (
        f"{here} is on floor {floors[here]}, {there} on floor {floors[there]}: arrows"
        " go down"
    )


def inner_complaint(importer: str, imported: str) -> str | None:
    """Say what is wrong with one arrow between rooms of a package, or None."""
    package = room(importer)
    floors = INNER_FLOORS.get(package)
    if floors is None or room(imported) != package:
        return None
    start = inner_room(importer)
    end = inner_room(imported)
    if start == end:
        return None
    if start not in floors:
        return f"{package} itself imports no room, and {end} is one"
    if end not in floors:  # `from orca_ray.sweep import trackers` names the room
        return None
    if floors[end] < floors[start]:
        return None
    return (
        f"{package}/{start} is on floor {floors[start]}, {package}/{end} on floor"
        f" {floors[end]}: arrows go down"
    )


def inner_room(name: str) -> str:
    """Return the part of a dotted name below the package's name, or nothing."""
    return [*name.split("."), "", ""][2]


def modules() -> Iterator[tuple[Path, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        yield path, ".".join(parts).removesuffix(".__init__")


def arrows() -> Iterator[tuple[str, str, str]]:
    """Yield importer, imported and place of every import of the package."""
    for path, module in modules():
        for line, imported in imports(
            path.read_text(), module, is_package=path.name == "__init__.py"
        ):
            yield module, imported, f"{path.relative_to(PACKAGE.parent)}:{line}"


def test_every_arrow_goes_down() -> None:
    wrong = [
        f"{place}: {told}"
        for here, there, place in arrows()
        if (told := complaint(here, there))
    ]
    assert not wrong, "\n".join(wrong)


def test_every_arrow_inside_a_package_goes_down() -> None:
    wrong = [
        f"{place}: {sentence}"
        for importer, imported, place in arrows()
        if (sentence := inner_complaint(importer, imported))
    ]
    assert not wrong, "\n".join(wrong)


def test_every_room_inside_a_package_has_a_floor() -> None:
    for package, floors in INNER_FLOORS.items():
        rooms = {path.parent.name for path in (PACKAGE / package).glob("*/__init__.py")}
        assert rooms == set(floors)


def test_no_circle_of_imports() -> None:
    """Imports inside functions and for types count, too; a package is the module of its
    `__init__`.
    """
    known = {module for _, module in modules()}
    graph: dict[str, set[str]] = {module: set() for module in known}
    for here, there, _ in arrows():
        target = there if there in known else there.rpartition(".")[0]
        if target in known and target != here:
            graph[here].add(target)
    assert not _circle(graph), " <- ".join(_circle(graph))


def _circle(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_room_has_a_floor_and_every_floor_its_room() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == set(FLOORS)
    assert set(FORBIDDEN) - {"errors", "options", "discovery", ""} <= rooms
    for name in rooms:
        assert len(list((PACKAGE / name).rglob("*.py"))) > 1, f"{name} holds no module"


LIGHT = [
    pytest.param(
        each["code"],
        [*HEAVY, *each.get("more", ())],
        id=name,
        marks=pytest.mark.slow if "slow" in each else (),
    )
    for name, each in TABLES["light"].items()
]


@pytest.mark.parametrize(("code", "packages"), LIGHT)
def test_stores_boards_registries_and_planning_stay_light(
    code: str, packages: list[str]
) -> None:
    code = (
        f"import sys\n{code}\nheavy = {set(packages)!r} & set(sys.modules)\nassert not"
        " heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
