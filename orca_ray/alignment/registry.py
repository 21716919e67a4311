"""Look up distances and alignment sources by name.

Each module of `distances` defines the distance of its name; modules of `sources`
declare a ``SOURCE`` each. Other packages add both by entry points (docs/plug-ins.md).
Listing names and looking up a source do not import torch.
"""

import functools
import importlib
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from orca_ray.alignment import distances, sources
from orca_ray.alignment.source import BRIEF, Source
from orca_ray.data.packages import SayText
from orca_ray.data.rows import ModalityName
from orca_ray.discovery import (
    PlugIn,
    ambiguous,
    declared,
    module_names,
    modules,
    plug_ins,
    record_origin,
    with_plug_ins,
)
from orca_ray.errors import UserError, lookup, unknown_name
from orca_ray.models.modality import get_modality

if TYPE_CHECKING:
    from orca_ray.alignment.distance import Distance

logger = logging.getLogger(__name__)


def distance_names() -> list[str]:
    """Return the names of all distances, sorted."""
    plugged_in = (plug_in.name for plug_in in plug_ins("distance"))
    return sorted({*_built_in_distances(), *plugged_in})


def get_distance(name: str) -> "Distance":
    """Return a new, unfitted instance of the distance called ``name``.

    Raises UserError for an unknown name (suggesting the nearest), a name that two
    packages declare, and a plug-in that cannot be used.
    """
    candidates = [plug_in for plug_in in plug_ins("distance") if plug_in.name == name]
    is_built_in = name in _built_in_distances()
    owners = list(map(str, candidates))
    if is_built_in:
        owners.insert(0, "orca-ray")
    if not owners:
        raise unknown_name("distance", name, distance_names())
    if len(owners) > 1:
        raise UserError(ambiguous("distance", name, owners))
    if is_built_in:
        return _new_built_in(name)
    return _new_from_plug_in(candidates[0])


def _new_built_in(name: str) -> "Distance":
    """Return a new instance of a distance of orca-ray.

    Raises ValueError if its module declares no distance of that name.
    """
    module = f"{distances.__name__}.{name}"
    distance_class: Any = getattr(importlib.import_module(module), "DISTANCE", None)
    if not _is_distance_class(distance_class, name):
        raise ValueError(
            f"{module} must define DISTANCE with the name {name!r}, got"
            f" {distance_class!r}"
        )
    distance: Distance = distance_class()
    return distance


def _new_from_plug_in(plug_in: PlugIn) -> "Distance":
    """Return a new instance of a plug-in's distance, and record where it comes from.

    Raises UserError if the plug-in gives something else.
    """
    distance_class: Any = plug_in.load()
    if not _is_distance_class(distance_class, plug_in.name):
        raise plug_in.error(
            f"must give a subclass of Distance with the name {plug_in.name!r}, but it"
            f" gives {distance_class!r}"
        )
    record_origin(plug_in)
    distance: Distance = distance_class()
    return distance


def _is_distance_class(value: Any, name: str) -> bool:
    return isinstance(value, type) and getattr(value, "name", None) == name


def _built_in_distances() -> list[str]:
    return [name.rpartition(".")[2] for name in module_names(distances)]


@functools.cache
def all_sources() -> Mapping[str, Source]:
    """Return all sources by name, those of plug-ins last.

    Raises ValueError if two sources of orca-ray share a name.
    """
    return with_plug_ins("source", Source, declared(Source, "SOURCE", modules(sources)))


def source_names(modality: ModalityName | None = None) -> list[str]:
    """Return the sorted names of all sources.

    With ``modality``, these are the sources for bodies of that modality.
    """
    return sorted(
        name
        for name, source in all_sources().items()
        if modality in (None, source.modality)
    )


def get_source(name: str) -> Source:
    """Return the source called ``name``.

    For an unknown name, raises UserError, which suggests the nearest name.
    """
    return lookup("source", name, all_sources())


def check_suitable(name: str, modality: ModalityName) -> None:
    """Raise UserError if the source ``name`` is not for bodies of ``modality``."""
    allowed = source_names(modality)
    if name not in allowed:
        raise UserError(
            f"source {name!r} does not suit {modality} bodies: use"
            f" {' or '.join(allowed)}"
        )


def default_source(modality: ModalityName) -> str:
    """Return the name of the source that is used if a user names none.

    It is the ORCA paper's source for ``modality`` if that is on this machine, else
    `Modality.stand_in`.
    """
    sources_of_modality = get_modality(modality)
    paper_source = sources_of_modality.paper_source
    if get_source(paper_source).present():
        return paper_source
    return sources_of_modality.stand_in


def fetch_source(
    name: str, modality: ModalityName, progress: SayText | None = None
) -> str:
    """Download the source ``name``, unless it is on this machine, and return its name.

    If ``name`` is empty, try the ORCA paper's source for a short time, then use
    `default_source`. Raises UserError if the download fails.
    """
    if not name:
        _try_to_fetch_paper_source(modality, progress)
        name = default_source(modality)
    get_source(name).fetch(progress)
    return name


def _try_to_fetch_paper_source(
    modality: ModalityName, progress: SayText | None
) -> None:
    """Download the ORCA paper's source for ``modality``, unless it is on this machine.

    If the download fails, only ``progress`` is called with the source that is used
    instead.
    """
    paper_source = get_source(get_modality(modality).paper_source)
    if paper_source.present():
        return
    try:
        paper_source.fetch(progress, patience=BRIEF)
    except UserError as error:
        logger.debug("%s cannot be fetched: %s", paper_source.name, error)
        if progress:
            progress(
                f"source {paper_source.name} cannot be fetched:"
                f" {default_source(modality)} stands in for it"
            )
