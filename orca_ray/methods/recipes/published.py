"""Recipes of ORCA (align the embedder, then fine-tune everything) and of the methods that it is compared with."""

from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from orca_ray.methods.recipe import Recipe, align_then_refine, head_parameters, new_parameters, norm_parameters

if TYPE_CHECKING:
    from torch.nn import Parameter

    from orca_ray.models.crossmodal import CrossModalModel

_ORCA = "Shen et al., Cross-Modal Fine-Tuning: Align then Refine, ICML 2023, arXiv:2302.05738"
_PROBES = "Alain and Bengio, Understanding Intermediate Layers Using Linear Classifier Probes, arXiv:1610.01644"


def _fpt_parameters(model: "CrossModalModel") -> "Iterator[Parameter]":
    return chain(new_parameters(model), norm_parameters(model.body))


RECIPES = (
    Recipe(name="orca", title="align, then refine everything", reference=_ORCA, aligns=True),
    Recipe(
        name="orca_guarded",
        title="align as far as a probe finds useful, then refine everything",
        reference="orca-ray, docs/decisions/0012-guarded.md",
        aligns=True,
        stages=partial(align_then_refine, guarded=True),
    ),
    Recipe(name="nft", title="refine everything, no align", reference=_ORCA),
    Recipe(
        name="scratch",
        title="the same network from random initialisation",
        reference=_ORCA,
        pretrained=False,
    ),
    Recipe(
        name="fpt",
        title="refine norms, embedder and head only",
        reference="Lu et al., Pretrained Transformers as Universal Computation Engines, AAAI 2022, arXiv:2103.05247",
        trainable=_fpt_parameters,
        relative_cost=0.7,
        # The learning rate of the paper: few parameters are trained, and they must change a lot.
        defaults={"refine.learning_rate": 1e-3},
    ),
    Recipe(
        name="orca_fpt",
        title="align, then refine norms, embedder and head only",
        reference=f"{_ORCA}, finetune_method layernorm of its code",
        aligns=True,
        trainable=_fpt_parameters,
        relative_cost=0.7,
        defaults={"refine.learning_rate": 1e-3},
    ),
    Recipe(
        name="linear_probe",
        title="refine the head only",
        reference=_PROBES,
        trainable=head_parameters,
        relative_cost=0.1,
        # With a linear head on fixed features, training is a convex problem, so a high learning rate is safe.
        defaults={"refine.learning_rate": 1e-2},
    ),
)
