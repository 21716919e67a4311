"""Body families: how a model of a library is recognised, shortened, and cut into stem and layers.

Each module of ``orca_ray/models/families`` declares a ``FAMILY`` or several ``FAMILIES``; a new one is a new module.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from orca_ray.data.bodies import ModalityName
from orca_ray.discovery import modules
from orca_ray.errors import UserError
from orca_ray.models import families
from orca_ray.models.body import Body, Stem

Library = Literal["transformers", "timm"]


def _depths(config: Any) -> list[int]:
    return [config.num_hidden_layers]


def _set_depths(config: Any, depths: list[int]) -> None:
    (config.num_hidden_layers,) = depths
    if getattr(config, "layer_types", None):
        config.layer_types = list(config.layer_types)[: depths[0]]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family of bodies.

    A *specification* is what a library describes a model by: a transformers configuration, or a timm model itself.
    """

    name: str
    modality: ModalityName
    library: Library = "transformers"
    model_types: Sequence[str] = ()
    """Values of ``config.model_type`` that belong to the family, whatever other families they resemble."""
    resembles: Callable[[Any], bool] = lambda specification: False
    """Whether a specification without a family of its own belongs to this one."""
    depths: Callable[[Any], list[int]] = _depths
    """Number of layers of each stage of a specification."""
    set_depths: Callable[[Any, list[int]], None] = _set_depths
    """Give a specification fewer layers."""
    cut: Callable[[Any], tuple[Body, Stem]]
    """Cut a model into body and stem, using it up; raises UserError for a model that does not fit."""


def all_families() -> list[Family]:
    """Return all families; raises ValueError when two claim one model type."""
    declared = (getattr(module, "FAMILIES", None) or [module.FAMILY] for module in modules(families))
    found: list[Family] = [family for each in declared for family in each]
    claimed = [model_type for family in found for model_type in family.model_types]
    if twice := {model_type for model_type in claimed if claimed.count(model_type) > 1}:
        raise ValueError(f"two body families claim the model types {', '.join(sorted(twice))}")
    return found


def family_of(specification: Any, library: Library = "transformers") -> Family:
    """Return the family of a specification; raises UserError for a model that belongs to none."""
    candidates = [family for family in all_families() if family.library == library]
    model_type = getattr(getattr(specification, "config", specification), "model_type", None)
    claimed = [family for family in candidates if model_type in family.model_types]
    for family in claimed or candidates:
        if claimed or family.resembles(specification):
            return family
    known = ", ".join(family.name for family in candidates)
    raise UserError(f"cannot use {library}'s {type(specification).__name__} as a body: supported are {known}")


def shorten(family: Family, specification: Any, body: str, layers: int | None) -> None:
    """Keep ``layers`` layers of a specification, None: all; raises UserError when it has fewer, or more stages.

    Stages lose layers off their ends, the deepest stage first, so that the features keep their width and resolution
    and the first stages stay as pretrained.
    """
    if layers is not None:
        family.set_depths(specification, shallower(body, family.depths(specification), layers))


def shallower(body: str, depths: Sequence[int], layers: int) -> list[int]:
    """Return the depths of a model's stages, lowered to ``layers`` layers in all; raises UserError as `shorten`."""
    depths, depth = list(depths), sum(depths)
    if not len(depths) <= layers <= depth:
        stages = f" in {len(depths)} stages" if len(depths) > 1 else ""
        raise UserError(
            f"body {body!r} has {depth} layers{stages}, {layers} were asked for: keep {len(depths)} to {depth} of them"
        )
    for _ in range(depth - layers):
        depths[depths.index(max(depths))] -= 1
    return depths
