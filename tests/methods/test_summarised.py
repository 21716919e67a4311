"""`linear`, `nearest`, `kernel_ridge` and others learn from real data.

They equal those of scikit-learn.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn import datasets
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import KernelCenterer, StandardScaler
from torch.nn import functional as F

from orca_ray.data.prepared import PreparedData, Split
from orca_ray.data.rows import Array, Target
from orca_ray.export import export_model
from orca_ray.methods.options import Scalar
from orca_ray.methods.recipe import NO_BODY
from orca_ray.methods.stages import kernel_ridge, linear
from orca_ray.methods.stages import ridge as ridge_stage
from orca_ray.methods.stages.ridge import PENALTIES
from orca_ray.methods.stages.ridge_regression import best_left_out
from orca_ray.methods.stages.training_features import regression_targets
from orca_ray.methods.trial_trainer import TrialTrainer
from orca_ray.models.features import FEATURES, KernelBody, NearestBody
from orca_ray.models.minirocket import HydraBody
from orca_ray.predictor import Predictor
from orca_ray.testing.trials import CLASSES, TASK, make_data, make_task, run, start

Case = tuple[Callable[..., tuple[np.ndarray, np.ndarray]], Target, tuple[int, ...], str]
DIGITS: Case = (datasets.load_digits, Target("classes", 10), (1, 8, 8), "image")
CANCER: Case = (datasets.load_breast_cancer, Target("classes", 2), (1, 30), "tabular")
DIABETES: Case = (datasets.load_diabetes, Target("scalar"), (1, 10), "tabular")


def fitted(method: str, case: Case) -> TrialTrainer:
    """Return a finished trial on a data set of scikit-learn.

    30 % are test, a tenth of the others validation.
    """
    kind, _, method = method.rpartition(" ")
    load, target, shape, domain = case
    x, y = load(return_X_y=True)
    x = x[:700]
    y = y[:700].astype(np.int64 if target.kind == "classes" else np.float32)
    x, test_x, y, test_y = train_test_split(x, y, test_size=0.3, random_state=0)
    scaler = StandardScaler().fit(x)
    x, test_x = (
        scaler.transform(part).astype(np.float32).reshape(-1, *shape)
        for part in (x, test_x)
    )
    few = len(x) // 10
    task = replace(
        make_task(target, shape),
        domain=domain,
        num_samples=(len(x) - few, few, len(test_x)),
    )
    data = PreparedData(
        name=task.name,
        fingerprint="0" * 16,
        y_mean=None,
        y_std=None,
        directory=Path("unused"),
        splits={
            "train": Split(x[few:], y[few:]),
            "validation": Split(x[:few], y[:few]),
            "test": Split(test_x, test_y),
        },
    )
    trainer = start(
        NO_BODY,
        method,
        task=task,
        data=data,
        hyperparameters={"forest.splits": kind} if kind else {},
    )
    run(trainer)
    return trainer


# of scikit-learn's logistic and ridge regression, neighbours and forest on these
# splits, plus a margin
WORST = {
    "linear": (0.07, 0.05, 56.0),
    "nearest": (0.08, 0.06, 61.0),
    "forest": (0.09, 0.07, 60.0),
    "random forest": (0.09, 0.07, 60.0),
    "kernel_ridge": (0.05, 0.05, 58.0),
}


@pytest.mark.parametrize("method", WORST)
def test_they_learn_as_well_as_those_of_scikit_learn(
    method: str, tmp_path: Path
) -> None:
    for number, case in enumerate([DIGITS, CANCER, DIABETES]):
        trial = fitted(method, case)
        score = trial.result().test_score
        assert score is not None
        assert score < WORST[method][number]
        model = Predictor(trial.snapshot(), device="cpu")
        x = trial.trial.data.test.x[:]
        if case is not DIABETES:  # probabilities can be used
            loss = F.cross_entropy(
                torch.from_numpy(model.outputs(x)),
                torch.from_numpy(trial.trial.data.test.y),
            )
            assert loss < (0.25 if case is CANCER else 0.6)  # of guessing: 0.69 and 2.3
        model.save(tmp_path / str(number))
        np.testing.assert_array_equal(
            Predictor.load(tmp_path / str(number), device="cpu").outputs(x),
            model.outputs(x),
        )


@pytest.mark.parametrize(
    "method", ["linear", "forest", "kernel_ridge", "gradient_boosting"]
)
@pytest.mark.parametrize("case", [CANCER, DIABETES], ids=["classes", "numbers"])
def test_constant_values_of_a_table_change_nothing(method: str, case: Case) -> None:
    load, target, (_, length), domain = case

    def padded(**options: Any) -> tuple[np.ndarray, np.ndarray]:
        x, y = load(**options)
        return np.hstack([0 * x, x, 0 * x + 1]), y

    trials = fitted(method, case), fitted(method, (padded, target, (3, length), domain))
    plain, wide = (
        each.model(torch.from_numpy(each.trial.data.test.x[:])) for each in trials
    )
    torch.testing.assert_close(wide, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "shape", [(14, 30), (40, 6)], ids=["more features", "more samples"]
)
def test_left_out_predictions_are_those_of_regressions_on_all_others(
    shape: tuple[int, int],
) -> None:
    random = np.random.default_rng(0)
    penalties = (1e3, 2.0, 1e-6)
    x = StandardScaler().fit_transform(random.normal(size=shape))
    y = np.stack(
        [
            x[:, 0] + random.normal(size=len(x)),
            3 - x[:, 1] + 0.5 * random.normal(size=len(x)),
        ],
        axis=1,
    )
    errors = {}
    for penalty in penalties:
        weight, bias, left_out = best_left_out(
            torch.from_numpy(x.copy()), torch.from_numpy(y), [penalty]
        )
        others = [np.arange(len(x)) != row for row in range(len(x))]
        expected = [
            Ridge(alpha=penalty).fit(x[rest], y[rest]).predict(x[~rest])[0]
            for rest in others
        ]
        np.testing.assert_allclose(left_out, expected, rtol=1e-3, atol=1e-4)
        whole = x @ weight.numpy().T + bias.numpy()
        np.testing.assert_allclose(
            whole, Ridge(alpha=penalty).fit(x, y).predict(x), rtol=1e-3, atol=1e-5
        )
        errors[penalty] = ((np.array(expected) - y) ** 2).mean()
    best = best_left_out(torch.from_numpy(x.copy()), torch.from_numpy(y), penalties)[2]
    assert ((best.numpy() - y) ** 2).mean() == pytest.approx(
        min(errors.values()), rel=1e-3
    )


def test_the_logistic_regression_is_that_of_scikit_learn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linear, "_STRENGTHS", (0.1,))
    x, y = datasets.load_wine(return_X_y=True)
    scaled = StandardScaler().fit_transform(x)
    for places in (range(178), range(0, 178, 20)):  # and fewer samples than features
        chosen = list(places)
        rows = StandardScaler().fit_transform(scaled[chosen])
        split = Split(rows.astype(np.float32)[:, None], y[chosen].astype(np.int64))
        task = replace(make_task(CLASSES, (1, 13)), domain="tabular")
        trial = start(
            NO_BODY,
            "linear",
            task=task,
            data=replace(
                make_data(task),
                splits=dict.fromkeys(("train", "validation", "test"), split),
            ),
            hyperparameters={},
        )
        run(trial)
        found = (
            torch.softmax(trial.model(torch.from_numpy(split.x[:])), dim=1)
            .detach()
            .numpy()
        )
        expected = (
            LogisticRegression(C=0.1, tol=1e-8, max_iter=1000)
            .fit(rows, y[chosen])
            .predict_proba(rows)
        )
        np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize("method", ["linear", "hydra", "minirocket_hydra"])
def test_the_limit_bounds_predictions_far_from_all_training_samples(
    method: str, tmp_path: Path
) -> None:
    task = replace(make_task(Target("scalar"), (1, 40)), domain="time series")
    outputs = dict[float, Array]()
    x = make_data(task).test.x[:]
    x[0] *= 1e4
    for limit in (0.0, 10.0):
        values: dict[str, Scalar] = {"minirocket.features": 840, "linear.limit": limit}
        trial = start(NO_BODY, method, task=task, hyperparameters=values)
        run(trial)
        model = Predictor(trial.snapshot(), device="cpu")
        outputs[limit] = model.outputs(x)
        model.save(tmp_path / str(limit))
        loaded = Predictor.load(tmp_path / str(limit), device="cpu")
        np.testing.assert_array_equal(loaded.outputs(x), outputs[limit])
    np.testing.assert_allclose(outputs[10.0][1:], outputs[0.0][1:], atol=1e-3)
    assert (
        abs(outputs[10.0][0] - 6) < 6 < abs(outputs[0.0][0] - 6)
    )  # targets are between 5 and 7


@pytest.mark.parametrize(
    "method",
    [
        "linear",
        "nearest",
        "forest",
        "kernel_ridge",
        "hydra",
        "minirocket",
        "minirocket_hydra",
    ],
)
def test_nothing_is_chosen_on_validation_data(method: str) -> None:
    values: dict[str, Scalar] = {
        "minirocket.penalty": "leave_one_out",
        "minirocket.features": 840,
    }
    whole = make_data(TASK)
    noise = replace(whole.validation, y=np.roll(whole.validation.y, 1))
    other = replace(whole, splits={**whole.splits, "validation": noise})
    trials = [
        start(NO_BODY, method, data=data, hyperparameters=values)
        for data in (whole, other)
    ]
    for trial in trials:
        run(trial)
    first, second = (trial.model.state_dict() for trial in trials)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    score = trials[0].result().test_score
    assert score is not None
    assert score <= 0.25  # by chance: 2/3


def test_with_all_samples_a_fifth_of_them_chooses_the_penalty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ridge_stage, "MOST_EXACT", 0)
    asked: list[int] = []

    def score(predictions: Array, *rest: Any) -> float:
        asked.append(len(predictions))
        return 0.5

    monkeypatch.setattr(ridge_stage, "score", score)
    data = make_data(TASK)
    values: dict[str, Scalar] = {"minirocket.features": 840, "data.fold": -1}
    trial = start(NO_BODY, "minirocket", data=data, hyperparameters=values)
    run(trial)
    known = sum(map(len, data.splits.values()))
    assert asked[: len(PENALTIES)] == [known // 5] * len(PENALTIES)


@pytest.fixture
def one_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave one width and one penalty to choose from."""
    monkeypatch.setattr(kernel_ridge, "_WIDTHS", (1.0,))
    monkeypatch.setattr(kernel_ridge, "FINE_PENALTIES", (0.1,))


