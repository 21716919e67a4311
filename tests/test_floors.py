"""The floors of the house: which room may import which, and which stay light.

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
    room: {*names} | HEAVY if "heavy" in names else {*names}
    for room, names in TABLES["forbidden"].items()
}
"""Packages that each room must not import."""


def imports(
    source: str, module: str, *, is_package: bool = False
) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of everything that a module imports.

    It imports by a statement or by `importlib.import_module`.
    """
    base = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            parts = base[: len(base) - node.level + 1] if node.level else []
            if node.module:
                parts = [*parts, node.module]
            # `from orca_ray import sweep` names a room only in what it imports.
            for alias in node.names:
                yield node.lineno, f"{'.'.join(parts)}.{alias.name}"
        elif isinstance(node, ast.Call):
            name = _imported_by_call(node)
            if name:
                yield node.lineno, name


def _imported_by_call(call: ast.Call) -> str:
    """Return the module that a call of an import function names; "" for others."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    if name not in ("import_module", "__import__") or not call.args:
        return ""
    argument = call.args[0]
    if isinstance(argument, ast.JoinedStr):
        argument = argument.values[0]
    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
        return argument.value
    return ""


def room(name: str) -> str:
    """Return the part of a dotted name below ``orca_ray``.

    It is a room, a top-level module, or nothing.
    """
    return [*name.split("."), ""][1]


def complaint(importer: str, imported: str) -> str | None:
    """Say what is wrong with one arrow, or None."""
    start = room(importer)
    package = imported.split(".")[0]
    if package != "orca_ray":
        if package in FORBIDDEN.get(start, ()):
            return f"{start or 'orca_ray'} never imports {package}"
        return None
    end = room(imported)
    floors = FLOORS | INTERFACE
    if end not in floors or end == start or (start, end) in SIDEWAYS:
        return None
    if not start and end in INTERFACE:
        return None
    if start not in floors:
        return f"a module at the top of the package imports no room, and {end} is one"
    if floors[end] < floors[start]:
        return None
    return (
        f"{start} is on floor {floors[start]}, {end} on floor {floors[end]}: arrows"
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
        f"{place}: {sentence}"
        for importer, imported, place in arrows()
        if (sentence := complaint(importer, imported))
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
    """Imports inside functions and for types count, too.

    A package is the module of its `__init__`.
    """
    names = {module for _, module in modules()}
    graph: dict[str, set[str]] = {module: set() for module in names}
    for importer, imported, _ in arrows():
        target = imported if imported in names else imported.rpartition(".")[0]
        if target in names and target != importer:
            graph[importer].add(target)
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
        case["code"],
        [*HEAVY, *case.get("more", ())],
        id=name,
        marks=pytest.mark.slow if "slow" in case else (),
    )
    for name, case in TABLES["light"].items()
]
"""Programs that must not import heavy packages."""


@pytest.mark.parametrize(("code", "packages"), LIGHT)
def test_stores_boards_registries_and_planning_stay_light(
    code: str, packages: list[str]
) -> None:
    program = (
        f"import sys\n{code}\nheavy = {set(packages)!r} & set(sys.modules)\nassert not"
        " heavy, heavy"
    )
    completed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert completed.returncode == 0, completed.stderr
