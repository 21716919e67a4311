"""The first stage of `joint`: what it trains, its loss by hand, and that refining follows."""

import numpy as np
import pytest
import torch

from orca_ray.alignment.fitted import fitted_distance
from orca_ray.methods.hyperparameters import resolve
from orca_ray.methods.joint import JointConfig
from orca_ray.methods.stages.adaptation import Adaptation
from orca_ray.methods.stages.joint import DistanceTerm
from orca_ray.methods.stages.refine_stage import RefineStage
from orca_ray.testing.trials import QUICK, changed, copy_of, run, start

SHORT = {**QUICK, "refine.epochs": 2, "joint.epochs": 3, "joint.warmup": 0.4, "joint.batch_size": 32}


def term_of(adaptation: Adaptation) -> DistanceTerm:
    stage = adaptation._stages[0]
    assert isinstance(stage, RefineStage)
    term = stage._terms[1]
    assert isinstance(term, DistanceTerm)
    return term


def test_first_embedder_and_head_then_everything(bert: str) -> None:
    adaptation = start(bert, "joint", hyperparameters=SHORT)
    before = copy_of(adaptation.model)
    reports = [adaptation.step() for _ in range(3)]
    assert [report.stage for report in reports] == ["joint"] * 3
    moved = changed(before, copy_of(adaptation.model))
    assert {name.split(".")[0] for name in moved} == {"embedder", "head"}
    assert [report["stage"] for report in run(adaptation)] == ["refine"] * 2
    assert any(name.startswith("body.") for name in changed(before, copy_of(adaptation.model)))
    assert adaptation.result().align_seconds > 0
    assert adaptation.result().epochs == 2


def test_the_distance_is_added_after_the_warm_up(bert: str) -> None:
    weight = 0.25
    adaptation = start(bert, "joint", hyperparameters={**SHORT, "joint.weight": weight})
    term, embedder, indices = term_of(adaptation), adaptation.model.embedder, np.arange(5, 25)
    assert float(term.backward(indices, 0)) == 0
    assert all(parameter.grad is None for parameter in adaptation.model.parameters())
    adaptation.model.train()
    loss = term.backward(indices, 1)  # 0.4 of 3 epochs is less than 2
    found = {name: p.grad for name, p in adaptation.model.named_parameters() if p.grad is not None}
    assert {name.split(".")[0] for name in found} == {"embedder"}
    assert embedder.training
    expected = fitted_distance("mmd", term._trial.source_features())
    embedder.eval()
    features = adaptation.model.features(torch.from_numpy(adaptation._data.train.x[5:25]))
    value = weight * expected(features, torch.from_numpy(adaptation._data.train.y[5:25]))
    assert float(loss) == pytest.approx(float(value), rel=1e-6)
    (gradient,) = torch.autograd.grad(value, [embedder.get_parameter("projection.weight")])
    torch.testing.assert_close(found["embedder.projection.weight"], gradient)


def test_the_warm_up_is_the_same_for_every_weight(bert: str) -> None:
    curves = [run(start(bert, "joint", hyperparameters={**SHORT, "joint.weight": w})) for w in (0.5, 2.0)]
    assert curves[0][0] == curves[1][0]
    assert curves[0][1] != curves[1][1]


def test_its_rate_is_for_adam_also_where_refining_uses_sgd(bert: str) -> None:
    curves = [
        run(start(bert, "joint", hyperparameters={**SHORT, "refine.optimizer": name, "refine.weight_decay": 0.0}))
        for name in ("sgd", "adam")
    ]
    assert curves[0][:3] == curves[1][:3]
    assert curves[0][3:] != curves[1][3:]
    options = resolve("joint", {})
    assert (options.align.distance, options.of(JointConfig).weight) == ("mmd", 1.0)
