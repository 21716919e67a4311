"""Fetch the data, bodies (pretrained models) and alignment sources of a sweep, or list those not on this machine."""

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
    """Bodies or alignment sources (``what`` says which) that a sweep needs and that are not on this machine."""

    what: str
    names: tuple[str, ...]
    command: str
    """Shell command that fetches all ``names``."""


def fetch(searches: Sequence[SearchPlan], progress: Callable[[str], None]) -> None:
    """Fetch the data, bodies and alignment sources of ``searches`` into the cache, before any trial starts.

    ``progress`` is called with one line of text per message.

    Raises:
        UserError: a download fails, or a body cannot be read.
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
    """Raise UserError if a body of ``searches`` cannot be read; otherwise every trial would fail after the downloads.

    With ``local``, only bodies in local directories are checked, and nothing is requested from a model hub.
    """
    from orca_ray.methods.recipe import get_method

    pretrained = {search.body for search in searches if get_method(search.method).pretrained}
    for body in sorted({search.body for search in searches}):
        base, _ = parse_body_name(body)
        if base not in PACKAGED and (not local or Path(base).is_dir()):
            from orca_ray.models.weights import check_body  # it imports torch, which packaged bodies do not need here

            check_body(body, pretrained=body in pretrained)


def absent(searches: Sequence[SearchPlan]) -> list[Absent]:
    """Return bodies and alignment sources of ``searches`` that are not on this machine; no model hub is contacted."""
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
    """Return whether a body's weights are on this machine; True for every timm model, whose files only timm knows."""
    if name in PACKAGED:
        return (cache.home() / "bodies" / name).is_dir() or all(is_cached(each) for each in PACKAGED[name].packages)
    if name.startswith("timm:") or Path(name).is_dir():
        return True
    from orca_ray.models.hugging_face import WEIGHT_FILES, local_file

    return any(local_file(name, file) for file in WEIGHT_FILES)
