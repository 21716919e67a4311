"""`cnn`, `fno` and `minirocket`: they need no body, refuse what they cannot adapt to, and estimate their costs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from torch.utils.flop_counter import FlopCounterMode

from orca_ray.data.prepared import Split
from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.methods.hyperparameters import resolve
from orca_ray.methods.recipe import NO_BODY, Scalar, get_method, refuse_unfit
from orca_ray.methods.stages.ridge import ridge
from orca_ray.models import crossmodal
from orca_ray.tasks.task import Task
from orca_ray.testing.trials import CLASSES, QUICK, TASK, make_data, make_task, run, start

SMALL: dict[str, Scalar] = {**QUICK, "cnn.width": 16, "cnn.blocks": 1}
WIDE: dict[str, Scalar] = {"cnn.width": 32, "cnn.kernel": 5, "cnn.dilation": 3}
FIELD = make_task(Target("dense", shape=(16,)), (1, 16))
NO_SHAPE = replace(TASK, input_shape=None, input_kind="sequence")


def operations(method: str, task: Task, values: dict[str, Scalar]) -> int | None:
    estimate = get_method(method).operations
    assert estimate is not None
    return estimate(task, resolve(method, values).relevant(method))


def test_a_cnn_and_minirocket_learn_without_a_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossmodal, "load_body", lambda *_, **__: pytest.fail("a body was loaded"))
    cnn = start(NO_BODY, "cnn", hyperparameters={**SMALL, "refine.epochs": 5})
    run(cnn)
    minirocket = start(NO_BODY, "minirocket", hyperparameters={"refine.epochs": 7})
    assert [(report["epoch"], report["epochs"]) for report in run(minirocket)] == [(1, 1)]
    for trial in (cnn, minirocket):
        assert trial.result().test_score == pytest.approx(0.0, abs=0.1)  # by chance: 2/3
    assert minirocket.result().num_trainable == 3 * (9996 + 1)


def test_it_learns_the_derivative_of_smooth_fields() -> None:
    data, random = make_data(FIELD), np.random.default_rng(0)
    angles, frequencies = np.arange(16) * np.pi / 8, np.arange(1, 4)[:, None]

    def split(size: int) -> Split:
        amplitudes = random.normal(size=(2, size, 3))
        waves = np.sin(frequencies * angles), np.cos(frequencies * angles)
        x = amplitudes[0] @ waves[0] + amplitudes[1] @ waves[1]
        y = (amplitudes[0] * frequencies.T) @ waves[1] - (amplitudes[1] * frequencies.T) @ waves[0]
        return Split(x[:, None].astype(np.float32), y.astype(np.float32))

    learnable = replace(data, splits={"train": split(64), "validation": split(20), "test": split(20)})
    adaptation = start(NO_BODY, "fno", task=FIELD, data=learnable, hyperparameters={"refine.epochs": 15})
    run(adaptation)
    outcome = adaptation.result()
    assert outcome.test_score is not None
    assert outcome.test_score < 0.2  # relative error; a prediction of 0 has 1


@pytest.mark.parametrize(
    ("modality", "shape", "network", "layout"),
    [
        ("time series", (2, 16), "auto", (16,)),
        ("tabular", (2, 16), "auto", (1,)),
        ("drug response", (1, 30), "auto", (1,)),
        ("time series", (7, 1), "auto", (1,)),
        ("tabular", (2, 16), "convolutional", (16,)),
        ("image", (1, 8, 8), "table", (1,)),
        ("image", (1, 129, 128), "auto", (65, 64)),  # more than 128 x 128
    ],
)
def test_the_layout_of_a_cnn_follows_from_the_task(
    modality: str, shape: tuple[int, ...], network: str, layout: tuple[int]
) -> None:
    task = replace(make_task(CLASSES, shape), modality=modality)
    values = {**SMALL, "cnn.network": network}
    assert start(NO_BODY, "cnn", task=task, hyperparameters=values).model.embedder.layout == layout


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("cnn.kernel", 4, "cnn.kernel must be odd, got 4"),
        ("cnn.kernel", 0, "cnn.kernel must be at least 1"),
        ("cnn.network", "tables", "Did you mean 'table'"),
        ("minirocket.features", 83, r"minirocket\.features must be at least 84"),
    ],
)
def test_a_wrong_option(name: str, value: Scalar, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve(name.split(".")[0], {name: value})


def test_options_of_other_parts_do_not_belong_to_their_trials() -> None:
    cnn = resolve("cnn", {}).relevant("cnn")
    assert {name.split(".")[0] for name in cnn} == {"data", "refine", "cnn"}
    assert not any(name.startswith("cnn.") for name in resolve("nft", {}).relevant("nft"))
    minirocket = resolve("minirocket", {}).relevant("minirocket")
    assert minirocket == {"data.fraction": 1.0, "minirocket.features": 10_000, "minirocket.dilations": 32}


@pytest.mark.parametrize(
    "task",
    [
        make_task(CLASSES, (2, 60)),
        make_task(CLASSES, (1, 130, 130)),
        make_task(Target("dense", shape=(20, 20)), (3, 20, 20)),
        replace(make_task(CLASSES, (1, 30)), modality="tabular"),
    ],
    ids=["series", "image", "field", "table"],
)
def test_operations_of_a_cnn_are_those_that_are_counted(task: Task) -> None:
    assert task.input_shape is not None
    model = start(NO_BODY, "cnn", task=task, hyperparameters=WIDE).model.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *task.input_shape))
    assert operations("cnn", task, WIDE) == pytest.approx(counter.get_total_flops(), rel=0.2)


def test_operations_of_others_and_of_inputs_without_a_shape() -> None:
    fields = [make_task(Target("dense", shape=shape), (1, *shape)) for shape in ((64,), (64, 64))]
    line, plane = (operations("fno", task, {}) for task in fields)
    assert line is not None
    assert plane is not None
    assert 20 < plane / line < 100  # 64 times the points, 24 times the frequencies
    assert operations("minirocket", TASK, {})
    assert [operations(method, NO_SHAPE, {}) for method in ("cnn", "fno", "minirocket")] == [None] * 3


@pytest.mark.parametrize(
    ("method", "task", "message"),
    [
        ("fno", make_task(CLASSES, (2, 16)), "it predicts fields.* not classes"),
        ("minirocket", FIELD, r"not a field of shape \(16,\)"),
        ("minirocket", make_task(CLASSES, (1, 8, 8)), r"takes series.* not inputs of shape \(1, 8, 8\)"),
        ("minirocket", make_task(CLASSES, (7, 8)), "kernels have 9 positions, and the series of this task have 8"),
        ("minirocket", replace(TASK, num_samples=(100_001, 1, 1)), "100001 are above 100000"),
    ],
)
def test_tasks_that_do_not_fit_are_refused(method: str, task: Task, message: str) -> None:
    with pytest.raises(UserError, match=f"{method} cannot adapt to {task.name}: .*{message}"):
        refuse_unfit(method, task)


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


def test_the_penalty_of_minirocket_is_the_best_one_on_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(Target("scalar"), (1, 30))
    scores = []
    for penalties in ((1e-3, 1.0, 1e3), (1e-3,), (1.0,), (1e3,)):
        monkeypatch.setattr("orca_ray.methods.stages.ridge.PENALTIES", penalties)
        trial = start(NO_BODY, "minirocket", task=task, hyperparameters={"minirocket.features": 840})
        run(trial)
        scores.append(trial.result().validation_score)
    assert len(set(scores)) > 2
    assert scores[0] == min(score for score in scores[1:] if score is not None)
