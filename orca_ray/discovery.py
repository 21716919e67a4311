"""Registries of tasks, methods and other objects, of orca-ray and of other packages.

Another package is a plug-in: it adds objects by an entry point in a group of `GROUPS`,
which names an object or a tuple of objects (docs/plug-ins.md). A plug-in that cannot be
used is left out, with a warning; looking up its name raises a UserError.
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
"""Entry-point group of each kind of object; messages name objects by these kinds."""
_origins: dict[str, dict[str, str]] = {}
"""Package and version that declare an object of a plug-in, by kind and name."""


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
        """Import and return the object that the entry point names.

        Any exception of the import becomes a UserError.
        """
        try:
            return self.entry.load()
        # another package's code may raise anything
        except (Exception, SystemExit) as error:
            logger.debug("%s", self, exc_info=error)
            raise self.error(
                f"cannot be imported ({type(error).__name__}: {error})"
            ) from error

    def objects(self, kind: type[_Declared]) -> tuple[_Declared, ...]:
        """Return the objects that the entry point names.

        Raises UserError if the import fails, or an object is no ``kind``.
        """
        loaded = self.load()
        objects = tuple(loaded) if isinstance(loaded, tuple | list) else (loaded,)
        for instance in objects:
            if not isinstance(instance, kind):
                raise self.error(
                    f"must be a {kind.__name__}, or a tuple of them, but it gives"
                    f" {type(instance).__name__}"
                )
        return objects

    def error(self, reason: str) -> UserError:
        """Return a UserError about this plug-in.

        ``reason`` says what is wrong with the plug-in, e.g. ``cannot be imported``.
        """
        return UserError(
            f"{self} {reason}: update or uninstall {self.package.partition(' ')[0]}"
        )


def module_names(package: ModuleType, *, only_packages: bool = False) -> list[str]:
    """Return the dotted names of the modules, or subpackages, in ``package``."""
    infos = pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    return [info.name for info in infos if info.ispkg or not only_packages]


def modules(
    package: ModuleType, *, only_packages: bool = False
) -> Iterator[ModuleType]:
    """Import and yield the modules that `module_names` lists for the same arguments."""
    return map(
        importlib.import_module, module_names(package, only_packages=only_packages)
    )


def tables(package: str, file: str) -> dict[str, dict[str, Any]]:
    """Return the tables of a TOML file in a package, by table name.

    Arrays become tuples.
    """
    text = (resources.files(package) / file).read_text(encoding="utf-8")
    named_tables: dict[str, dict[str, Any]] = _with_tuples(tomllib.loads(text))
    return named_tables


def _with_tuples(value: Any) -> Any:
    """Return a TOML value in which each array is a tuple."""
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(map(_with_tuples, value))
    return value


def declared(
    kind: type[_Declared],
    attribute: str,
    modules: Iterable[ModuleType],
    *,
    plural: str = "",
) -> Mapping[str, _Declared]:
    """Return the objects that ``modules`` declare, by name and sorted by name.

    For ``attribute`` = "TASK", a module declares one object as ``TASK``, several in a
    sequence ``TASKS`` (or as ``plural`` says), or none. Raises ValueError if an object
    is not an instance of ``kind``, or if two objects have the same ``name``.
    """
    objects: dict[str, _Declared] = {}
    for module in modules:
        entries = list(getattr(module, plural or f"{attribute}S", ()))
        if hasattr(module, attribute):
            entries.insert(0, getattr(module, attribute))
        for entry in entries:
            if not isinstance(entry, kind):
                raise ValueError(
                    f"{module.__name__} declares {entry!r}, which is no {kind.__name__}"
                )
            if entry.name in objects:
                raise ValueError(
                    f"two modules declare the {kind.__name__.lower()} {entry.name!r}"
                )
            objects[entry.name] = entry
    return MappingProxyType(dict(sorted(objects.items())))


def plug_ins(kind: str) -> list[PlugIn]:
    """Return the plug-ins that add objects of ``kind``, sorted by name.

    A kind is a key of `GROUPS`, e.g. ``"task"``. The modules of the plug-ins are not
    imported.
    """
    entries = _entry_points().select(group=GROUPS[kind])
    kind_plug_ins = [
        PlugIn(kind, entry.name, f"{entry.dist.name} {entry.dist.version}", entry)
        for entry in entries
        if entry.dist
    ]
    return sorted(kind_plug_ins, key=lambda plug_in: (plug_in.name, plug_in.package))


@cache
def _entry_points() -> "EntryPoints":
    from importlib.metadata import entry_points

    # It reads the metadata of every installed package: 30 ms for 200 of them. Python
    # 3.11 returns another class.
    return cast("EntryPoints", entry_points())


def _no_objection(new: _Named, objects: Mapping[str, _Named]) -> str:
    """Return "": the default ``objection`` of `with_plug_ins` accepts every object."""
    return ""


def with_plug_ins(
    kind: str,
    cls: type[_Declared],
    own: Mapping[str, _Declared],
    objection: Callable[[_Declared, Mapping[str, _Declared]], str] = _no_objection,
) -> Mapping[str, _Declared]:
    """Return the objects ``own`` of this package by name, then those of plug-ins.

    Objects of plug-ins are sorted by name. A plug-in that `PlugIn.objects` refuses is
    left out, with a warning in the log. So is a plug-in for which ``objection`` returns
    a reason, given one of its objects and the objects found so far. A name that two
    packages declare is left out, too, because scores of one method must not be taken
    for those of another. `lookup` of a name that was left out raises a UserError.
    """
    added: dict[str, _Declared] = {}
    owners: dict[str, list[str]] = {name: ["orca-ray"] for name in own}
    unusable: dict[str, str] = {}
    for plug_in in plug_ins(kind):
        try:
            objects = plug_in.objects(cls)
            for new in objects:
                reason = objection(new, {**own, **added})
                if reason:
                    raise plug_in.error(reason)
        except UserError as error:
            unusable[plug_in.name] = str(error)
            continue
        for new in objects:
            owners.setdefault(new.name, []).append(str(plug_in))
            added[new.name] = new
            _origins.setdefault(kind, {})[new.name] = plug_in.package
    for name, name_owners in owners.items():
        if len(name_owners) > 1:
            unusable[name] = ambiguous(kind, name, name_owners)
    for message in unusable.values():
        logger.warning("left out: %s", message)
    UNUSABLE[kind] = unusable
    all_objects = {**own, **dict(sorted(added.items()))}
    return MappingProxyType(
        {name: value for name, value in all_objects.items() if len(owners[name]) == 1}
    )


def ambiguous(kind: str, name: str, owners: Iterable[str]) -> str:
    """Return the message for a ``name`` that all packages in ``owners`` declare."""
    return (
        f"the {kind} {name!r} is declared by {' and by '.join(owners)}: rename one, or"
        " uninstall its package"
    )


def origin(kind: str, name: str) -> str:
    """Return the package and version that declare an object; "" for orca-ray itself."""
    return _origins.get(kind, {}).get(name, "")


def record_origin(plug_in: PlugIn) -> None:
    """Make `origin` return the package of ``plug_in`` for the object of its name.

    Call this for plug-ins that are looked up without `with_plug_ins`, which registers
    the plug-ins that it finds.
    """
    _origins.setdefault(plug_in.kind, {})[plug_in.name] = plug_in.package
