"""The estimators keep scikit-learn's contract and learn.

Also the methods that an adaptation compares.
"""

import importlib.util
import logging
import pickle
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import orca_ray
from orca_ray import CrossModalClassifier, CrossModalRegressor, estimators
from orca_ray.api import AdaptationSweep, usual_methods
from orca_ray.cli.app import run
from orca_ray.data.rows import Target
from orca_ray.errors import DataWarning, UserError
from orca_ray.tasks.task import Task
from orca_ray.testing.suite import save_bert, save_vit
from orca_ray.testing.trials import CLASSES, make_task

RNG = np.random.default_rng(0)
Y = np.arange(60) % 3
NAMES = np.array(["oak", "ash", "elm"])[Y]
TABLE = RNG.normal(size=(60, 4)) + Y[:, None]
SERIES = RNG.normal(size=(60, 2, 20)) + 2 * Y[:, None, None]
IMAGES = RNG.normal(size=(60, 1, 16, 16)) + Y[:, None, None, None]
UNEQUAL = [sample[:, : 10 + row % 7] for row, sample in enumerate(SERIES)]
FRAME = pd.DataFrame(
    {"height": TABLE[:, 0], "soil": np.array(["clay", "sand", "loam"])[Y]}
)


pytestmark = pytest.mark.usefixtures("module_home")


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Parameters of a fit that takes a tenth of a second."""
    body = save_bert(tmp_path_factory.mktemp("bert"))
    return {
        "body": body,
        "method": "nft",
        "epochs": 3,
        "learning_rate": 3e-3,
        "random_state": 0,
        "device": "cpu",
    }


@pytest.fixture(scope="module")
def fitted(quick: dict[str, Any]) -> CrossModalClassifier:
    return CrossModalClassifier(**quick | {"epochs": 30}).fit(FRAME, NAMES)


def test_a_table_with_categories(fitted: CrossModalClassifier) -> None:
    assert fitted.classes_.tolist() == ["ash", "elm", "oak"]
    assert fitted.feature_names_in_.tolist() == ["height", "soil"]
    assert fitted.n_features_in_ == 2
    assert fitted.score(FRAME, NAMES) > 0.9
    probabilities = fitted.predict_proba(FRAME)
    assert probabilities.shape == (60, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    most_probable = fitted.classes_[probabilities.argmax(axis=1)]
    assert (fitted.predict(FRAME) == most_probable).all()


def test_dates_missing_values_rare_classes_and_fitting_again(
    quick: dict[str, Any],
) -> None:
    frame = FRAME.assign(
        sown=pd.date_range("2024-01-01", periods=60),
        height=np.where(Y == 1, np.nan, TABLE[:, 0]),
    )
    names = np.where(np.arange(60) == 7, "yew", NAMES)
    model = CrossModalClassifier(**quick).fit(
        frame, pd.Series(names, dtype="category", name="tree")
    )
    assert model.classes_.tolist() == ["ash", "elm", "oak", "yew"]
    assert model.predict_proba(frame).shape == (60, 4)
    assert model.fit(UNEQUAL, Y % 2 == 0).classes_.tolist() == [False, True]
    assert not hasattr(model, "feature_names_in_")
    assert model.predict(UNEQUAL).dtype == bool


def test_a_pickle_and_a_model_folder_predict_the_same(
    fitted: CrossModalClassifier, tmp_path: Path
) -> None:
    copy = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(
        copy.predict_proba(FRAME), fitted.predict_proba(FRAME)
    )
    loaded = orca_ray.load(fitted.adapted_.save(tmp_path / "model"), device="cpu")
    np.testing.assert_array_equal(loaded.predict(FRAME), fitted.predict(FRAME))


@pytest.mark.parametrize(
    ("x", "shape"),
    [(TABLE, (1, 4)), (SERIES, (2, 20)), (UNEQUAL, (2, 16)), (IMAGES, (1, 16, 16))],
)
def test_inputs(
    quick: dict[str, Any], tmp_path: Path, x: Any, shape: tuple[int, ...]
) -> None:
    body = save_vit(tmp_path) if x is IMAGES else quick["body"]
    model = CrossModalClassifier(**quick | {"body": body}).fit(x, Y)
    assert model.adapted_.task.input_shape == shape
    assert model.predict(x).dtype == Y.dtype
    np.testing.assert_allclose(
        model.predict_proba(x[:1]), model.predict_proba(x)[:1], atol=1e-5
    )
    if isinstance(x, list):
        as_array = np.empty(len(x), dtype=object)
        as_array[:] = x
        np.testing.assert_array_equal(model.predict(as_array), model.predict(x))
    assert hasattr(model, "n_features_in_") == (not isinstance(x, list))


def test_numbers_and_their_units(quick: dict[str, Any]) -> None:
    y = pd.Series(1000 + 50 * TABLE.sum(axis=1), name="price")
    model = CrossModalRegressor(**quick | {"epochs": 30}).fit(TABLE, y)
    assert model.score(TABLE, y) > 0.5
    assert model.predict(TABLE).shape == (60,)


def test_fits_of_one_seed_are_equal_and_leave_nothing_in_the_cache(
    quick: dict[str, Any], empty_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [
        CrossModalClassifier(**quick | {"random_state": seed}).fit(SERIES, Y)
        for seed in (1, 1, 2)
    ]
    first, same_seed, other_seed = (model.predict_proba(SERIES) for model in models)
    np.testing.assert_array_equal(first, same_seed)
    assert not np.array_equal(first, other_seed)
    assert not empty_home.exists()
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_a_method_that_aligns_caches_only_the_source(
    quick: dict[str, Any], empty_home: Path
) -> None:
    model = CrossModalClassifier(
        **quick | {"method": "orca_guarded"}, hyperparameters={"align.epochs": 2}
    )

    def cached_files() -> list[str]:
        return sorted(path.name for path in empty_home.rglob("*") if path.is_file())

    assert model.fit(SERIES, Y).adapted_.config.method == "orca_guarded"
    files = cached_files()
    assert not {"aligned", "prepared"} & {path.name for path in empty_home.iterdir()}
    model.fit(SERIES + 1, Y)
    assert cached_files() == files


def test_weights_decide_between_contradicting_samples(quick: dict[str, Any]) -> None:
    longer = quick | {"epochs": 15}
    x = np.repeat(TABLE, 2, axis=0)
    y = np.arange(120) % 2
    for favoured in (0, 1):
        weight = np.where(y == favoured, 8, 2)
        classifier = CrossModalClassifier(**longer).fit(x, y, weight)
        assert np.mean(classifier.predict(x) == favoured) > 0.75
        regressor = CrossModalRegressor(**longer)
        regressor.fit(x, y, sample_weight=pd.Series(weight))
        mean = regressor.predict(x).mean()
        assert mean == pytest.approx(0.2 + 0.6 * favoured, abs=0.15)
        assert set(weight) == {2, 8}, "not changed"


def test_classes_of_unequal_sizes_and_their_weights_do_not_count_twice(
    quick: dict[str, Any],
) -> None:
    x = np.random.default_rng(0).normal(size=(360, 4))
    y = np.maximum(np.arange(360) % 12 - 9, 0)
    random_weight = np.random.default_rng(0).uniform(0.5, 1.5, 360)
    model = CrossModalClassifier(**quick, hyperparameters={"data.fraction": 0.9})
    for weight in (np.where(y, 10.0, 1.0), random_weight):
        model.fit(x, y, weight)
        assert model.adapted_.task.loss == "cross_entropy"
        assert model.predict_proba(x).mean(axis=0) == pytest.approx(1 / 3, abs=0.12)


def test_samples_of_weight_0_are_absent_and_equal_weights_change_nothing(
    quick: dict[str, Any],
) -> None:
    for method, x in (("nft", FRAME), ("nearest", UNEQUAL)):
        model = CrossModalClassifier(**quick | {"method": method})
        for weight in (np.where(Y < 2, 4, 0), [0.5] * 60):
            rows = np.flatnonzero(weight)
            weighted = model.fit(x, NAMES, weight).predict_proba(x)
            assert set(model.classes_) == set(NAMES[rows])
            part = FRAME.iloc[rows] if x is FRAME else [UNEQUAL[row] for row in rows]
            unweighted = model.fit(part, NAMES[rows]).predict_proba(x)
            np.testing.assert_array_equal(weighted, unweighted)


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (np.ones(59), "inconsistent numbers of samples"),
        (np.ones((60, 2)), "1d array"),
        (Y - 1, "at least 0"),
        (0 * Y, "not zero for all"),
        (np.where(Y, np.nan, 1), "sample_weight contains NaN"),
        (Y == 0, "two classes or more"),
        (
            Y + 1,
            (
                "nearest takes no sample_weight but 0 and 1: give a method that trains"
                " by epochs"
            ),
        ),
    ],
)
def test_weights_that_cannot_be_used(weight: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        CrossModalClassifier(method="nearest").fit(TABLE, Y, sample_weight=weight)


def test_pipeline_cross_validation_and_grid(quick: dict[str, Any]) -> None:
    pipeline = make_pipeline(StandardScaler(), CrossModalClassifier(**quick))
    scores = cross_val_score(CrossModalClassifier(**quick), UNEQUAL, Y, cv=2)
    assert scores.shape == (2,)
    grid = {
        "crossmodalclassifier__epochs": np.array([1, 2]),
        "crossmodalclassifier__learning_rate": [3e-3],
    }
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(TABLE, Y)
    assert search.best_params_["crossmodalclassifier__epochs"] in (1, 2)
    assert clone(search.best_estimator_[-1]).get_params()["body"] == quick["body"]


def test_what_is_unusual_is_a_warning(
    quick: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(estimators, "_warned", set())
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        for _ in range(2):
            with pytest.raises(DataWarning):
                CrossModalClassifier(**quick).fit(TABLE, Y)
    with pytest.warns(DataWarning, match="^CrossModalClassifier: 60 samples are few"):
        CrossModalClassifier(**quick).fit(TABLE, Y)
    assert not [
        record for record in caplog.records if record.levelno >= logging.WARNING
    ]


def test_progress_is_logged(
    quick: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    def messages() -> list[str]:
        return [
            record.getMessage()
            for record in caplog.records
            if record.name == "orca_ray.estimators"
        ]

    with caplog.at_level(logging.INFO, "orca_ray.estimators"):
        CrossModalClassifier(**quick, verbose=True).fit(TABLE, Y)
        assert [text.split(":")[0] for text in messages()] == [
            f"refine, epoch {epoch} of 3" for epoch in (1, 2, 3)
        ]
        caplog.clear()
        CrossModalClassifier(**quick).fit(TABLE, Y)
    assert not messages()


@pytest.mark.parametrize(
    ("parameters", "x", "y", "expected"),
    [
        ({"method": "orka"}, TABLE, Y, "orca"),
        (
            {"validation_fraction": 0.5},
            TABLE,
            Y,
            "validation_fraction must be above 0 and below 0.5, got 0.5",
        ),
        (
            {"hyperparameters": {"refine.epochs": 2}},
            TABLE,
            Y,
            "refine.epochs is given twice",
        ),
        ({"hyperparameters": {"refine.epoch": 2}}, TABLE, Y, "refine.epochs"),
        ({"learning_rate": -1.0}, TABLE, Y, "learning_rate"),
        ({"device": "abacus"}, TABLE, Y, "cannot use the device 'abacus'"),
        ({}, TABLE, np.zeros(60, int), "two classes or more"),
        ({}, TABLE[:8], Y[:8], "at least 10 samples"),
        ({}, TABLE, None, "the target y is None"),
        ({}, RNG.normal(size=(60, 1, 2, 3, 4)), Y, "samples of 4 axes"),
    ],
)
def test_errors_of_fit(
    quick: dict[str, Any], parameters: dict[str, Any], x: Any, y: Any, expected: str
) -> None:
    with pytest.raises(UserError, match=expected):
        CrossModalClassifier(**quick | parameters).fit(x, y)


def test_errors_of_predict(quick: dict[str, Any], fitted: CrossModalClassifier) -> None:
    with pytest.raises(NotFittedError):
        CrossModalClassifier(**quick).predict(TABLE)
    with pytest.raises(ValueError, match="feature names should match"):
        fitted.predict(FRAME.rename(columns={"soil": "ground"}))
    with pytest.raises(UserError, match="expected a number"):
        fitted.predict(FRAME.assign(height="tall"))


RANDOM = {
    "check_sample_weight_equivalence_on_dense_data": (
        "too few samples, and their order is random"
    )
}


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("estimator", [CrossModalClassifier, CrossModalRegressor])
def test_scikit_learns_checks(quick: dict[str, Any], estimator: type[Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_estimator(
            estimator(**quick | {"epochs": 40}), expected_failed_checks=RANDOM
        )


TABULAR = replace(make_task(CLASSES, (1, 4)), domain="tabular")
OF_SERIES = replace(make_task(CLASSES), domain="time series")
INSTALL = (
    "gradient_boosting is not compared: it needs the package lightgbm: pip install"
    " 'orca-ray[trees]'"
)


@pytest.fixture
def without_lightgbm(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.delitem(sys.modules, "lightgbm", raising=False)
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == "lightgbm" else find_spec(name),
    )


@pytest.mark.parametrize(
    ("task", "baselines"),
    [
        (TABULAR, "linear nearest kernel_ridge forest gradient_boosting"),
        (OF_SERIES, "linear linear_values nearest minirocket minirocket_hydra cnn"),
        (make_task(Target("dense", shape=(8, 8)), (2, 8, 8)), "linear fno unet"),
        (
            replace(make_task(CLASSES, (3, 8, 8)), domain="image"),
            "linear nearest forest cnn",
        ),
    ],
)
def test_the_usual_baselines_are_compared(task: Task, baselines: str) -> None:
    transformers = ("linear_probe", "nft", "orca_guarded", "orca", "scratch")
    assert usual_methods(task) == dict.fromkeys((*baselines.split(), *transformers))


@pytest.mark.usefixtures("without_lightgbm")
def test_a_baseline_whose_package_is_missing_is_left_out() -> None:
    assert AdaptationSweep(task=TABULAR).left_out() == [INSTALL]
    assert AdaptationSweep(task=TABULAR, methods=["nft"]).left_out() == []


def test_a_baseline_that_cannot_adapt_to_the_task_is_left_out() -> None:
    why = "its kernels have 9 positions, and the series of this task have 5"
    short = AdaptationSweep(task=replace(OF_SERIES, input_shape=(2, 5)))
    assert sorted(short.left_out()) == [
        f"{name} is not compared: {why}" for name in ("minirocket", "minirocket_hydra")
    ]


@pytest.mark.usefixtures("without_lightgbm", "empty_home")
def test_what_is_left_out_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    y = np.arange(60) % 2
    table = pd.DataFrame({"a": np.random.default_rng(0).normal(size=60), "kind": y})
    table.to_csv("t.csv", index=False)
    assert run(["adapt", "t.csv", "--target", "kind", "--dry-run"]) == 0
    printed = capfd.readouterr().out.splitlines()
    Path("t-model.html").write_text("mine")
    assert run(["adapt", "t.csv", "--target", "kind", "--dry-run"]) == 2
    assert (
        "t-model.html, where the page is written, has other content: move it, or give"
        " --out" in capfd.readouterr().err
    )
    assert printed.count(INSTALL) == 1
    assert not any("gradient_boosting:" in line for line in printed)
    monkeypatch.setattr(AdaptationSweep, "run", lambda self: None)
    with caplog.at_level(logging.WARNING), pytest.raises(UserError, match="no trial"):
        orca_ray.adapt((table[["a"]], y), results=str(tmp_path / "results"))
    assert INSTALL in caplog.messages


S3 = "s3://bucket/results?region=eu"


@pytest.mark.parametrize(
    ("given", "shared"),
    [
        ({"address": "auto", "results": S3}, "s3://bucket/results/staged?region=eu"),
        (
            {"address": "auto", "results": "gs://bucket/results/"},
            "gs://bucket/results/staged",
        ),
        (
            {"address": "auto", "results": S3, "staging": "s3://bucket/other"},
            "s3://bucket/other",
        ),
        ({"address": "auto", "results": "results"}, None),
        ({"address": "auto", "results": "results", "staging": "/shared"}, "/shared"),
        ({"results": S3}, None),
        ({"address": "auto", "results": S3, "executor": "inline"}, None),
    ],
)
def test_nodes_of_a_cluster_get_the_data_through_the_store(
    given: dict[str, str], shared: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert AdaptationSweep(task=TABULAR, **given).shared == shared  # type: ignore[arg-type]
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    joined = replace(AdaptationSweep(task=TABULAR, **given), address=None)  # type: ignore[arg-type]
    assert joined.shared == (
        "s3://bucket/results/staged?region=eu" if given == {"results": S3} else shared
    )