@pytest.mark.usefixtures("one_kernel")
@pytest.mark.parametrize("landmarks", [1000, 60])
def test_kernel_ridge_is_that_of_scikit_learn(
    landmarks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_ridge, "MOST_LANDMARKS", landmarks)
    monkeypatch.setattr(kernel_ridge, "MOST_FITTED", 180)  # of 189 training samples
    trial = fitted("kernel_ridge", DIABETES)
    model = trial.model
    data = trial.trial.data
    body = model.body
    assert isinstance(body, KernelBody)
    keys = body.keys.double().numpy()
    assert len(keys) == min(landmarks, 180)
    x = body.standardised(model.embed(torch.from_numpy(data.test.x[:]))[:, 0]).numpy()
    outputs = model(torch.from_numpy(data.test.x[:])).detach().numpy()
    far = model(torch.full((1, 1, 10), 1e9)).item()
    if (
        landmarks == 1000
    ):  # the landmarks are the samples; targets in their order are not stored
        rows = body.standardised(
            model.embed(torch.from_numpy(data.train.x[:]))[:, 0]
        ).numpy()
        chosen = cdist(keys, rows).argmin(axis=1)
        y = regression_targets(trial.trial).numpy()[chosen]
        centred = KernelCenterer().fit(own := rbf_kernel(keys, gamma=1))
        ridge = KernelRidge(alpha=0.1, kernel="precomputed").fit(
            centred.transform(own.copy()), y - y.mean()
        )
        expected = (
            ridge.predict(centred.transform(rbf_kernel(x, keys, gamma=1))) + y.mean()
        )
        np.testing.assert_allclose(outputs, expected[:, 0], rtol=1e-3, atol=2e-3)
    assert far == pytest.approx(float(body.weights), rel=1e-6)
    score = trial.result().test_score
    assert score is not None
    assert score < 65


