"""Look up distances and alignment sources by name. Each is a public module of `distances` or `sources`, named alike.

Listing names and looking up a source do not import torch.
"""

import importlib
import logging
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from orca_ray.alignment import distances, sources
from orca_ray.alignment.source import BRIEF, Source
from orca_ray.data.bodies import ModalityName
from orca_ray.data.packages import Progress
from orca_ray.discovery import module_names
from orca_ray.errors import UserError, unknown_name
from orca_ray.models.modality import get_modality

if TYPE_CHECKING:
    from orca_ray.alignment.distance import Distance

logger = logging.getLogger(__name__)


def distance_names() -> list[str]:
    """Return the names of all distances, sorted."""
    return _names(distances)


def get_distance(name: str) -> "Distance":
    """Return a new, unfitted distance; raises UserError with the nearest name for an unknown one."""
    return cast("Distance", _declared(distances, "DISTANCE", name)())


def source_names(modality: ModalityName | None = None) -> list[str]:
    """Return the sorted names of all sources; with ``modality``, of those for bodies of that modality."""
    return [name for name in _names(sources) if modality is None or get_source(name).modality == modality]


def get_source(name: str) -> Source:
    """Return a source; raises UserError with the nearest name for an unknown one."""
    return cast(Source, _declared(sources, "SOURCE", name))


def require_suitable(name: str, modality: ModalityName) -> None:
    """Raise UserError if the source ``name`` is not for bodies of ``modality``."""
    if name not in (allowed := source_names(modality)):
        raise UserError(f"source {name!r} does not suit {modality} bodies: use {' or '.join(allowed)}")


def default_source(modality: ModalityName) -> str:
    """Return the name of the ORCA paper's source for bodies of ``modality``, or of its stand-in if it is not here."""
    found = get_modality(modality)
    return found.paper_source if get_source(found.paper_source).present() else found.stand_in


def fetch_source(name: str, modality: ModalityName, progress: Progress | None = None) -> str:
    """Fetch the source ``name``, or if that is empty the `default_source` after a brief try to fetch the paper's.

    Returns the name of the source, which is then on this machine. Raises UserError if it cannot be fetched.
    """
    paper = get_source(get_modality(modality).paper_source)
    if not name and not paper.present():
        try:
            paper.fetch(progress, patience=BRIEF)
        except UserError as error:
            logger.debug("%s cannot be fetched: %s", paper.name, error)
            if progress:
                progress(f"source {paper.name} cannot be fetched: {default_source(modality)} stands in for it")
    name = name or default_source(modality)
    get_source(name).fetch(progress)
    return name


def _names(package: ModuleType) -> list[str]:
    names = (name.rpartition(".")[2] for name in module_names(package))
    return sorted(name for name in names if not name.startswith("_"))


def _declared(package: ModuleType, attribute: str, name: str) -> Any:
    """Import the module ``name`` of ``package`` and return its variable called ``attribute``."""
    names = _names(package)
    if name not in names:
        raise unknown_name(attribute.lower(), name, names)
    found = getattr(importlib.import_module(f"{package.__name__}.{name}"), attribute, None)
    if getattr(found, "name", None) != name:
        raise ValueError(f"{package.__name__}.{name} must define {attribute} with the name {name!r}, got {found!r}")
    return found
