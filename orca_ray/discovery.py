"""Find tasks, methods and other registered objects: in modules of orca-ray, and in
other packages (plug-ins).

Another package adds objects by an entry point in a group of `GROUPS`; the entry point
names an object or a tuple of objects (docs/plug-ins.md). A plug-in that cannot be used
is left out, with a warning; looking up its name raises a UserError.
"""

import importlib
import logging
import pkgutil
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from orca_ray.errors import UNUSABLE, UserError

if TYPE_CHECKING:  # importing it takes 20 ms
    from importlib.metadata import EntryPoint, EntryPoints

logger = logging.getLogger(__name__)


class _Named(Protocol):
    @property
    def name(self) -> str: ...


_Declared = TypeVar("_Declared", bound=_Named)

GROUPS: Mapping[str, str] = {
    "artefact": "orca_ray.artefacts",
    "augmentation": "orca_ray.augmentations",
    "body family": "orca_ray.body_families",
    "distance": "orca_ray.distances",
    "loss": "orca_ray.losses",
    "method": "orca_ray.methods",
    "metric": "orca_ray.metrics",
    "source": "orca_ray.sources",
    "statistic": "orca_ray.statistics",
    "task": "orca_ray.tasks",
    "tracker": "orca_ray.trackers",
}
"""Entry-point group of each kind of object; error messages name the kinds by the same
words.
"""
_origins: dict[str, dict[str, str]] = {}
"""Package that declares each object of a plug-in, with its version, by kind and name of
the object.
"""


@dataclass(frozen=True)
class PlugIn:
    """Entry point by which another package adds objects to orca-ray."""

    kind: str
    name: str
    """Name of the entry point, usually that of the object."""
    package: str
    """Name and version of the package, e.g. ``orca-ray-example 0.1.0``."""
    entry: "EntryPoint"

    def __str__(self) -> str:
        return (
            f"the entry point '{self.name} = {self.entry.value}' in {GROUPS[self.kind]}"
            f" of the package {self.package}"
        )

    def load(self) -> object:
        """Import and return the object that the entry point names; any exception of the
        import becomes a UserError.
        """
        try:
            return self.entry.load()
        except (
            Exception,
            SystemExit,
        ) as error:  # another package's code may raise anything
            logger.debug("%s", self, exc_info=error)
            raise self.error(
                f"cannot be imported ({type(error).__name__}: {error})"
            ) from error

    def objects(self, kind: type[_Declared]) -> tuple[_Declared, ...]:
        """Return the objects that the entry point names; UserError if the import fails,
        or an object is no ``kind``.
        """
        loaded = self.load()
        found = tuple(loaded) if isinstance(loaded, tuple | list) else (loaded,)
        for each in found:
            if not isinstance(each, kind):
                raise self.error(
                    f"must be a {kind.__name__}, or a tuple of them, but it gives"
                    f" {type(each).__name__}"
                )
        return found

    def error(self, reason: str) -> UserError:
        """Return an error about this plug-in; ``reason`` says what is wrong with it,
        e.g. ``cannot be imported``.
        """
        return UserError(
            f"{self} {reason}: update or uninstall {self.package.partition(' ')[0]}"
        )


def module_names(package: ModuleType, *, only_packages: bool = False) -> list[str]:
    """Return the dotted names of the modules directly in ``package``; with
    ``only_packages``, of its subpackages.
    """
    found = pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    return [info.name for info in found if info.ispkg or not only_packages]


def modules(
    package: ModuleType, *, only_packages: bool = False
) -> Iterator[ModuleType]:
    """Import and yield the modules whose names `module_names` returns for the same
    arguments.
    """
    return map(
        importlib.import_module, module_names(package, only_packages=only_packages)
    )


def tables(package: str, file: str) -> dict[str, dict[str, Any]]:
    """Return the tables of the TOML file ``file`` in a package, by table name; arrays
    become tuples.
    """

    def frozen(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: frozen(each) for key, each in value.items()}
        return tuple(map(frozen, value)) if isinstance(value, list) else value

    text = (resources.files(package) / file).read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = frozen(tomllib.loads(text))
    return found


