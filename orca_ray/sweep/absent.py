"""The bodies and alignment sources of a sweep that this machine does not have, and the commands that bring them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orca_ray.alignment.registry import get_source
from orca_ray.data import cache
from orca_ray.data.packages import is_cached
from orca_ray.models.names import PACKAGED, Modality, modality_of, parse_body_name
from orca_ray.sweep.study_plan import StudyPlan
from orca_ray.tasks.registry import get_task

_HUB_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
_DEFAULT_SOURCES: Mapping[Modality, str] = {"sequence": "vocabulary", "image": "images"}


@dataclass(frozen=True)
class Absent:
    """Things of one kind that are not here."""

    what: str
    names: tuple[str, ...]
    command: str
    """What brings them."""


def absent(studies: Sequence[StudyPlan]) -> list[Absent]:
    """Return what the studies need beside the data of their tasks and this machine lacks; nothing is asked of a hub."""
    bodies = {parse_body_name(study.body)[0] for study in studies}
    sources = {_source(study) for study in studies if "align.source" in study.first}
    lacking = (
        ("bodies", [name for name in sorted(bodies) if not _has_body(name)], "orca-sweep bodies --fetch"),
        ("alignment sources", [n for n in sorted(sources) if not get_source(n).present()], "orca-sweep data fetch"),
    )
    return [Absent(what, tuple(names), " ".join((command, *names))) for what, names, command in lacking if names]


def _source(study: StudyPlan) -> str:
    modality = modality_of(study.body, get_task(study.task).kind)
    return str(study.first["align.source"]) or _DEFAULT_SOURCES[modality]


def _has_body(name: str) -> bool:
    """Whether a body's weights are here; of timm's, whose names on the hub only timm knows, it is taken for granted."""
    if name in PACKAGED:
        return (cache.home() / "bodies" / name).is_dir() or all(is_cached(each) for each in PACKAGED[name].packages)
    if name.startswith("timm:") or Path(name).is_dir():
        return True
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return any(isinstance(try_to_load_from_cache(name, file), str) for file in _HUB_WEIGHTS)
    except HFValidationError:  # a path, and no directory is there
        return False
