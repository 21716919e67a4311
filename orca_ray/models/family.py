"""Body families: how a Hugging Face or timm model is recognised, shortened, and split
into stem and body.

Each module in ``orca_ray/models/families`` declares one ``FAMILY`` or several
``FAMILIES``. To add one, add a module, or an entry point to another package
(docs/plug-ins.md). These modules are the only ones that use private parts of a
library's models, as read in transformers 5.24 and timm 1.0;
`orca_ray.testing.FamilySuite` compares every body with its library's own model and
fails when such a part changes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from orca_ray.data.rows import ModalityName
from orca_ray.discovery import declared, modules, with_plug_ins
from orca_ray.errors import UNUSABLE, UserError
from orca_ray.models import families
from orca_ray.models.body import Body, Stem

Library = Literal["transformers", "timm"]


def _set_depths(config: Any, depths: list[int]) -> None:
    (config.num_hidden_layers,) = depths
    if getattr(config, "layer_types", None):
        config.layer_types = list(config.layer_types)[: depths[0]]


@dataclass(frozen=True, kw_only=True)
class Family:
    """Definition of one family of bodies, e.g. Swin: how a model is recognised,
    shortened and split.

    A *specification* describes a model: its configuration in the Hugging Face library,
        the model itself in timm.
    """

    name: str
    modality: ModalityName
    library: Library = "transformers"
    model_types: Sequence[str] = ()
    """Values of ``config.model_type`` that belong to this family; `resembles` is not
    called for them.
    """
    resembles: Callable[[Any], bool] = lambda specification: False
    """Returns whether a specification, whose model type no family lists, belongs to
    this family. Families of plug-ins come last, so that most of them must list their
    model types.
    """
    depths: Callable[[Any], list[int]] = lambda config: [config.num_hidden_layers]
    """Returns the number of layers in each stage of a specification; a model without
    stages counts as one stage.
    """
    set_depths: Callable[[Any, list[int]], None] = _set_depths
    """Reduces the layers of each stage of a specification, in place, to the given
    numbers.
    """
    cut: Callable[[Any], tuple[Body, Stem]]
    """Splits a model, which must not be used again, into body and stem; UserError if
    the model's structure differs.
    """


@cache
def all_families() -> Mapping[str, Family]:
    """Return all families by name, those of plug-ins last.

    A plug-in is left out if it lists a model type that another family lists.
    """
    own = declared(Family, "FAMILY", modules(families), plural="FAMILIES")
    return with_plug_ins("body family", Family, own, _objection)


def _objection(new: Family, found: Mapping[str, Family]) -> str:
    claimed = {
        model_type: name
        for name, family in found.items()
        for model_type in family.model_types
    }
    taken = [model_type for model_type in new.model_types if model_type in claimed]
    return (
        f"lists the model type {taken[0]!r}, which {claimed[taken[0]]!r} has"
        if taken
        else ""
    )


def family_of(specification: Any, library: Library = "transformers") -> Family:
    """Return the family that a specification of ``library`` belongs to; raises
    UserError if there is none.
    """
    candidates = [
        family for family in all_families().values() if family.library == library
    ]
    model_type = getattr(
        getattr(specification, "config", specification), "model_type", None
    )
    claimed = [family for family in candidates if model_type in family.model_types]
    for family in claimed or candidates:
        if claimed or family.resembles(specification):
            return family
    known = ", ".join(family.name for family in candidates)
    unusable = "".join(
        f". Left out: {why}" for why in UNUSABLE.get("body family", {}).values()
    )
    raise UserError(
        f"cannot use {library}'s {type(specification).__name__} as a body: supported"
        f" are {known}{unusable}"
    )


def keep_layers(
    family: Family, specification: Any, body: str, layers: int | None
) -> None:
    """Reduce a specification in place to ``layers`` layers (None: keep all).

    Raises UserError, which names the ``body``, if there are fewer layers, or more
    stages, than ``layers``.

    Each removed layer is the last one of the stage that has most layers at that moment.
    No stage disappears, so the features keep their width and resolution.
    """
    if layers is None:
        return
    depths = list(family.depths(specification))
    depth = sum(depths)
    if not len(depths) <= layers <= depth:
        stages = f" in {len(depths)} stages" if len(depths) > 1 else ""
        raise UserError(
            f"body {body!r} has {depth} layers{stages}, {layers} were asked for: keep"
            f" {len(depths)} to {depth} of them"
        )
    for _ in range(depth - layers):
        depths[depths.index(max(depths))] -= 1
    family.set_depths(specification, depths)
