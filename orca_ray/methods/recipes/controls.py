"""Controls: methods that show what the pretrained body contributes.

``no_body`` follows the ablation LLM2Attn of Tan et al.: one attention layer from random initialisation stands in the
body's place, y = norm(x + attention(x)). The embedder starts as that of ``nft``, so with its defaults from pretrained
weights. ``random_features``: body and embedder start random, and the body is frozen, with its norms. (The row "frozen
random" of Lu et al. trains the norms.)
"""

from typing import TYPE_CHECKING

from orca_ray.methods.recipe import Recipe, new_parameters

if TYPE_CHECKING:
    from orca_ray.methods.stages.trial import NetworkRequest
    from orca_ray.models.crossmodal import CrossModalModel


def _attention(request: "NetworkRequest") -> "CrossModalModel":
    from orca_ray.methods.stages.no_body import AttentionBody

    dropout = request.hyperparameters.refine.dropout
    return request.build(substitute=lambda replaced: AttentionBody(replaced, dropout))


RECIPES = (
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
        reference="Lu et al., Pretrained Transformers as Universal Computation Engines, AAAI 2022, arXiv:2103.05247",
        pretrained=False,
        relative_cost=0.7,
        trainable=new_parameters,
        defaults={"refine.learning_rate": 1e-3},
    ),
)
