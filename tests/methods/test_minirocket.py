"""`minirocket`: the head is a ridge regression whose penalty is the best on validation; one epoch; series only."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.methods.hyperparameters import relevant, resolve
from orca_ray.methods.recipe import NO_BODY
from orca_ray.methods.registry import check_unfit, get_method
from orca_ray.methods.stages.fitted import PENALTIES, ridge
from orca_ray.models import crossmodal
from orca_ray.tasks.task import Task
from orca_ray.testing.trials import CLASSES, TASK, make_task, run, start


@pytest.mark.parametrize("shape", [(20, 50), (50, 20)], ids=["more features", "more samples"])
def test_ridge_is_that_of_scikit_learn(shape: tuple[int, int]) -> None:
    random, penalties = np.random.default_rng(0), (10.0, 0.1)
    x, y = random.random(shape), random.normal(size=(shape[0], 3))
    x[:, 4] = 0.25  # constant
    scaled = StandardScaler().fit_transform(x)
    found = ridge(torch.from_numpy(x.copy()), torch.from_numpy(y), penalties)
    for penalty, (weight, bias) in zip(penalties, found, strict=True):
        expected = Ridge(alpha=penalty).fit(scaled, y).predict(scaled)
        assert x @ weight.numpy().T + bias.numpy() == pytest.approx(expected, abs=1e-8)


def test_it_learns_in_one_epoch_without_a_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossmodal, "load_body", lambda *_, **__: pytest.fail("a body was loaded"))
    adaptation = start(NO_BODY, "minirocket", hyperparameters={"refine.epochs": 7})
    assert [(report["epoch"], report["epochs"]) for report in run(adaptation)] == [(1, 1)]
    outcome = adaptation.result()
    assert outcome.test_score == pytest.approx(0.0, abs=0.1)  # by chance: 2/3
    assert outcome.num_trainable == 3 * (9996 + 1)


def test_the_penalty_is_the_best_one_on_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(Target("scalar"), (1, 30))
    chosen = start(NO_BODY, "minirocket", task=task)
    run(chosen)
    scores = []
    for penalty in PENALTIES:
        monkeypatch.setattr("orca_ray.methods.stages.fitted.PENALTIES", (penalty,))
        single = start(NO_BODY, "minirocket", task=task)
        run(single)
        scores.append(single.result().validation_score)
    assert len(set(scores)) > 1
    assert chosen.result().validation_score == min(score for score in scores if score is not None)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (make_task(Target("dense", shape=(16,)), (1, 16)), r"not a field of shape \(16,\)"),
        (make_task(CLASSES, (1, 8, 8)), r"takes series.* not inputs of shape \(1, 8, 8\)"),
        (make_task(CLASSES, (7, 8)), "kernels have 9 positions, and the series of this task have 8"),
        (replace(TASK, num_samples=(100_001, 1, 1)), "100001 are above 100000"),
    ],
)
def test_what_is_no_series_is_refused(task: Task, message: str) -> None:
    with pytest.raises(UserError, match=f"minirocket cannot adapt to {task.name}: .*{message}"):
        check_unfit("minirocket", task)


def test_options() -> None:
    values = relevant(resolve("minirocket", {}), "minirocket")
    assert values == {"data.fraction": 1.0, "minirocket.features": 10_000, "minirocket.dilations": 32}
    with pytest.raises(UserError, match=r"minirocket\.features must be at least 84"):
        resolve("minirocket", {"minirocket.features": 83})
    operations = get_method("minirocket").operations
    assert operations is not None
    assert operations(TASK, values)
    assert operations(replace(TASK, input_shape=None, input_kind="sequence"), values) is None
