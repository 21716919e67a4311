"""After MoNA: learn an embedder with which fine-tuning keeps the source's knowledge.

Let e be the target's embedder and head, θ the pretrained body, L(e, θ) the task's loss.
The stages, after Ma et al. (2024):

1. Warm-up: train e by L; θ is frozen.
2. Bilevel: θ'(e) = θ − α ∇_θ L(e, θ) is the body after one virtual step of fine-tuning.
   Minimise over e

       L(e, θ) + λ S(θ'(e)),   S = E ‖u − u⁺‖² + log E exp(−2 ‖u − v‖²),

   alignment and uniformity (Wang and Isola, 2020) on the source: u = f(x) / ‖f(x)‖ is
   the mean feature of a sample through the body θ', u⁺ that of another sample of its
   class, v that of any other sample. θ returns to its pretrained value after every
   step.
3. Fine-tune everything by L.

S depends on e through θ' alone, so the gradient of the outer objective is ∇_e L(e, θ) −
λ α (∂²L / ∂e ∂θ) g with g = ∇S(θ'). No graph of the inner step is built: as in DARTS
(arXiv:1806.09055, eq. 7), the product with the mixed second derivative is the central
difference [∇_e L(e, θ + ε g) − ∇_e L(e, θ − ε g)] / 2ε, where ε = 0.01 / ‖g‖. Its error
is O(ε²). (A form without the second derivative would lose S altogether.) Stage 2
computes in float32, because bfloat16 would round the perturbations ± ε g away. A step
of stage 2 costs about as much as three of fine-tuning.

Of the options ``align.*``, only ``align.source`` and ``align.source_samples`` matter.
There is no public code, and only summaries of the paper were available: hence "after"
(`docs/methods.md` lists our own choices).
"""

from dataclasses import dataclass

from orca_ray.methods.recipe import FROZEN_BODY, Recipe, deferred
from orca_ray.options import Amount, Config, Count, Number, Positive


@dataclass(frozen=True)
class MonaConfig(Config):
    """Options of `mona`.

    Optimiser, learning rate and batch size of stages 1 and 2 are those of refining.
    """

    warmup_epochs: Count = 1
    """Epochs of training embedder and head by the task's loss, before stage 2."""
    epochs: Count = 2
    """Epochs of the bilevel stage. The paper: 5 to 10."""
    source_weight: Amount = 0.5
    """Weight λ of the source loss, which is alignment and uniformity.

    The paper: 0.3 to 0.5.
    """
    inner_learning_rate: Positive = 0.1
    """Learning rate α of the body's virtual step."""
    source_batch: Number = 32
    """Number of positive pairs of source samples in an optimiser step."""


RECIPE = Recipe(
    name="mona",
    title=(
        "after MoNA: learn an embedder that keeps source knowledge through an update,"
        " then refine everything"
    ),
    reference=(
        "Ma et al., Learning Modality Knowledge Alignment, ICML 2024, arXiv:2406.18864"
    ),
    aligns=True,  # for the options of the source
    options=(MonaConfig,),
    stages=deferred("orca_ray.methods.stages.mona:mona_stages"),
    stage_names=("warmup", "bilevel", "refine"),
    other_epochs=lambda values, num_train: (
        FROZEN_BODY * float(values["mona.warmup_epochs"])
        + 3.0 * float(values["mona.epochs"])
    ),
)
