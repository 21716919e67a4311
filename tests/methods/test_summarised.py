"""`linear`, `nearest`, `kernel_ridge` and others equal scikit-learn on real data."""

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
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import KernelCenterer, StandardScaler
from torch import Tensor
from torch.nn import functional as F

from orca_ray.data.prepared import PreparedData, Split, SplitName
from orca_ray.data.rows import Array, Target
from orca_ray.errors import UserError
from orca_ray.export import export_model
from orca_ray.methods.options import Scalar
from orca_ray.methods.recipe import NO_BODY
from orca_ray.methods.registry import get_method
from orca_ray.methods.stages import kernel_ridge, linear
from orca_ray.methods.stages import ridge as ridge_stage
from orca_ray.methods.stages.ridge import FINE_PENALTIES, PENALTIES
from orca_ray.methods.stages.ridge_regression import best_left_out
from orca_ray.methods.stages.training_features import regression_targets
from orca_ray.methods.trial_trainer import TrialTrainer
from orca_ray.models import minirocket
from orca_ray.models.embedder import PointEmbedder
from orca_ray.models.features import FEATURES, KernelBody, NearestBody, StoredBody
from orca_ray.models.minirocket import HydraBody, MiniRocketBody
from orca_ray.predictor import Predictor
from orca_ray.testing.trials import CLASSES, TASK, make_data, make_task, run, start
from tests.training.training_toys import same

Case = tuple[Callable[..., tuple[np.ndarray, np.ndarray]], Target, tuple[int, ...], str]
DIGITS: Case = (datasets.load_digits, Target("classes", 10), (1, 8, 8), "image")
CANCER: Case = (datasets.load_breast_cancer, Target("classes", 2), (1, 30), "tabular")
DIABETES: Case = (datasets.load_diabetes, Target("scalar"), (1, 10), "tabular")


def fit(method: str, case: Case) -> TrialTrainer:
    """Return a finished trial on a data set of scikit-learn.

    The test has 30 % of the samples, and validation a tenth of the others. The method
    "random forest" is `forest` with random splits.
    """
    kind_of_splits, _, method = method.rpartition(" ")
    load, target, shape, domain = case
    x, y = load(return_X_y=True)
    y = y.astype(np.int64 if target.kind == "classes" else np.float32)
    train_x, test_x, train_y, test_y = train_test_split(
        x[:700], y[:700], test_size=0.3, random_state=0
    )
    scaler = StandardScaler().fit(train_x)

    def scale(x: np.ndarray) -> np.ndarray:
        scaled: np.ndarray = scaler.transform(x).astype(np.float32)
        return scaled.reshape(-1, *shape)

    train_x = scale(train_x)
    few = len(train_x) // 10
    splits: dict[SplitName, Split] = {
        "train": Split(train_x[few:], train_y[few:]),
        "validation": Split(train_x[:few], train_y[:few]),
        "test": Split(scale(test_x), test_y),
    }
    task = replace(
        make_task(target, shape),
        domain=domain,
        num_samples=(len(train_x) - few, few, len(test_x)),
    )
    data = PreparedData(
        name=task.name,
        fingerprint="0" * 16,
        y_mean=None,
        y_std=None,
        directory=Path("unused"),
        splits=splits,
    )
    values: dict[str, Scalar] = {}
    if kind_of_splits:
        values["forest.splits"] = kind_of_splits
    trainer = start(NO_BODY, method, task=task, data=data, hyperparameters=values)
    run(trainer)
    return trainer


LARGEST_ERRORS = {
    "linear": (0.07, 0.05, 56.0),
    "nearest": (0.08, 0.06, 61.0),
    "forest": (0.09, 0.07, 60.0),
    "random forest": (0.09, 0.07, 60.0),
    "kernel_ridge": (0.05, 0.05, 58.0),
}
"""Errors of scikit-learn's methods on digits, cancer and diabetes, plus a margin.

They are logistic and ridge regression, neighbours and forest on the same splits.
"""
LARGEST_LOG_LOSSES = (0.65, 0.25)
"""Bounds on digits and cancer; guessing has 2.3 and 0.69.

The forest of scikit-learn 1.6 has 0.601 on digits.
"""