def test_the_nearest_by_hand() -> None:
    body = NearestBody(1, 1, 3)
    body.scale = torch.ones(1)
    body.keys = torch.tensor([[0.0], [1.0], [5.0]]).half()
    body.values = torch.tensor([[1.0], [2.0], [9.0]])
    body.weights = torch.tensor([0.5, 0.5, 0.0])
    assert body(torch.tensor([[[0.4]], [[4.0]]])).flatten().tolist() == [1.5, 5.5]


@pytest.mark.parametrize("length", [9, 40])
def test_hydra_counts_the_winning_and_the_losing_kernels(length: int) -> None:
    body = HydraBody(length, 1, kernels=3, groups=2, seed=0)
    x = np.random.default_rng(0).normal(size=length)
    expected = []
    for number, weights in enumerate(body.weights[:, :, 0].numpy()):
        dilation = 2 ** (number // 2)
        series = np.diff(x) if number % 2 else x
        padded = np.pad(series, 4 * dilation)
        outputs = np.array(
            [
                [
                    sum(w[k] * padded[t + k * dilation] for k in range(9))
                    for t in range(len(series))
                ]
                for w in weights
            ]
        )
        won = [
            outputs[kernel][outputs.argmax(axis=0) == kernel].sum()
            for kernel in range(3)
        ]
        lost = [(outputs.argmin(axis=0) == kernel).sum() for kernel in range(3)]
        expected += [*np.sqrt(np.maximum(won, 0)), *np.sqrt(lost)]
    found = body(torch.from_numpy(x).float()[None, :, None])
    np.testing.assert_allclose(found.flatten().numpy(), expected, atol=1e-4)
    assert len(expected) == body.feature_width


def test_patterns_ignore_brightness_and_gradients_see_orientation() -> None:
    random = torch.rand(2, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    stripes = torch.arange(24.0).sin().expand(1, 1, 24, 24)
    plain, brighter, turned = (
        FEATURES["image"](x) for x in (random, 2 * random + 3, random.flip(3))
    )
    assert torch.equal(
        plain[:, -30:], brighter[:, -30:]
    )  # three radii, ten patterns each
    torch.testing.assert_close(plain[:, -30:], turned[:, -30:])
    start = 12 * 12  # after the averages of 2 x 2 pixels
    across, down = (
        FEATURES["image"](x)[0, start : start + 9 * 64].reshape(9, 64).mean(1)
        for x in (stripes, stripes.transpose(2, 3))
    )
    assert across.argmax() == 0
    assert down.argmax() in (
        4,
        5,
    )  # of nine orientations, the two that are 10 degrees off


ALL = pytest.mark.exhaustive


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "shape", "domain"),
    [
        pytest.param(Target("labels", 3), (2, 16), "time series", marks=ALL),
        (Target("scalar"), (1, 70), "time series"),
        (CLASSES, (1, 6), "tabular"),
        pytest.param(CLASSES, (1, 12, 30), "audio", marks=ALL),
        (Target("labels", 2), (3, 9, 20), "image"),
        (Target("dense", shape=(40, 40)), (2, 40, 40), "field"),
    ],
)
def test_they_take_any_kind_of_data_and_can_be_exported(
    target: Target, shape: tuple[int, ...], domain: str, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    task = replace(make_task(target, shape), domain=domain)
    of_kind = ["minirocket_hydra"] if domain == "time series" else []
    for method in (
        "linear",
        "nearest",
        *(["forest", "kernel_ridge"] if target.kind != "dense" else []),
        *of_kind,
    ):
        values: dict[str, Scalar] = (
            {"linear.limit": 10.0} if method != "nearest" else {}
        )
        trial = start(NO_BODY, method, task=task, hyperparameters=values)
        run(trial)
        score = trial.result().test_score
        assert score is not None
        assert score < {"scalar": 0.9, "dense": 0.6}.get(target.kind, 0.4)
        exported = export_model(
            Predictor(trial.snapshot(), device="cpu"), "onnx", tmp_path / method
        )
        assert exported.difference is not None
        assert exported.difference < 1e-4
