"""Body families: how a model is recognised, shortened, and split into stem and body.

Models come from the Hugging Face library or from timm. Each module in
``orca_ray/models/families`` declares one ``FAMILY`` or several ``FAMILIES``. To add a
family, add a module, or an entry point to another package (docs/plug-ins.md). These
modules read attributes of a library's models, as found in transformers 5.24 and timm
1.0; `orca_ray.testing.FamilySuite` compares every body with its library's own model and
fails when such an attribute changes. Parts that a library calls private are used in
`orca_ray.models.transformers_private` alone.
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
    (num_layers,) = depths
    config.num_hidden_layers = num_layers
    if getattr(config, "layer_types", None):
        config.layer_types = list(config.layer_types)[:num_layers]


@dataclass(frozen=True, kw_only=True)
class Family:
    """Definition of one family of bodies, such as Swin.

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
    """Returns whether a specification belongs to this family.

    It is asked about model types that no family lists. Families of plug-ins come last,
    so that most of them must list their model types.
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
    """Splits a model, which must not be used again, into body and stem.

    Raises UserError if the structure of the model differs from that of the family.
    """


@cache
def all_families() -> Mapping[str, Family]:
    """Return all families by name, those of plug-ins last.

    A plug-in is left out if it lists a model type that another family lists.
    """
    built_in = declared(Family, "FAMILY", modules(families), plural="FAMILIES")
    return with_plug_ins("body family", Family, built_in, _objection)


def _objection(new: Family, accepted: Mapping[str, Family]) -> str:
    """Return why a plug-in's family is refused; "" if it is accepted."""
    owners = {
        model_type: name
        for name, family in accepted.items()
        for model_type in family.model_types
    }
    for model_type in new.model_types:
        if model_type in owners:
            return (
                f"lists the model type {model_type!r}, which {owners[model_type]!r} has"
            )
    return ""


def family_of(specification: Any, library: Library = "transformers") -> Family:
    """Return the family that a specification of ``library`` belongs to.

    Raises UserError if there is none.
    """
    candidates = [
        family for family in all_families().values() if family.library == library
    ]
    config = getattr(specification, "config", specification)
    model_type = getattr(config, "model_type", None)
    for family in candidates:
        if model_type in family.model_types:
            return family
    for family in candidates:
        if family.resembles(specification):
            return family
    supported = ", ".join(family.name for family in candidates)
    unusable = "".join(
        f". Left out: {why}" for why in UNUSABLE.get("body family", {}).values()
    )
    raise UserError(
        f"cannot use {library}'s {type(specification).__name__} as a body: supported"
        f" are {supported}{unusable}"
    )


def keep_layers(
    family: Family, specification: Any, body: str, layers: int | None
) -> None:
    """Reduce a specification in place to ``layers`` layers; None keeps all.

    Each removed layer is the last one of the stage that has most layers at that moment.
    No stage disappears, so the features keep their width and resolution. Raises
    UserError, which names the ``body``, if the specification has fewer layers, or more
    stages, than ``layers``.
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