@pytest.mark.parametrize("number", range(3), ids=["digits", "cancer", "diabetes"])
@pytest.mark.parametrize("method", LARGEST_ERRORS)
def test_methods_learn_as_well_as_those_of_scikit_learn(
    method: str, number: int, tmp_path: Path
) -> None:
    trial = fit(method, [DIGITS, CANCER, DIABETES][number])
    score = trial.result().test_score
    assert score is not None
    assert score < LARGEST_ERRORS[method][number]
    test = trial.trial.data.test
    model = Predictor(trial.snapshot(), device="cpu")
    outputs = model.outputs(test.x[:])
    if number < len(LARGEST_LOG_LOSSES):
        logits = torch.from_numpy(outputs)
        loss = F.cross_entropy(logits, torch.from_numpy(np.asarray(test.y)))
        assert loss < LARGEST_LOG_LOSSES[number]
    model.save(tmp_path / "model")
    loaded = Predictor.load(tmp_path / "model", device="cpu")
    np.testing.assert_array_equal(loaded.outputs(test.x[:]), outputs)


@pytest.mark.parametrize(
    "method", ["linear", "forest", "kernel_ridge", "gradient_boosting"]
)
@pytest.mark.parametrize("case", [CANCER, DIABETES], ids=["classes", "numbers"])
def test_constant_values_of_a_table_change_nothing(method: str, case: Case) -> None:
    load, target, (_, length), domain = case

    def load_padded(**options: Any) -> tuple[np.ndarray, np.ndarray]:
        x, y = load(**options)
        return np.hstack([0 * x, x, 0 * x + 1]), y

    def predict(case: Case) -> Tensor:
        trial = fit(method, case)
        outputs: Tensor = trial.model(torch.from_numpy(trial.trial.data.test.x[:]))
        return outputs

    padded_case = (load_padded, target, (3, length), domain)
    torch.testing.assert_close(
        predict(padded_case), predict(case), rtol=1e-5, atol=1e-5
    )


