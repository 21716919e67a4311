"""Requirements of a sweep: data, bodies (pretrained models) and alignment sources."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orca_ray.alignment.registry import (
    check_suitable,
    default_source,
    fetch_source,
    get_source,
)
from orca_ray.data import cache
from orca_ray.data.packages import is_cached
from orca_ray.data.prepared import PAPER
from orca_ray.data.rows import ModalityName
from orca_ray.errors import UserError
from orca_ray.methods.recipe import NO_BODY
from orca_ray.models.modality import get_modality
from orca_ray.models.names import PACKAGED, parse_body_name
from orca_ray.sweep.plan.searches import SearchPlan


@dataclass(frozen=True)
class Absent:
    """Bodies or alignment sources that a sweep needs and this machine lacks."""

    what: str
    """Kind of the ``names``: bodies or alignment sources."""
    names: tuple[str, ...]
    command: str
    """Shell command that fetches all ``names``."""


def with_fingerprints(searches: Sequence[SearchPlan]) -> list[SearchPlan]:
    """Return ``searches`` with the fingerprints (hashes) of the prepared data.

    A fingerprint is the one that the task declares, else that of the data prepared on
    this machine, else "".
    """
    fingerprints: dict[str, str] = {}
    for search in searches:
        if search.task not in fingerprints:
            fingerprints[search.task] = _known_fingerprint(search)
    return [
        replace(search, fingerprint=fingerprints[search.task]) for search in searches
    ]


def _known_fingerprint(search: SearchPlan) -> str:
    """Return the fingerprint for `with_fingerprints`."""
    task = search.declaration
    has_own_splits = task.paper_splits and search.spec.protocol == PAPER
    if task.fingerprint and not has_own_splits:
        return task.fingerprint
    data = search.data
    return "" if data is None else data.fingerprint


def with_sources(
    searches: Sequence[SearchPlan], *, ask_hub: bool = False
) -> list[SearchPlan]:
    """Return ``searches`` with the alignment source for trials that name no source.

    It is the source in ``sources`` of the sweep file, else the `default_source` of the
    body's modality. With ``ask_hub``, the modality of an unlisted body is read from the
    model hub. Otherwise, the modality of the task is used.
    """
    return [
        _with_source(search, ask_hub) if _sources(search) else search
        for search in searches
    ]


def _with_source(search: SearchPlan, ask_hub: bool) -> SearchPlan:
    """Return the search with the alignment source of its modality.

    If a default stands in for the paper's source, the latter is noted.
    """
    modality = _modality(search, ask_hub)
    # Otherwise, the modality may only be that of the task: the body's is not known.
    if ask_hub or search.body_info is not None:
        _check_sources(search, modality)
    sources = search.spec.file.sources
    paper_source = get_modality(modality).paper_source
    name = sources.get(modality) or default_source(modality)
    is_substitute = name != paper_source and modality not in sources
    return replace(
        search, source=name, replaced_source=paper_source if is_substitute else ""
    )


def _check_sources(search: SearchPlan, modality: ModalityName) -> None:
    """Raise UserError if a source that the search names does not fit its body."""
    for source in sorted(_sources(search) - {""}):
        try:
            check_suitable(source, modality)
        except UserError as error:
            raise UserError(
                f"align.source of {search.task} with {search.method}: {error}"
            ) from error


def _sources(search: SearchPlan) -> set[str]:
    """Return the values of ``align.source`` that a search's trials may have.

    The value "" means that no source is named. The set is empty if the method does not
    align.
    """
    values = [
        values["align.source"]
        for values in search.cells or (search.first,)
        if "align.source" in values
    ]
    dimension = search.spec.space(search.task, search.method).get("align.source")
    if values and dimension and dimension.choice:
        values += dimension.choice
    return {str(value) for value in values}


def resolve(
    searches: Sequence[SearchPlan], progress: Callable[[str], None]
) -> list[SearchPlan]:
    """Check the bodies, and return ``searches`` with their sources (`with_sources`).

    Where a search names no source, the paper's source is fetched now. If that fails,
    another source is used. The nodes fetch all other files later (see
    `orca_ray.sweep.worker.staging`). ``progress`` is called with lines of text. Raises
    UserError if a body cannot be read, or if a source cannot be fetched or does not fit
    the body.
    """
    check_bodies(searches)
    # It refuses unsuitable sources before anything is downloaded.
    searches = with_sources(searches, ask_hub=True)
    unnamed = [search for search in searches if "" in _sources(search)]
    for modality in sorted({_modality(search, ask_hub=True) for search in unnamed}):
        if any(modality not in search.spec.file.sources for search in unnamed):
            fetch_source("", modality, progress)
    return with_sources(searches, ask_hub=True)


def sources_of(search: SearchPlan) -> set[str]:
    """Return the names of all alignment sources that trials of ``search`` may read.

    ``search`` is a result of `resolve`.
    """
    return {name or search.source for name in _sources(search)} - {""}


def check_bodies(searches: Sequence[SearchPlan], *, local: bool = False) -> None:
    """Raise UserError if a body of ``searches`` cannot be read.

    With ``local``, only bodies in local directories are checked, and nothing is
    requested from a model hub.
    """
    pretrained = {search.body for search in searches if search.recipe.pretrained}
    for body in _bodies(searches):
        base, _ = parse_body_name(body)
        if base in PACKAGED or (local and not Path(base).is_dir()):
            continue
        # It imports torch, which packaged bodies do not need here.
        from orca_ray.models.weights import check_body

        check_body(body, pretrained=body in pretrained)


def absent(searches: Sequence[SearchPlan]) -> list[Absent]:
    """Return bodies and alignment sources that are not on this machine.

    No model hub is contacted.
    """
    bodies = {parse_body_name(body)[0] for body in _bodies(searches)}
    sources = {
        name or search.replaced_source or search.source
        for search in searches
        for name in _sources(search)
    }
    missing_bodies = [name for name in sorted(bodies) if not _has_body(name)]
    missing_sources = [
        name for name in sorted(sources - {""}) if not get_source(name).present()
    ]
    missing = []
    if missing_bodies:
        command = " ".join(["orca-sweep bodies --fetch", *missing_bodies])
        missing.append(Absent("bodies", tuple(missing_bodies), command))
    if missing_sources:
        command = " ".join(["orca-sweep data fetch", *missing_sources])
        missing.append(Absent("alignment sources", tuple(missing_sources), command))
    return missing


def _bodies(searches: Sequence[SearchPlan]) -> list[str]:
    return sorted({search.body for search in searches} - {NO_BODY})


def _modality(search: SearchPlan, ask_hub: bool) -> ModalityName:
    """Return the modality of a search's body.

    Without ``ask_hub``, it is that of the task for a body that is neither listed nor in
    a local directory.
    """
    info = search.body_info
    if info is not None:
        return info.modality
    base, _ = parse_body_name(search.body)
    if not ask_hub and not Path(base).is_dir():
        return search.declaration.modality
    from orca_ray.models.weights import body_modality

    return body_modality(search.body)


def _has_body(name: str) -> bool:
    """Return whether a body's weights are on this machine.

    True for every timm model, whose files only timm knows.
    """
    if name in PACKAGED:
        if (cache.home() / "bodies" / name).is_dir():
            return True
        return all(map(is_cached, PACKAGED[name].packages))
    if name.startswith("timm:") or Path(name).is_dir():
        return True
    from orca_ray.models.hugging_face import WEIGHT_FILES, local_file

    return any(local_file(name, file) for file in WEIGHT_FILES)
