"""PaRe: train on target samples, and on mixes of their tokens with source tokens.

Let e be the target's embedder, f the pretrained body, h the target's head, h_s a linear
head for source classes on the mean feature, and g(z) = sigmoid(w·z + b) the gate of a
token z. A target sample (x, y) is paired with a random source sample with tokens s and
class y_s. In the mix m, the k of s with the highest gates replace the k of the T tokens
e(x) with the lowest gates; both keep their order. With λ = k / T and the task's loss ℓ,
the loss is

    ℓ(h(f(e(x))), y) + ω [(1 − λ) ℓ(h(f(m)), y) + λ CE(h_s(f(m)), y_s)].

In epoch t = 0, 1, … of n, k = max(1, ⌊T (begin + (end − begin) t / n)⌋). In the first
epochs, the choice is by keys instead of gates: g(z) plus Gumbel noise, so that the
source tokens that come and the target tokens that stay are drawn without replacement
with probabilities proportional to exp g(z). The gradient of the choice is that of
sigmoid((key − κ) / 0.9), where κ is the k-th key, as if the choice were a factor of
each token (straight-through). Later the choice is by the gates alone, and the gate no
longer learns. An optimiser step costs at least twice that of `nft`. There is no align
stage: of the options ``align.*``, only ``align.source`` and ``align.source_samples``
matter.

`docs/methods.md` says where this differs from the published code.

Source tokens keep the position embeddings of their places in the source sample. Prefix
tokens are the target's.
"""

from dataclasses import dataclass

from orca_ray.methods.recipe import Recipe, deferred
from orca_ray.options import Amount, Config, Fraction, Share


@dataclass(frozen=True)
class PareConfig(Config):
    """Options of `pare`."""

    begin: Share = 0.64
    """Share of source tokens in a mix in the first epoch.

    The paper's code: 2000 of 3136 tokens on most images.
    """
    end: Fraction = 0.16
    """Share of source tokens that the last epochs approach; a mix has at least one.

    The paper's code: 500 of 3136.
    """
    drawn: Fraction = 0.1
    """Share of the epochs, counted from the first, in which tokens are drawn at random
    and the gate learns.
    """
    weight: Amount = 0.0
    """Weight ω of the loss of mixes. 0: the weight in the paper's code, i.e. 0.3 for
    dense targets, else 1 for image bodies and 0.1 for sequence bodies.
    """


RECIPE = Recipe(
    name="pare",
    title="refine everything, also on mixes of target and source tokens",
    reference=(
        "Cai et al., Enhancing Cross-Modal Fine-Tuning with Gradually Intermediate"
        " Modality Generation, ICML 2024, arXiv:2406.09003, github.com/BIT-DA/PaRe"
    ),
    aligns=True,  # for the options of the source
    stage_names=("refine",),
    options=(PareConfig,),
    stages=deferred("orca_ray.methods.stages.pare:pare_stages"),
    relative_cost=2.2,
    defaults={"align.epochs": 0},
)