def load_forecast(**options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return series of 72 hours, and the value twelve hours later.

    A series has a level, and waves of a day and half a day with random phases.
    """
    random = np.random.default_rng(0)
    hours = np.arange(84)
    x = random.normal(size=(700, 1)) + 0.05 * random.normal(size=(700, 84))
    for period in (24, 12):
        phases = random.uniform(0, 2 * np.pi, size=(700, 1))
        x += np.sin(2 * np.pi * hours / period + phases)
    return x[:, :72], x[:, 83]


def test_values_alone_forecast_a_series_better_than_with_its_summaries() -> None:
    case = (load_forecast, Target("scalar"), (1, 72), "time series")
    trial = fit("linear_values", case)
    score = trial.result().test_score
    score_with_summaries = fit("linear", case).result().test_score
    assert score is not None
    assert score_with_summaries is not None
    assert score < 0.8 * score_with_summaries
    train = trial.trial.data.train
    test = trial.trial.data.test
    ridge = RidgeCV(FINE_PENALTIES).fit(train.x[:][:, 0], train.y)
    outputs = trial.model(torch.from_numpy(test.x[:])).detach().numpy()
    expected = ridge.predict(test.x[:][:, 0])
    np.testing.assert_allclose(outputs, expected, atol=0.01)


def test_values_of_very_long_series_are_refused() -> None:
    task = replace(make_task(CLASSES, (3, 2**15)), domain="time series")
    problem = get_method("linear_values").problem(task)
    assert problem is not None
    assert problem.startswith("an input has 98304 values; at most 65536")


@pytest.mark.parametrize(
    ("method", "largest_score"),
    [("forest", 60.0), ("kernel_ridge", 58.0), ("gradient_boosting", 63.0)],
)
def test_no_number_of_several_dominates_and_their_model_is_stored_and_exported(
    method: str, largest_score: float, tmp_path: Path
) -> None:
    """The second number is the disease score, the first one is not predictable."""

    def fit_two(scale: float) -> TrialTrainer:
        def load(**options: Any) -> tuple[np.ndarray, np.ndarray]:
            x, y = datasets.load_diabetes(**options)
            noise = np.random.default_rng(0).normal(size=len(y))
            return x, np.stack([scale * noise, y], axis=1)

        return fit(method, (load, Target("dense", shape=(2,)), (1, 10), "tabular"))

    trial = fit_two(1.0)
    test = trial.trial.data.test
    model = Predictor(trial.snapshot(), device="cpu")
    outputs = model.outputs(test.x[:])
    assert outputs.shape == (len(test.x), 2)
    errors = np.asarray(test.y) - outputs
    assert np.sqrt((errors[:, 1] ** 2).mean()) < largest_score
    scaled_outputs = Predictor(fit_two(1e4).snapshot(), device="cpu").outputs(test.x[:])
    if method != "gradient_boosting":  # its epochs are compared by the task's metric
        np.testing.assert_allclose(scaled_outputs[:, 1], outputs[:, 1], rtol=0.02)
    model.save(tmp_path / "model")
    loaded = Predictor.load(tmp_path / "model", device="cpu")
    np.testing.assert_array_equal(loaded.outputs(test.x[:]), outputs)
    exported = export_model(model, "torch", tmp_path / "network.pt2")
    assert exported.difference is not None
    assert exported.difference < 1e-4


@pytest.mark.parametrize(
    "shape", [(14, 30), (40, 6)], ids=["more features", "more samples"]
)
def test_left_out_predictions_are_those_of_regressions_on_all_others(
    shape: tuple[int, int],
) -> None:
    random = np.random.default_rng(0)
    penalties = (1e3, 2.0, 1e-6)
    x = StandardScaler().fit_transform(random.normal(size=shape))
    first_y = x[:, 0] + random.normal(size=len(x))
    second_y = 3 - x[:, 1] + 0.5 * random.normal(size=len(x))
    y = np.stack([first_y, second_y], axis=1)
    errors = []
    for penalty in penalties:
        ridge = Ridge(alpha=penalty)
        left_out = np.empty_like(y)
        for row in range(len(x)):
            is_other = np.arange(len(x)) != row
            ridge.fit(x[is_other], y[is_other])
            left_out[row] = ridge.predict(x[[row]])
        fitted = ridge.fit(x, y).predict(x)
        weight, bias, predictions = best_left_out(
            torch.from_numpy(x.copy()), torch.from_numpy(y), [penalty]
        )
        np.testing.assert_allclose(predictions, left_out, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(
            x @ weight.numpy().T + bias.numpy(), fitted, rtol=1e-3, atol=1e-5
        )
        errors.append(((left_out - y) ** 2).mean())
    _, _, best = best_left_out(
        torch.from_numpy(x.copy()), torch.from_numpy(y), penalties
    )
    error = ((best.numpy() - y) ** 2).mean()
    assert error == pytest.approx(min(errors), rel=1e-3)


@pytest.mark.parametrize("step", [1, 20], ids=["more samples", "more features"])
def test_the_logistic_regression_is_that_of_scikit_learn(
    step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "_STRENGTHS", (0.1,))
    x, y = datasets.load_wine(return_X_y=True)
    x = StandardScaler().fit_transform(x[::step])
    y = y[::step]
    split = Split(x.astype(np.float32)[:, None], y.astype(np.int64))
    splits: dict[SplitName, Split] = {
        "train": split,
        "validation": split,
        "test": split,
    }
    task = replace(make_task(CLASSES, (1, 13)), domain="tabular")
    data = replace(make_data(task), splits=splits)
    trial = start(NO_BODY, "linear", task=task, data=data, hyperparameters={})
    run(trial)
    logits = trial.model(torch.from_numpy(split.x[:]))
    probabilities = torch.softmax(logits, dim=1).detach().numpy()
    reference = LogisticRegression(C=0.1, tol=1e-8, max_iter=1000).fit(x, y)
    np.testing.assert_allclose(probabilities, reference.predict_proba(x), atol=2e-3)


@pytest.mark.parametrize("method", ["linear", "hydra", "minirocket_hydra"])
def test_the_limit_bounds_predictions_far_from_all_training_samples(
    method: str, tmp_path: Path
) -> None:
    task = replace(make_task(Target("scalar"), (1, 40)), domain="time series")
    x = make_data(task).test.x[:]
    x[0] *= 1e4

    def predict(limit: float) -> Array:
        values: dict[str, Scalar] = {"minirocket.features": 840, "linear.limit": limit}
        trial = start(NO_BODY, method, task=task, hyperparameters=values)
        run(trial)
        model = Predictor(trial.snapshot(), device="cpu")
        outputs = model.outputs(x)
        model.save(tmp_path / str(limit))
        loaded = Predictor.load(tmp_path / str(limit), device="cpu")
        np.testing.assert_array_equal(loaded.outputs(x), outputs)
        return outputs

    far, *near = predict(limit=0.0)
    far_limited, *near_limited = predict(limit=10.0)
    np.testing.assert_allclose(near_limited, near, atol=1e-3)
    # Targets are between 5 and 7.
    assert abs(far_limited - 6) < 6
    assert abs(far - 6) > 6


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
    data = make_data(TASK)
    wrong_labels = replace(data.validation, y=np.roll(data.validation.y, 1))
    noisy_data = replace(data, splits={**data.splits, "validation": wrong_labels})
    trial = start(NO_BODY, method, data=data, hyperparameters=values)
    noisy_trial = start(NO_BODY, method, data=noisy_data, hyperparameters=values)
    run(trial)
    run(noisy_trial)
    assert same(trial.model.state_dict(), noisy_trial.model.state_dict())
    score = trial.result().test_score
    assert score is not None
    assert score <= 0.25  # by chance: 2/3


def test_few_features_are_fitted_if_samples_and_features_are_very_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ridge_stage, "MOST_EXACT", 40)
    monkeypatch.setattr(ridge_stage, "FEWER_FEATURES", 30)
    values: dict[str, Scalar] = {"minirocket.features": 840}
    trial = start(NO_BODY, "minirocket_hydra", hyperparameters=values)
    run(trial)
    weight = trial.model.state_dict()["head.output.weight"]
    assert (weight != 0).any(dim=0).sum() == 30
    outcome = trial.result()
    assert f"fitted on 30 of {weight.shape[1]} features" in (outcome.notes or "")
    assert outcome.test_score is not None
    assert outcome.test_score <= 0.25  # by chance: 2/3


@pytest.mark.parametrize(("fold", "num_unused"), [(-1, 0), (-2, 1)])
def test_a_fifth_of_the_samples_chooses_the_penalty_if_all_are_fitted(
    fold: int, num_unused: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_predictions: list[int] = []

    def score(predictions: Array, *rest: Any) -> float:
        num_predictions.append(len(predictions))
        return 0.5

    monkeypatch.setattr(ridge_stage, "score", score)
    data = make_data(TASK)
    values: dict[str, Scalar] = {"minirocket.features": 840, "data.fold": fold}
    trial = start(NO_BODY, "minirocket", data=data, hyperparameters=values)
    run(trial)
    num_samples = sum(map(len, data.splits.values())) - num_unused * len(data.test)
    expected = [num_samples // 5] * len(PENALTIES)
    assert num_predictions[: len(PENALTIES)] == expected


@pytest.fixture
def one_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave one width and one penalty to choose from."""
    monkeypatch.setattr(kernel_ridge, "_WIDTHS", (1.0,))
    monkeypatch.setattr(kernel_ridge, "FINE_PENALTIES", (0.1,))


MOST_FITTED = 180
"""Samples that the kernel regressions here may use, of 189 training samples."""


def fit_kernel_ridge(
    num_landmarks: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[TrialTrainer, KernelBody]:
    monkeypatch.setattr(kernel_ridge, "MOST_LANDMARKS", num_landmarks)
    monkeypatch.setattr(kernel_ridge, "MOST_FITTED", MOST_FITTED)
    trial = fit("kernel_ridge", DIABETES)
    body = trial.model.body
    assert isinstance(body, KernelBody)
    return trial, body


@pytest.mark.usefixtures("one_kernel")
def test_kernel_ridge_is_that_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    trial, body = fit_kernel_ridge(1000, monkeypatch)
    data = trial.trial.data

    def standardise(x: Array) -> np.ndarray:
        tokens = trial.model.embed(torch.from_numpy(x))
        return body.standardised(tokens[:, 0]).numpy()

    # The landmarks are training samples, in an order that is not stored.
    keys = body.keys.double().numpy()
    samples_of_keys = cdist(keys, standardise(data.train.x[:])).argmin(axis=1)
    y = regression_targets(trial.trial).numpy()[samples_of_keys]
    kernel = rbf_kernel(keys, gamma=1)
    centre = KernelCenterer().fit(kernel)
    ridge = KernelRidge(alpha=0.1, kernel="precomputed")
    ridge.fit(centre.transform(kernel.copy()), y - y.mean())
    test_kernel = rbf_kernel(standardise(data.test.x[:]), keys, gamma=1)
    expected = ridge.predict(centre.transform(test_kernel)) + y.mean()
    outputs = trial.model(torch.from_numpy(data.test.x[:])).detach().numpy()
    np.testing.assert_allclose(outputs, expected[:, 0], rtol=1e-3, atol=2e-3)


@pytest.mark.usefixtures("one_kernel")
@pytest.mark.parametrize("num_landmarks", [1000, 60])
def test_kernel_ridge_has_few_landmarks_and_a_bias_far_from_them(
    num_landmarks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, body = fit_kernel_ridge(num_landmarks, monkeypatch)
    assert len(body.keys) == min(num_landmarks, MOST_FITTED)
    far = trial.model(torch.full((1, 1, 10), 1e9)).item()
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


def test_the_convolutions_of_one_channel_are_laid_out_channel_by_channel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With channels last, comparisons with biases take eight times as long."""
    steps: list[int] = []

    def record_step(outputs: Tensor, biases: Tensor) -> Tensor:
        steps.append(outputs.stride(2))
        return torch.zeros(*outputs.shape[:2], biases.shape[1])

    monkeypatch.setattr(minirocket, "_shares_above", record_step)
    body = MiniRocketBody(60, 1, {1: 2, 2: 1}, seed=0)
    embedder = PointEmbedder((1, 60))
    body(embedder(torch.zeros(3, 1, 60)))
    assert steps == [1, 1, 1, 1]


@pytest.mark.parametrize("length", [9, 40])
def test_hydra_counts_the_winning_and_the_losing_kernels(length: int) -> None:
    body = HydraBody(length, 1, kernels=3, groups=2, seed=0)
    x = np.random.default_rng(0).normal(size=length)
    expected: list[float] = []
    for number, kernels in enumerate(body.weights[:, :, 0].numpy()):
        dilation = 2 ** (number // 2)
        series = np.diff(x) if number % 2 else x
        outputs = convolve(series, kernels, dilation)
        is_highest = outputs.argmax(axis=0) == np.arange(3)[:, None]
        is_lowest = outputs.argmin(axis=0) == np.arange(3)[:, None]
        sums_of_wins = np.where(is_highest, outputs, 0).sum(axis=1)
        expected += np.sqrt(np.maximum(sums_of_wins, 0)).tolist()
        expected += np.sqrt(is_lowest.sum(axis=1)).tolist()
    features = body(torch.from_numpy(x).float()[None, :, None])
    np.testing.assert_allclose(features.flatten().numpy(), expected, atol=1e-4)
    assert len(expected) == body.feature_width


def convolve(series: Array, kernels: Array, dilation: int) -> Array:
    """Return the outputs [K, T] of kernels [K, 9] at each step of a series [T]."""
    padded = np.pad(series, 4 * dilation)
    outputs = np.zeros((len(kernels), len(series)))
    for position in range(9):
        start = position * dilation
        outputs += kernels[:, [position]] * padded[start : start + len(series)]
    return outputs


def test_patterns_ignore_brightness_and_gradients_see_orientation() -> None:
    image_features = FEATURES["image"]

    def patterns(x: Tensor) -> Tensor:
        """Return the last features: ten patterns at each of three radii."""
        return image_features(x)[:, -30:]

    def main_orientation(x: Tensor) -> int:
        """Return the largest of nine gradients, after the means of 2 x 2 pixels."""
        num_means = 12 * 12
        gradients = image_features(x)[0, num_means : num_means + 9 * 64]
        return int(gradients.reshape(9, 64).mean(1).argmax())

    random = torch.rand(2, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    assert torch.equal(patterns(2 * random + 3), patterns(random))
    torch.testing.assert_close(patterns(random.flip(3)), patterns(random))
    stripes = torch.arange(24.0).sin().expand(1, 1, 24, 24)
    assert main_orientation(stripes) == 0
    # Two of the nine orientations are 10 degrees off.
    assert main_orientation(stripes.transpose(2, 3)) in (4, 5)


def test_features_of_recordings_see_the_order_in_time() -> None:
    """Statistics over time are those of the bands and of their differences."""
    spectrogram = torch.rand(1, 1, 5, 64, generator=torch.Generator().manual_seed(0))
    ascending = spectrogram.sort(dim=3).values
    audio_features = FEATURES["audio"]
    num_bands = 5
    means_and_deviations = slice(0, 2 * num_bands)
    torch.testing.assert_close(
        audio_features(ascending)[:, means_and_deviations],
        audio_features(spectrogram)[:, means_and_deviations],
    )
    deviations_of_differences = slice(3 * num_bands, 4 * num_bands)
    torch.testing.assert_close(
        audio_features(spectrogram)[0, deviations_of_differences],
        spectrogram[0, 0].diff(dim=1).std(dim=1, correction=0),
    )
    assert audio_features(spectrogram[..., :1]).isfinite().all()


EXHAUSTIVE = pytest.mark.exhaustive


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "shape", "domain"),
    [
        pytest.param(Target("labels", 3), (2, 16), "time series", marks=EXHAUSTIVE),
        (Target("scalar"), (1, 70), "time series"),
        (CLASSES, (1, 6), "tabular"),
        pytest.param(CLASSES, (1, 12, 30), "audio", marks=EXHAUSTIVE),
        (Target("labels", 2), (3, 9, 20), "image"),
        (Target("dense", shape=(40, 40)), (2, 40, 40), "field"),
        (Target("dense", shape=(3,)), (1, 6), "tabular"),
    ],
)
def test_methods_take_any_kind_of_data_and_can_be_exported(
    target: Target, shape: tuple[int, ...], domain: str, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    task = replace(make_task(target, shape), domain=domain)
    largest_score = {"scalar": 0.9, "dense": 0.6}.get(target.kind, 0.4)
    methods = ["linear", "nearest"]
    if target.kind != "dense" or domain == "tabular":
        methods += ["forest", "kernel_ridge"]
    if domain == "tabular":
        pytest.importorskip("lightgbm")
        methods.append("gradient_boosting")
    if domain == "time series":
        methods += ["linear_values", "minirocket_hydra"]
    for method in methods:
        values: dict[str, Scalar] = {}
        if method != "nearest":
            values["linear.limit"] = 10.0
        trial = start(NO_BODY, method, task=task, hyperparameters=values)
        run(trial)
        score = trial.result().test_score
        assert score is not None
        assert score < largest_score
        predictor = Predictor(trial.snapshot(), device="cpu")
        exported = export_model(predictor, "onnx", tmp_path / method)
        assert exported.difference is not None
        assert exported.difference < 1e-4


@pytest.mark.parametrize(
    ("body", "keys", "message"),
    [
        (NearestBody(1, 1, 50), 50_001, "stores 50,001 training samples"),
        (KernelBody(1, 1), 1001, "stores 1,001 training samples"),
    ],
)
def test_more_samples_than_the_method_stores_are_refused(
    body: StoredBody, keys: int, message: str
) -> None:
    state = body.state_dict()
    state["keys"] = torch.zeros(keys, 1, dtype=torch.float16)
    state["values"] = torch.zeros(keys, 1, dtype=body.values.dtype)
    with pytest.raises(UserError, match=message):
        body.load_state_dict(state)


def test_the_nearest_of_classes_of_one_sample_is_the_class_of_the_nearest() -> None:
    """Leave-one-out cannot choose, as no other sample has the class left out."""
    task = replace(make_task(Target("classes", 20), (1, 5)), domain="tabular")
    x = np.random.default_rng(0).normal(size=(20, 1, 5)).astype(np.float32)
    split = Split(x, np.arange(20))
    splits: dict[SplitName, Split] = {
        "train": split,
        "validation": split,
        "test": split,
    }
    data = replace(make_data(task), splits=splits)
    trial = start(NO_BODY, "nearest", task=task, data=data, hyperparameters={})
    run(trial)
    assert trial.result().test_score == 0
