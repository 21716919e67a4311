"""`BodyArchitecture`: what builds a body again without a hub, a package or a cache, for model folders."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orca_ray.models.names import parse_body_name

TIMM = "timm:"
_UNUSED = (
    # Where the body was, and labels of its own classifier, would only tell where the model was trained.
    "_name_or_path", "id2label", "label2id", "problem_type", "architectures",
    # Outputs of a backbone, which nothing reads here. They name layers, also removed ones, and are then refused.
    "stage_names", "out_features", "out_indices",
)  # fmt: skip


@dataclass(frozen=True)
class BodyArchitecture:
    """A body without its weights, as JSON values; `orca_ray.models.weights.load_body` builds it."""

    name: str
    """Name of the body that it describes, with the suffix ``:layers=N`` if it has one."""
    values: Mapping[str, Any]
    """Every value of the Hugging Face configuration, after layers were removed; of a timm model, nothing."""
    attention: str | None = None
    """Attention implementation that the configuration asks for; None: the library's default."""


def describe_body(name: str) -> BodyArchitecture:
    """Return the architecture of a body; its configuration must be on this machine, or at the hub.

    Raises UserError as `orca_ray.models.weights.check_body` does for the name and the configuration.
    """
    from orca_ray.models.family import family_of, keep_layers
    from orca_ray.models.hugging_face import read_config

    base, layers = parse_body_name(name)
    if base.startswith(TIMM):
        return BodyArchitecture(name, {})
    config = read_config(base)
    keep_layers(family_of(config), config, base, layers)
    values = json.loads(config.to_json_string(use_diff=False))
    values = {key: value for key, value in values.items() if key not in _UNUSED}
    return BodyArchitecture(name, values, getattr(config, "_attn_implementation", None))
