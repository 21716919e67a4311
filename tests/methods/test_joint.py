"""Joint alignment: the distance that is added to the task's loss, and the optimiser."""

from typing import Any

import numpy as np
import pytest
import torch

from orca_ray.alignment.source_features import fitted_distance
from orca_ray.methods.recipes.joint import DistanceTerm, JointConfig
from orca_ray.methods.registry import resolve
from orca_ray.methods.stages.refine_stage import RefineStage
from orca_ray.testing.trials import QUICK, run, start

JOINT = {
    **QUICK,
    "refine.epochs": 2,
    "joint.epochs": 3,
    "joint.warmup": 0.4,
    "joint.batch_size": 32,
}


def test_the_distance_of_joint_is_added_after_the_warm_up(bert: str) -> None:
    weight = 0.25
    trainer = start(bert, "joint", hyperparameters={**JOINT, "joint.weight": weight})
    stage, *_ = trainer._stages
    embedder = trainer.model.embedder
    indices = np.arange(5, 25)
    assert isinstance(stage, RefineStage)
    _, term = stage._terms
    assert isinstance(term, DistanceTerm)
    assert float(term.backward(indices, 0)) == 0
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    trainer.model.train()
    loss = term.backward(indices, 1)  # 0.4 of 3 epochs is less than 2
    gradients = {
        name: parameter.grad
        for name, parameter in trainer.model.named_parameters()
        if parameter.grad is not None
    }
    assert all(name.startswith("embedder.") for name in gradients)
    assert embedder.training
    distance = fitted_distance("mmd", term._trial.source_features())
    embedder.eval()
    train = trainer.trial.data.train
    features = trainer.model.features(torch.from_numpy(train.x[5:25]))
    expected = weight * distance(features, torch.from_numpy(train.y[5:25]))
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    projection = embedder.get_parameter("projection.weight")
    (gradient,) = torch.autograd.grad(expected, [projection])
    torch.testing.assert_close(gradients["embedder.projection.weight"], gradient)


def test_the_rate_of_joint_is_for_adam_also_where_refining_uses_sgd(bert: str) -> None:
    def run_with(optimizer: str) -> list[dict[str, Any]]:
        values = {**JOINT, "refine.weight_decay": 0.0, "refine.optimizer": optimizer}
        return run(start(bert, "joint", hyperparameters=values))

    sgd = run_with("sgd")
    adam = run_with("adam")
    assert sgd[:3] == adam[:3]
    assert sgd[3:] != adam[3:]


def test_joint_minimises_mmd_with_a_weight_of_one_by_default() -> None:
    options = resolve("joint", {})
    assert options.align.distance == "mmd"
    assert options.of(JointConfig).weight == 1.0
