"""Import the modules of a package and collect the objects that they declare, such as ``TASK``."""

import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType, ModuleType
from typing import Protocol, TypeVar


class _Named(Protocol):
    @property
    def name(self) -> str: ...


_Declared = TypeVar("_Declared", bound=_Named)


def module_names(package: ModuleType, *, only_packages: bool = False) -> list[str]:
    """Return the dotted names of the modules in ``package``, or of its subpackages alone, without importing them."""
    found = pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    return [info.name for info in found if info.ispkg or not only_packages]


def modules(package: ModuleType, *, only_packages: bool = False) -> Iterator[ModuleType]:
    """Import and yield the modules whose names `module_names` returns for the same arguments."""
    return map(importlib.import_module, module_names(package, only_packages=only_packages))


def declared(kind: type[_Declared], attribute: str, modules: Iterable[ModuleType]) -> Mapping[str, _Declared]:
    """Collect the objects that ``modules`` declare, and return them by name, sorted by name.

    For ``attribute`` = "TASK", a module declares one object as ``TASK``, several in a sequence ``TASKS``, or none.
    Raises ValueError if an object is not an instance of ``kind``, or if two objects have the same ``name``.
    """
    found: dict[str, _Declared] = {}
    for module in modules:
        single = [getattr(module, attribute)] if hasattr(module, attribute) else []
        for entry in [*single, *getattr(module, f"{attribute}S", ())]:
            if not isinstance(entry, kind):
                raise ValueError(f"{module.__name__} declares {entry!r}, which is no {kind.__name__}")
            if entry.name in found:
                raise ValueError(f"two modules declare the {kind.__name__.lower()} {entry.name!r}")
            found[entry.name] = entry
    return MappingProxyType(dict(sorted(found.items())))
