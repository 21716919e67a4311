"""Joint alignment, after L2G: train the embedder by the task's loss and a distance from the source, then fine-tune.

Let e be the embedder, f the frozen pretrained body, h the head, and d the distance of the step's features, i.e. its
mean tokens, from the source features. The first stage trains e and h, in its first epochs by the task's loss alone, so
that aligning starts from an embedder that carries information, and then by

    ℓ(h(f(e(x))), y) + w d(mean tokens of e(x), source features).

The second stage fine-tunes everything by the task's loss, as `nft` does. d is ``align.distance``: the squared maximum
mean discrepancy by default, as in L2G. Of the other options ``align.*``, only ``align.source`` and
``align.source_samples`` matter. `docs/methods.md` says where this differs from L2G.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from orca_ray.methods.options import JointConfig
from orca_ray.methods.recipe import FROZEN_BODY, Recipe, new_parameters

if TYPE_CHECKING:
    from orca_ray.methods.stages.trial import Stage, Trial


def _stages(trial: "Trial") -> "list[Stage]":
    from orca_ray.methods.stages.refine_stage import DistanceTerm, RefineStage

    config, refining = trial.hyperparameters.of(JointConfig), trial.hyperparameters.refine
    joint = replace(
        refining, epochs=config.epochs, learning_rate=config.learning_rate, decay_epochs=0.0,
        batch_size=config.batch_size, accumulation=1,
        optimizer="adam" if refining.optimizer == "sgd" else refining.optimizer,
    )  # fmt: skip
    term = DistanceTerm(trial, config)
    return [
        RefineStage(trial, name="joint", parameters=new_parameters, config=joint, step_term=term, final=False),
        RefineStage(trial),
    ]


RECIPE = Recipe(
    name="joint",
    title="embedder and head by task loss and distance together, then refine everything (after L2G)",
    reference="Cheng et al., L2G: Repurposing Language Models for Genomics Tasks, TMLR 2025",
    aligns=True,
    stage_names=("joint", "refine"),
    options=(JointConfig,),
    stages=_stages,
    other_epochs=lambda values, num_train: FROZEN_BODY * float(values["joint.epochs"]),
    defaults={"align.distance": "mmd", "align.epochs": 0},
)
