"""RECRAFT: align without labels, reduce the feature-label distortion, then fine-tune.

Let e be the target's embedder, f the pretrained body, and h a linear head that predicts
source classes. Stages:

1. Feature alignment, e alone: minimise the Wasserstein distance of target and source
   features, whatever their labels. In this method, ``align.samples_per_class`` counts
   the samples of an epoch in all classes, and ``align.distance`` is ignored.
2. Source head, h alone, on n source samples with tokens z_i: minimise

       (1/n) Σ_i [ ℓ_i + ρ max(0, ‖∂ℓ_i/∂z_i‖ − τ)² ],   ℓ_i = CE(h(f(z_i)), y_i),

   the second term only in the last epochs. This penalty bounds the Lipschitz constant
   of the loss, as the theory needs.
3. Feature-label distortion, e alone: minimise H(Yˢ | Yᵗ) ≈ Σ_y P(y) H(mean of softmax
   h(f(e(x))) over x of class y), the entropy of the source class, given the class of
   the target. Targets without classes are clustered.
4. Fine-tune everything by the task's loss.

Stages 1 and 2 do not depend on each other. An epoch with the penalty needs second
derivatives and takes about three times as long as fine-tuning on as many samples; an
epoch without it takes nearly no time. ``recraft.form`` chooses between the paper's
equations and the published code where they differ (`docs/methods.md`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

from orca_ray.methods.options import Scalar
from orca_ray.methods.recipe import Recipe, deferred
from orca_ray.options import Amount, Config, Count, Number, Positive, one_of

_PAPER = (
    "Tran et al., Rethinking Cross-Modal Fine-Tuning, AISTATS 2026, arXiv:2601.18231"
)
PENALISED_EPOCH = 3.0
"""Duration of an epoch with the gradient penalty, which has second derivatives.

It is relative to an epoch of ``nft`` on as many samples.
"""


@dataclass(frozen=True)
class RecraftConfig(Config):
    """Options of `recraft`, besides the options of aligning."""

    form: Annotated[str, partial(one_of, ("paper", "code"))] = "paper"
    """Version to follow where the paper's equations and the published code differ."""
    source_epochs: Number = 10
    """Epochs of training the source head.

    The published code: 20 on images, 30 on text.
    """
    penalty_epochs: Count = 1
    """Number of source epochs, counted from the last, that have the gradient penalty.

    The published code: 10.
    """
    source_batch_size: Number = 8
    """Number of source samples in an optimiser step.

    The published code: 4 on images.
    """
    source_learning_rate: Positive = 1e-3
    """Learning rate of the source head; with a much higher one the penalty grows in
    training.
    """
    penalty: Amount = 100.0
    """Weight ρ of the gradient penalty."""
    threshold: Amount = 0.4
    """Norm τ above which a gradient is penalised."""
    distortion_epochs: Count = 2
    """Epochs of reducing the distortion, each over the whole training split.

    The published code: 2 to 6, by task.
    """
    distortion_learning_rate: Positive = 1e-4
    distortion_batch_size: Number = 32
    """Maximum number of samples of a class in an optimiser step.

    The published code: 16 to 32.
    """


def _epochs_before(values: Mapping[str, Scalar], num_train: int) -> float:
    """Return the epochs of ``nft`` that take as long as the second and third stage."""
    distortion_epochs = float(values["recraft.distortion_epochs"])
    if distortion_epochs == 0:
        return 0.0
    penalised_epochs = min(
        float(values["recraft.penalty_epochs"]), float(values["recraft.source_epochs"])
    )
    source_share = float(values["align.source_samples"]) / num_train
    return distortion_epochs + PENALISED_EPOCH * penalised_epochs * source_share


_RECRAFT = Recipe(
    name="recraft",
    title=(
        "align without labels, reduce the feature-label distortion, then refine"
        " everything"
    ),
    reference=_PAPER,
    aligns=True,
    options=(RecraftConfig,),
    stages=deferred("orca_ray.methods.stages.recraft:recraft_stages"),
    stage_names=("align", "source_head", "distortion", "refine"),
    other_epochs=_epochs_before,
    defaults={"align.distance": "wasserstein"},
)
RECIPES = (
    _RECRAFT,
    replace(
        _RECRAFT,
        name="recraft_code",
        title="recraft, closer to its published code",
        reference=f"{_PAPER}; github.com/khiembk/RECRAFT",
        variant=True,
        defaults={**_RECRAFT.defaults, "recraft.form": "code"},
    ),
)
