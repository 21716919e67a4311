"""Discovery of what the modules of a package declare: a new method, task or simulation is one new file."""

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
    """Return the full names of the modules in the directories of ``package.__path__``, without importing them."""
    found = pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
    return [info.name for info in found if info.ispkg or not only_packages]


def modules(package: ModuleType, *, only_packages: bool = False) -> Iterator[ModuleType]:
    """Import and yield the modules of a package: subpackages, too, or nothing else."""
    return map(importlib.import_module, module_names(package, only_packages=only_packages))


def declared(kind: type[_Declared], attribute: str, modules: Iterable[ModuleType]) -> Mapping[str, _Declared]:
    """Return the ``attribute`` of each module, and the entries of its ``<attribute>S``, in order of their names.

    Raises ValueError for an entry of another type than ``kind``, and for two entries of one name.
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
