"""Joint alignment: the distance that is added to the task's loss, and the optimiser."""

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
    stage = trainer._stages[0]
    embedder = trainer.model.embedder
    indices = np.arange(5, 25)
    assert isinstance(stage, RefineStage)
    term = stage._terms[1]
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
    assert {name.split(".")[0] for name in gradients} == {"embedder"}
    assert embedder.training
    expected = fitted_distance("mmd", term._trial.source_features())
    embedder.eval()
    features = trainer.model.features(
        torch.from_numpy(trainer.trial.data.train.x[5:25])
    )
    value = weight * expected(
        features, torch.from_numpy(trainer.trial.data.train.y[5:25])
    )
    assert float(loss) == pytest.approx(float(value), rel=1e-6)
    (gradient,) = torch.autograd.grad(
        value, [embedder.get_parameter("projection.weight")]
    )
    torch.testing.assert_close(gradients["embedder.projection.weight"], gradient)


def test_the_rate_of_joint_is_for_adam_also_where_refining_uses_sgd(bert: str) -> None:
    values = {**JOINT, "refine.weight_decay": 0.0}
    sgd, adam = (
        run(start(bert, "joint", hyperparameters={**values, "refine.optimizer": name}))
        for name in ("sgd", "adam")
    )
    assert sgd[:3] == adam[:3]
    assert sgd[3:] != adam[3:]
    options = resolve("joint", {})
    assert (options.align.distance, options.of(JointConfig).weight) == ("mmd", 1.0)
