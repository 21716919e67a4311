"""Recipes of ORCA (align the embedder, then fine-tune everything) and of the methods that it is compared with.

Two methods are controls, which show what the pretrained body contributes. ``no_body`` follows the ablation LLM2Attn of
Tan et al.: one randomly initialised attention layer replaces the body, y = norm(x + attention(x)). The embedder of
``no_body`` starts as that of ``nft``, by default from pretrained weights. ``random_features``: body and embedder start
random, and the body, its norms included, is frozen. (The row "frozen random" of Lu et al. trains the norms.)
"""

from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from orca_ray.methods.recipe import Recipe, align_then_refine, head_parameters, new_parameters, norm_parameters

if TYPE_CHECKING:
    from orca_ray.methods.stages.trial import NetworkRequest
    from orca_ray.models.crossmodal import CrossModalModel

_ORCA = "Shen et al., Cross-Modal Fine-Tuning: Align then Refine, ICML 2023, arXiv:2302.05738"
_LU = "Lu et al., Pretrained Transformers as Universal Computation Engines, AAAI 2022, arXiv:2103.05247"


def _attention(request: "NetworkRequest") -> "CrossModalModel":
    from orca_ray.methods.stages.networks import AttentionBody

    dropout = request.hyperparameters.refine.dropout
    return request.build(substitute=lambda replaced: AttentionBody(replaced, dropout))


_FPT = Recipe(
    name="fpt",
    title="refine norms, embedder and head only",
    reference=_LU,
    trainable=lambda model: chain(new_parameters(model), norm_parameters(model.body)),
    relative_cost=0.7,
    # The learning rate of the paper: few parameters are trained, and they must change a lot.
    defaults={"refine.learning_rate": 1e-3},
)
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
    Recipe(name="scratch", title="the same network from random initialisation", reference=_ORCA, pretrained=False),
    _FPT,
    replace(
        _FPT,
        name="orca_fpt",
        title="align, then refine norms, embedder and head only",
        reference=f"{_ORCA}, finetune_method layernorm of its code",
        aligns=True,
        stage_names=("align", "refine"),
    ),
    Recipe(
        name="linear_probe",
        title="refine the head only",
        reference="Alain and Bengio, Understanding Intermediate Layers Using Linear Classifier Probes, "
        "arXiv:1610.01644",
        trainable=head_parameters,
        relative_cost=0.1,
        # With a linear head on fixed features, training is a convex problem, so a high learning rate is safe.
        defaults={"refine.learning_rate": 1e-2},
    ),
    Recipe(
        name="no_body",
        title="refine everything, with one random attention layer in the body's place",
        reference="Tan et al., Are Language Models Actually Useful for Time Series Forecasting?, NeurIPS 2024, "
        "arXiv:2406.16964",
        network=_attention,
        relative_cost=0.1,
    ),
    Recipe(
        name="random_features",
        title="refine embedder and head around a frozen random body",
        reference=_LU,
        pretrained=False,
        relative_cost=0.7,
        trainable=new_parameters,
        defaults={"refine.learning_rate": 1e-3},
    ),
)
