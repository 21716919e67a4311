"""The plan that ``orca-sweep plan`` prints; the data, bodies (pretrained models) and
alignment sources of a sweep.
"""

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
from orca_ray.methods.registry import get_method
from orca_ray.models.modality import get_modality
from orca_ray.models.names import PACKAGED, listed_body, parse_body_name
from orca_ray.sweep.plan.searches import (
    SearchPlan,
)
from orca_ray.sweep.plan.spec import SweepSpec
from orca_ray.tasks.registry import get_task


@dataclass(frozen=True)
class Absent:
    """Bodies or alignment sources (``what`` says which) that a sweep needs and that are
    not on this machine.
    """

    what: str
    names: tuple[str, ...]
    command: str
    """Shell command that fetches all ``names``."""


def fingerprints(spec: SweepSpec) -> dict[str, str]:
    """Return the data fingerprint (hash of the prepared arrays) of each task of a
    sweep, by name of the task.

    A task's fingerprint is the one that it declares, else that of the data prepared on
    this machine, else "".
    """
    known = {}
    for name in spec.tasks:
        task = get_task(name)
        declared = (
            None if task.paper_splits and spec.protocol == PAPER else task.fingerprint
        )
        found = None if declared else task.prepared(spec.protocol)
        known[name] = found.fingerprint if found is not None else declared or ""
    return known


def with_sources(
    searches: Sequence[SearchPlan], *, ask_hub: bool = False
) -> list[SearchPlan]:
    """Return ``searches`` with the name of the alignment source that trials use where
    ``align.source`` is empty.

    That source is the one in ``sources`` of the sweep file, else the `default_source`
    of the body's modality. With ``ask_hub``, the modality of an unlisted body is read
    from the model hub; otherwise it is taken to be the task's.
    """
    return [
        _with_source(each, ask_hub) if _sources(each) else each for each in searches
    ]


def _with_source(search: SearchPlan, ask_hub: bool) -> SearchPlan:
    modality = _modality(search, ask_hub)
    if ask_hub or listed_body(search.body):
        for source in sorted(_sources(search) - {""}):
            try:
                check_suitable(source, modality)
            except UserError as error:
                raise UserError(
                    f"align.source of {search.task} with {search.method}: {error}"
                ) from error
    paper = get_modality(modality).paper_source
    name = search.spec.file.sources.get(modality) or default_source(modality)
    substitutes = name != paper and modality not in search.spec.file.sources
    return replace(search, source=name, replaced_source=paper if substitutes else "")


def _sources(search: SearchPlan) -> set[str]:
    """Return the values of ``align.source`` that a search's trials may have; empty if
    its method does not align.
    """
    values = [
        each["align.source"]
        for each in search.cells or (search.first,)
        if "align.source" in each
    ]
    searched = search.spec.space(search.task, search.method).get("align.source")
    if values and searched and searched.choice:
        values += searched.choice
    return {str(each) for each in values}


def resolve(
    searches: Sequence[SearchPlan], progress: Callable[[str], None]
) -> list[SearchPlan]:
    """Check the bodies, and return ``searches`` with the names of their alignment
    sources (see `with_sources`).

    Where a search names no source, the paper's source is fetched now; if that fails,
    another source is named. All else that trials read is fetched later, by the nodes
    (see `orca_ray.sweep.worker.staging`). ``progress`` is called with one line of text
    per message. UserError if a body cannot be read, a source cannot be fetched or does
    not fit.
    """
    check_bodies(searches)
    searches = with_sources(
        searches, ask_hub=True
    )  # it refuses unsuitable sources before anything is downloaded
    unnamed = [search for search in searches if "" in _sources(search)]
    for modality in sorted({_modality(search, ask_hub=True) for search in unnamed}):
        if any(modality not in search.spec.file.sources for search in unnamed):
            fetch_source("", modality, progress)
    return with_sources(searches, ask_hub=True)


def sources_of(search: SearchPlan) -> set[str]:
    """Return the names of all alignment sources that trials of ``search``, a result of
    `resolve`, may read.
    """
    return {name or search.source for name in _sources(search)} - {""}


def check_bodies(searches: Sequence[SearchPlan], *, local: bool = False) -> None:
    """Raise UserError if a body of ``searches`` cannot be read.

    With ``local``, only bodies in local directories are checked, and nothing is
    requested from a model hub.
    """
    pretrained = {
        search.body for search in searches if get_method(search.method).pretrained
    }
    for body in _bodies(searches):
        base, _ = parse_body_name(body)
        if base not in PACKAGED and (not local or Path(base).is_dir()):
            from orca_ray.models.weights import (
                check_body,
            )  # it imports torch, which packaged bodies do not need here

            check_body(body, pretrained=body in pretrained)


def absent(searches: Sequence[SearchPlan]) -> list[Absent]:
    """Return bodies and alignment sources of ``searches`` that are not on this machine;
    no model hub is contacted.
    """
    bodies = {parse_body_name(body)[0] for body in _bodies(searches)}
    sources = {
        name or each.replaced_source or each.source
        for each in searches
        for name in _sources(each)
    } - {""}
    lacking = {
        ("bodies", "orca-sweep bodies --fetch"): [
            name for name in sorted(bodies) if not _has_body(name)
        ],
        ("alignment sources", "orca-sweep data fetch"): [
            n for n in sorted(sources) if not get_source(n).present()
        ],
    }
    return [
        Absent(what, tuple(names), " ".join((do, *names)))
        for (what, do), names in lacking.items()
        if names
    ]


def _bodies(searches: Sequence[SearchPlan]) -> list[str]:
    return sorted({search.body for search in searches} - {NO_BODY})


def _modality(search: SearchPlan, ask_hub: bool) -> ModalityName:
    if listed := listed_body(search.body):
        return listed.modality
    if not ask_hub and not Path(parse_body_name(search.body)[0]).is_dir():
        return get_task(search.task).modality
    from orca_ray.models.weights import body_modality

    return body_modality(search.body)


def _has_body(name: str) -> bool:
    """Return whether a body's weights are on this machine; True for every timm model,
    whose files only timm knows.
    """
    if name in PACKAGED:
        return (cache.home() / "bodies" / name).is_dir() or all(
            is_cached(each) for each in PACKAGED[name].packages
        )
    if name.startswith("timm:") or Path(name).is_dir():
        return True
    from orca_ray.models.hugging_face import WEIGHT_FILES, local_file

    return any(local_file(name, file) for file in WEIGHT_FILES)