def declared(
    kind: type[_Declared],
    attribute: str,
    modules: Iterable[ModuleType],
    *,
    plural: str = "",
) -> Mapping[str, _Declared]:
    """Collect the objects that ``modules`` declare, and return them by name, sorted by
    name.

    For ``attribute`` = "TASK", a module declares one object as ``TASK``, several in a
    sequence ``TASKS`` (or as ``plural`` says), or none. Raises ValueError if an object
    is not an instance of ``kind``, or if two objects have the same ``name``.
    """
    found: dict[str, _Declared] = {}
    for module in modules:
        single = [getattr(module, attribute)] if hasattr(module, attribute) else []
        for entry in [*single, *getattr(module, plural or f"{attribute}S", ())]:
            if not isinstance(entry, kind):
                raise ValueError(
                    f"{module.__name__} declares {entry!r}, which is no {kind.__name__}"
                )
            if entry.name in found:
                raise ValueError(
                    f"two modules declare the {kind.__name__.lower()} {entry.name!r}"
                )
            found[entry.name] = entry
    return MappingProxyType(dict(sorted(found.items())))


def plug_ins(kind: str) -> list[PlugIn]:
    """Return the entry points for a kind of object, e.g. ``"task"``, sorted by name;
    their modules are not imported.
    """
    entries = _entry_points().select(group=GROUPS[kind])
    found = [
        PlugIn(kind, each.name, f"{each.dist.name} {each.dist.version}", each)
        for each in entries
        if each.dist
    ]
    return sorted(found, key=lambda each: (each.name, each.package))


@cache
def _entry_points() -> "EntryPoints":
    from importlib.metadata import entry_points

    # It reads the metadata of every installed package: 30 ms for 200 of them. Python
    # 3.11 returns another class.
    return cast("EntryPoints", entry_points())


def with_plug_ins(
    kind: str,
    cls: type[_Declared],
    own: Mapping[str, _Declared],
    objection: Callable[
        [_Declared, Mapping[str, _Declared]], str
    ] = lambda new, found: "",
) -> Mapping[str, _Declared]:
    """Return the objects ``own`` of this package by name, followed by those of
    plug-ins, sorted by name.

    A plug-in that `PlugIn.objects` refuses is left out, with a warning in the log. So
    is a plug-in for which ``objection`` returns a reason, given one of its objects and
    the objects found so far. A name that two packages declare is left out, too, because
    scores of one method must not be taken for those of another. `lookup` of a name that
    was left out raises a UserError.
    """
    found: dict[str, _Declared] = {}
    owners: dict[str, list[str]] = {name: ["orca-ray"] for name in own}
    unusable: dict[str, str] = {}
    for plug_in in plug_ins(kind):
        try:
            objects = plug_in.objects(cls)
            for new in objects:
                if reason := objection(new, {**own, **found}):
                    raise plug_in.error(reason)
        except UserError as error:
            unusable[plug_in.name] = str(error)
            continue
        for new in objects:
            owners.setdefault(new.name, []).append(str(plug_in))
            found[new.name] = new
            _origins.setdefault(kind, {})[new.name] = plug_in.package
    unusable |= {
        name: ambiguous(kind, name, given)
        for name, given in owners.items()
        if len(given) > 1
    }
    for message in unusable.values():
        logger.warning("left out: %s", message)
    UNUSABLE[kind] = unusable
    every = {**own, **dict(sorted(found.items()))}
    return MappingProxyType(
        {name: each for name, each in every.items() if len(owners[name]) == 1}
    )


def ambiguous(kind: str, name: str, owners: Iterable[str]) -> str:
    """Return the error message for a ``name`` that all packages in ``owners`` declare."""
    return (
        f"the {kind} {name!r} is declared by {' and by '.join(owners)}: rename one, or"
        " uninstall its package"
    )


def origin(kind: str, name: str) -> str:
    """Return the package that declares an object, e.g. ``orca-ray-example 0.1.0``; ""
    for orca-ray itself.
    """
    return _origins.get(kind, {}).get(name, "")


def came_from(plug_in: PlugIn) -> None:
    """Make `origin` return the package of ``plug_in`` for the object that has the entry
    point's name.

    Call this for plug-ins that are looked up without `with_plug_ins`, which registers
    the plug-ins that it finds.
    """
    _origins.setdefault(plug_in.kind, {})[plug_in.name] = plug_in.package
