"""Look up distances and alignment sources by name.

Each module of `distances` defines the distance of its name; modules of `sources`
declare a ``SOURCE`` each. Other packages add both by entry points (docs/plug-ins.md).
Listing names and looking up a source do not import torch.
"""

import functools
import importlib
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from orca_ray.alignment import distances, sources
from orca_ray.alignment.source import BRIEF, Source
from orca_ray.data.packages import SayText
from orca_ray.data.rows import ModalityName
from orca_ray.discovery import (
    ambiguous,
    came_from,
    declared,
    module_names,
    modules,
    plug_ins,
    with_plug_ins,
)
from orca_ray.errors import UserError, lookup, unknown_name
from orca_ray.models.modality import get_modality

if TYPE_CHECKING:
    from orca_ray.alignment.distance import Distance

logger = logging.getLogger(__name__)


def distance_names() -> list[str]:
    """Return the names of all distances, sorted."""
    return sorted(
        {*_own_distances(), *(plug_in.name for plug_in in plug_ins("distance"))}
    )


def get_distance(name: str) -> "Distance":
    """Return a new, unfitted instance of the distance called ``name``.

    Raises UserError for an unknown name (suggesting the nearest), a name that two
    packages declare, and a plug-in that cannot be used.
    """
    others = [plug_in for plug_in in plug_ins("distance") if plug_in.name == name]
    owners = [*(["orca-ray"] if name in _own_distances() else []), *map(str, others)]
    if not owners:
        raise unknown_name("distance", name, distance_names())
    if len(owners) > 1:
        raise UserError(ambiguous("distance", name, owners))
    module = f"{distances.__name__}.{name}"
    found = (
        others[0].load()
        if others
        else getattr(importlib.import_module(module), "DISTANCE", None)
    )
    if not isinstance(found, type) or getattr(found, "name", None) != name:
        if others:
            raise others[0].error(
                f"must give a subclass of Distance with the name {name!r}, but it gives"
                f" {found!r}"
            )
        raise ValueError(
            f"{module} must define DISTANCE with the name {name!r}, got {found!r}"
        )
    if others:
        came_from(others[0])
    distance: Distance = found()
    return distance


def _own_distances() -> list[str]:
    return [name.rpartition(".")[2] for name in module_names(distances)]


@functools.cache
def all_sources() -> Mapping[str, Source]:
    """Return all sources by name, those of plug-ins last; ValueError if two sources of
    orca-ray share a name.
    """
    return with_plug_ins("source", Source, declared(Source, "SOURCE", modules(sources)))


def source_names(modality: ModalityName | None = None) -> list[str]:
    """Return the sorted names of all sources; with ``modality``, of the sources for
    bodies of that modality.
    """
    return sorted(
        name
        for name, source in all_sources().items()
        if modality in (None, source.modality)
    )


def get_source(name: str) -> Source:
    """Return the source called ``name``; for an unknown name, raises UserError, which
    suggests the nearest name.
    """
    return lookup("source", name, all_sources())


def check_suitable(name: str, modality: ModalityName) -> None:
    """Raise UserError if the source ``name`` is not for bodies of ``modality``."""
    if name not in (allowed := source_names(modality)):
        raise UserError(
            f"source {name!r} does not suit {modality} bodies: use"
            f" {' or '.join(allowed)}"
        )


def default_source(modality: ModalityName) -> str:
    """Return the name of the ORCA paper's source for ``modality`` if that is present
    here, else `Modality.stand_in`.
    """
    found = get_modality(modality)
    return (
        found.paper_source
        if get_source(found.paper_source).present()
        else found.stand_in
    )


def fetch_source(
    name: str, modality: ModalityName, progress: SayText | None = None
) -> str:
    """Download the source ``name``, unless it is on this machine, and return its name.

    If ``name`` is empty, try the ORCA paper's source for a short time, then use
    `default_source`. Raises UserError if the download fails.
    """
    paper = get_source(get_modality(modality).paper_source)
    if not name and not paper.present():
        try:
            paper.fetch(progress, patience=BRIEF)
        except UserError as error:
            logger.debug("%s cannot be fetched: %s", paper.name, error)
            if progress:
                progress(
                    f"source {paper.name} cannot be fetched: {default_source(modality)}"
                    " stands in for it"
                )
    name = name or default_source(modality)
    get_source(name).fetch(progress)
    return name
