"""Names, sizes and licences of bodies, listed in ``bodies.toml``.

This module imports neither torch nor the Hugging Face library.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Literal

from orca_ray.data.packages import Package
from orca_ray.data.rows import ModalityName
from orca_ray.discovery import tables
from orca_ray.errors import UserError, nearest, unknown_name
from orca_ray.options import Seen


@dataclass(frozen=True)
class BodyInfo:
    """Facts about a body: one row of the table that ``orca-sweep bodies`` prints."""

    name: str
    modality: ModalityName
    layers: int
    width: int
    parameters: int
    """Number of parameters of the whole pretrained model, its embedding included."""
    licence: str
    source: str
    available: Literal["packaged", "hub"] = "hub"
    patch_size: int = 16
    """Side of a patch in pixels; for Swin, that of a token in its third stage, which
    has most of its layers.
    """
    corpus: str = ""
    """Name in `CORPORA` of the data that the weights were pretrained on; "" if nothing
    is stated of these data.
    """


@dataclass(frozen=True, kw_only=True)
class PackagedBody(BodyInfo):
    """Facts about a pretrained body that ships inside ordinary Python packages."""

    available: Literal["packaged", "hub"] = "packaged"
    packages: tuple[Package, ...]
    members: tuple[str, ...]
    """Path of the weights, or of a part of them, in each package."""
    sha256: str
    """SHA-256 of the file with the weights: safetensors, or the ONNX file or checkpoint
    that is converted to it.
    """
    config: Mapping[str, Any] = field(repr=False)
    """Values of the Hugging Face configuration that are not its class's defaults; no
    file is needed to build the model.
    """


_LISTED = tables("orca_ray.models", "bodies.toml")
"""Tables of ``bodies.toml``: facts about packaged and hub bodies, by name."""
CORPORA = tables("orca_ray.models", "corpora.toml")
"""For each pretraining corpus, patterns of the tasks whose data it holds or lacks."""


_MISSPELT_SIMILARITY = 0.8
"""Least similarity, from 0 to 1, of a misspelt name to that of a packaged body."""


def _packaged_body(name: str, facts: Mapping[str, Any]) -> PackagedBody:
    packages = tuple(Package(**package) for package in facts["packages"])
    return PackagedBody(name=name, **{**facts, "packages": packages})


PACKAGED: Mapping[str, PackagedBody] = {
    name: _packaged_body(name, facts) for name, facts in _LISTED["packaged"].items()
}
"""Facts about the packaged bodies, by name."""


def list_bodies() -> list[BodyInfo]:
    """Return the facts about all packaged bodies, then about bodies of the hub.

    The latter are the paper's bodies and popular ones.
    """
    return [
        *PACKAGED.values(),
        *(BodyInfo(name, **facts) for name, facts in _LISTED["hub"].items()),
    ]


def listed_body(name: str) -> BodyInfo | None:
    """Return the entry of `list_bodies` for ``name``; None if there is none.

    A suffix ``:layers=N`` of the name is ignored.
    """
    base = name.partition(":layers=")[0]
    return next((info for info in list_bodies() if info.name == base), None)


@cache
def pretraining_saw(body: str, task: str) -> Seen:
    """Return whether the pretraining of ``body`` saw the data of ``task``.

    The answer is what `CORPORA` states; a corpus that holds the data takes precedence.
    """
    info = listed_body(body)
    if info is None:
        return "unknown"
    corpora = [CORPORA["any"], CORPORA.get(info.corpus, {})]
    if any(_states(corpus, "holds", task) for corpus in corpora):
        return "known"
    if any(_states(corpus, "lacks", task) for corpus in corpora):
        return "no"
    return "unknown"


def _states(corpus: Mapping[str, Any], column: str, task: str) -> bool:
    """Return whether ``task`` fits a pattern in ``column``, holds or lacks."""
    return any(fnmatchcase(task, pattern) for pattern in corpus.get(column, ()))


def check_misspelt_body(name: str) -> None:
    """Raise UserError if a body's name is malformed or misspelt.

    A name is misspelt if it is nearly that of a packaged body, e.g. ``minilm-16``.
    """
    base, _ = parse_body_name(name)
    nearest_name = nearest(base, PACKAGED)
    if base in PACKAGED or nearest_name is None:
        return
    if "/" in base or Path(base).is_dir():
        return
    similarity = difflib.SequenceMatcher(None, base.lower(), nearest_name).ratio()
    if similarity >= _MISSPELT_SIMILARITY:
        raise unknown_name(
            "body",
            base,
            PACKAGED,
            "Hub and timm bodies have their own names, a local one its path.",
        )


def parse_body_name(name: str) -> tuple[str, int | None]:
    """Split ``"minilm-l6:layers=4"`` into ``("minilm-l6", 4)``.

    Without a suffix, the second part is None. Raises UserError for any other suffix,
    and for more layers than a packaged body has.
    """
    base, separator, suffix = name.rpartition(":layers=")
    if not separator:
        if not name or ":" in name.removeprefix("timm:"):
            raise UserError(
                f"cannot read body {name!r}: write NAME, timm:NAME or NAME:layers=N,"
                " e.g. minilm-l6:layers=4"
            )
        return name, None
    if not suffix.isdecimal() or int(suffix) < 1:
        raise UserError(
            f"cannot read body {name!r}: layers must be a whole number of at least 1,"
            f" got {suffix!r}"
        )
    if base in PACKAGED and int(suffix) > PACKAGED[base].layers:
        raise UserError(
            f"body {base!r} has {PACKAGED[base].layers} layers, {suffix} were asked for"
        )
    return base, int(suffix)
