"""Joint alignment, after L2G: train the embedder by the task's loss and a distance from the source, then fine-tune.

Let e be the embedder, f the frozen pretrained body, h the head, and d the distance of the step's features, i.e. its
mean tokens, from the source features. The first stage trains e and h, in its first epochs by the task's loss alone, so
that aligning starts from an embedder that carries information, and then by

    ℓ(h(f(e(x))), y) + w d(mean tokens of e(x), source features).

The second stage fine-tunes everything by the task's loss, as `nft` does. L2G weights the terms by α and β; as Adam
ignores a common factor, w = α / β, which is 1 in most of its configurations and 0.01 in three. d is ``align.distance``:
the squared maximum mean discrepancy by default, as in L2G. Of the other options ``align.*``, only ``align.source`` and
``align.source_samples`` matter.

In L2G, e is a convolutional network that a search finds, the task's loss is that of a head on e itself, without the
body between them, and 60 of 100 epochs have the task's loss alone, with more than 256 samples in a step. Two of its
configurations never align, because their epochs end before those with the task's loss alone do.

The first stage has the schedule of refining, so that with `warmup_linear` the learning rate falls to 0 while the
distance acts. Training embedder and head before the body may help without any distance (arXiv:2202.10054): a gain over
`nft` shows what the distance adds only beside a trial with ``joint.weight: 0``.
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
