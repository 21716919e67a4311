"""The data, bodies and alignment sources of a sweep: fetch them, or list those that this machine lacks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from orca_ray.alignment.registry import get_source
from orca_ray.data import cache
from orca_ray.data.bodies import ModalityName
from orca_ray.data.packages import is_cached
from orca_ray.models.modality import get_modality, modality_of
from orca_ray.models.names import PACKAGED, parse_body_name
from orca_ray.sweep.planning.searches import SearchPlan
from orca_ray.tasks.registry import get_task


@dataclass(frozen=True)
class Absent:
    """Bodies or alignment sources that this machine lacks."""

    what: str
    names: tuple[str, ...]
    command: str
    """Command that fetches them."""


def fetch(searches: Sequence[SearchPlan], progress: Callable[[str], None]) -> None:
    """Fetch data, bodies and alignment sources into the cache, once, before any worker needs them.

    Raises:
        UserError: something cannot be fetched, or a body cannot be read.
    """
    from orca_ray.models.packaged import fetch_body

    check_bodies(searches)
    modalities = {body: _modality(body) for body in sorted({search.body for search in searches})}
    for task, protocol in dict.fromkeys((search.task, search.spec.protocol) for search in searches):
        get_task(task).fetch(progress, protocol=protocol)
    for body in modalities:
        fetch_body(body, progress)
    for source in sorted({_source(s, modalities[s.body]) for s in searches if "align.source" in s.first}):
        get_source(source).fetch(progress)


def check_bodies(searches: Sequence[SearchPlan], *, local: bool = False) -> None:
    """Raise UserError for a body that cannot be read; with ``local`` only directories are checked, and no hub is asked.

    Trials would otherwise find it one by one, after everything was fetched.
    """
    from orca_ray.methods.recipe import get_method

    pretrained = {search.body for search in searches if get_method(search.method).pretrained}
    for body in sorted({search.body for search in searches}):
        base, _ = parse_body_name(body)
        if base not in PACKAGED and (not local or Path(base).is_dir()):
            from orca_ray.models.weights import check_body  # torch is loaded for the bodies of others only

            check_body(body, pretrained=body in pretrained)


def absent(searches: Sequence[SearchPlan]) -> list[Absent]:
    """Return the bodies and alignment sources that the searches need and this machine lacks; no hub is asked."""
    bodies = sorted({parse_body_name(search.body)[0] for search in searches})
    sources = sorted(
        {
            _source(search, modality_of(search.body, get_task(search.task).kind).name)
            for search in searches
            if "align.source" in search.first
        }
    )
    lacking = (
        ("bodies", [name for name in bodies if not _has_body(name)], "orca-sweep bodies --fetch"),
        ("alignment sources", [name for name in sources if not get_source(name).present()], "orca-sweep data fetch"),
    )
    return [Absent(what, tuple(names), " ".join((command, *names))) for what, names, command in lacking if names]


def _modality(body: str) -> ModalityName:
    if packaged := PACKAGED.get(parse_body_name(body)[0]):
        return packaged.modality
    from orca_ray.models.weights import body_modality

    return body_modality(body)


def _source(search: SearchPlan, modality: ModalityName) -> str:
    return str(search.first["align.source"]) or get_modality(modality).default_source


def _has_body(name: str) -> bool:
    """Return whether a body's weights are on this machine; assumed for timm, whose names on the hub only timm knows."""
    if name in PACKAGED:
        return (cache.home() / "bodies" / name).is_dir() or all(is_cached(each) for each in PACKAGED[name].packages)
    if name.startswith("timm:") or Path(name).is_dir():
        return True
    from orca_ray.models.hugging_face import WEIGHT_FILES, local_file

    return any(local_file(name, file) for file in WEIGHT_FILES)
