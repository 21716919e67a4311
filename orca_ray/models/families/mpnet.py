"""MPNet: a text encoder whose attention transformers does not fuse."""

from typing import Any

from orca_ray.models.body import Body, Stem
from orca_ray.models.families.text import cut_text
from orca_ray.models.family import Family


def _cut(model: Any) -> tuple[Body, Stem]:
    from orca_ray.models.mpnet import fuse_attention  # imports the library's MPNet, which few trials need

    fuse_attention(model)
    return cut_text(model)


FAMILY = Family(name="MPNet", modality="sequence", model_types=("mpnet",), cut=_cut)
