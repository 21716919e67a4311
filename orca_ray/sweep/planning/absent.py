"""The bodies and alignment sources of a sweep that this machine does not have, and the commands that bring them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orca_ray.data import cache
from orca_ray.data.packages import is_cached
from orca_ray.data.raw import RawFile
from orca_ray.models.names import PACKAGED, Modality, modality_of, parse_body_name
from orca_ray.sweep.planning.searches import SearchPlan
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


def absent(searches: Sequence[SearchPlan]) -> list[Absent]:
    """Return the bodies and alignment sources that the searches need and this machine lacks; no hub is asked."""
    bodies = {parse_body_name(search.body)[0] for search in searches}
    sources = {_source(search) for search in searches if "align.source" in search.first}
    lacking = (
        ("bodies", [name for name in sorted(bodies) if not _has_body(name)], "orca-sweep bodies --fetch"),
        ("alignment sources", [name for name in sorted(sources) if not _has_source(name)], "orca-sweep data fetch"),
    )
    return [Absent(what, tuple(names), " ".join((command, *names))) for what, names, command in lacking if names]


def _source(search: SearchPlan) -> str:
    modality = modality_of(search.body, get_task(search.task).kind)
    return str(search.first["align.source"]) or _DEFAULT_SOURCES[modality]


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


def _has_source(name: str) -> bool:
    from orca_ray.alignment.source_images import IMAGES
    from orca_ray.alignment.source_labelled import CIFAR10, IMAGENET200
    from orca_ray.alignment.source_text import CONLL2003

    files: dict[str, RawFile] = {"cifar10": CIFAR10, "imagenet200": IMAGENET200, "conll2003": CONLL2003}
    if name in files:
        return files[name].present(cache.home() / "raw" / name)
    return name != "images" or is_cached(IMAGES.package)
