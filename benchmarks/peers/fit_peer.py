"""Fits one peer on one data set and predicts its outer test. Runs in the peers'
environment, without orca-ray.

``python fit_peer.py TOOL FOLDER OUT.npy --seconds 120 --seed 0 --cores 1``: FOLDER is
one that ``sets.write`` made.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import (
    TransformedTargetRegressor,
    make_column_selector,
    make_column_transformer,
)
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC, SVR

Array = np.ndarray[Any, Any]


class Problem:
    """A data set as the peers get it, and what they may use."""

    def __init__(self, folder: Path, seconds: float, seed: int, cores: int) -> None:
        about = json.loads((folder / "about.json").read_text())
        self.kind = about["kind"]
        self.target = about["target"]
        self.seconds = seconds
        self.seed = seed
        self.cores = cores
        self.classes = self.target == "classes"
        if self.kind == "table":
            frame = pd.read_csv(folder / "train.csv")
            self.train = frame
            self.test = pd.read_csv(folder / "test.csv")
            self.y: Array = (
                frame["target"].astype(str if self.classes else float).to_numpy()
            )
            self.x: Any = frame.drop(columns="target")
            self.test_x: Any = self.test
        else:
            with (
                np.load(folder / "train.npz") as train,
                np.load(folder / "test.npz") as test,
            ):
                self.x = np.nan_to_num(train["x"])
                self.y = train["y"]
                self.test_x = np.nan_to_num(test["x"])


def plain(problem: Problem, classifier: Any, regressor: Any) -> Array:
    """Return predictions of a model of scikit-learn on scaled numbers and one-hot
    categories, or on flat arrays.
    """
    if problem.kind == "table":
        numbers = make_pipeline(SimpleImputer(), StandardScaler())
        categories = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
        scaled = numbers, make_column_selector(dtype_include="number")
        coded = categories, make_column_selector(dtype_exclude="number")
        first = make_pipeline(
            FunctionTransformer(_dates_as_numbers),
            make_column_transformer(scaled, coded),
        )
    else:
        first = make_pipeline(FunctionTransformer(_flat), StandardScaler())
    y = (
        problem.y.reshape(len(problem.y), -1)
        if problem.target == "field"
        else problem.y
    )
    model = make_pipeline(first, classifier if problem.classes else regressor).fit(
        problem.x, y
    )
    predicted: Array = model.predict(problem.test_x)
    return predicted.reshape(-1, *problem.y.shape[1:])


def _flat(x: Array) -> Array:
    return x.reshape(len(x), -1)


def _dates_as_numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table with each column of dates replaced by year, month and day of the
    year.
    """
    made = frame.copy()
    for name in map(str, frame.select_dtypes(exclude="number")):
        if frame[name].astype(str).str.match(r"\d{4}[-/]\d\d[-/]\d\d").all():
            days = pd.to_datetime(made.pop(name)).dt
            made[f"{name} year"] = days.year
            made[f"{name} month"] = days.month
            made[f"{name} day"] = days.dayofyear
    return made


def linear(problem: Problem) -> Array:
    """Logistic regression, or ridge regression with its penalty chosen by
    leave-one-out.
    """
    return plain(
        problem, LogisticRegression(max_iter=1000), RidgeCV(np.logspace(-3, 5, 17))
    )


def neighbours(problem: Problem) -> Array:
    """Nearest neighbours; their number is chosen by cross-validation."""
    options = {"n_neighbors": [1, 3, 5, 10]}
    folds = (StratifiedKFold if problem.classes else KFold)(
        3, shuffle=True, random_state=0
    )
    models = (
        GridSearchCV(model(), options, cv=folds)
        for model in (KNeighborsClassifier, KNeighborsRegressor)
    )
    return plain(problem, *models)


def forest(problem: Problem) -> Array:
    """A random forest of 300 trees; of 100 for fields."""
    options = {"n_jobs": problem.cores, "random_state": problem.seed}
    regressor = RandomForestRegressor(
        300 if problem.target == "number" else 100, max_features=1 / 3, **options
    )
    if problem.target == "field":
        regressor.set_params(max_features="sqrt")
    return plain(problem, RandomForestClassifier(300, **options), regressor)


def autogluon(preset: str) -> Callable[[Problem], Array]:
    """Return a function that fits AutoGluon's tabular predictor with a preset."""

    def fit(problem: Problem) -> Array:
        metric = "accuracy" if problem.classes else "root_mean_squared_error"
        predictor_class = resolve_name("autogluon.tabular:TabularPredictor")
        with tempfile.TemporaryDirectory() as folder:
            predictor = predictor_class(
                "target", eval_metric=metric, path=folder, verbosity=1
            )
            predictor.fit(
                problem.train,
                time_limit=problem.seconds,
                presets=preset,
                num_cpus=problem.cores,
                num_gpus=0,
            )
            predicted: Array = predictor.predict(problem.test).to_numpy()
        return predicted

    return fit


def rocket(module: str, name: str) -> Callable[[Problem], Array]:
    """Return a function that fits a classifier or regressor of aeon, ``name`` without
    this ending.
    """

    def fit(problem: Problem) -> Array:
        room, ending = (
            ("classification", "Classifier")
            if problem.classes
            else ("regression", "Regressor")
        )
        model = resolve_name(f"aeon.{room}.convolution_based.{module}:{name}{ending}")
        fitted = model(n_jobs=problem.cores, random_state=problem.seed).fit(
            problem.x, problem.y
        )
        predicted: Array = fitted.predict(problem.test_x)
        return predicted

    return fit


def hog_svm(problem: Problem) -> Array:
    """Histograms of gradients and of local binary patterns, the mean of each channel,
    and a support vector machine.
    """
    hog = resolve_name("skimage.feature:hog")
    patterns = resolve_name("skimage.feature:local_binary_pattern")
    lowest = float(problem.x.min())
    highest = float(problem.x.max())
    side = max(2, min(problem.x.shape[1:3]) // 6)
    many = problem.x.ndim > 3

    def describe(image: Array) -> Array:
        scaled = (np.clip((image - lowest) / (highest - lowest), 0, 1) * 255).astype(
            np.uint8
        )
        gradients = hog(
            scaled,
            pixels_per_cell=(side, side),
            cells_per_block=(2, 2),
            channel_axis=-1 if many else None,
        )
        grey = scaled.mean(axis=-1).astype(np.uint8) if many else scaled
        counts = np.bincount(
            patterns(grey, 8, 1, "uniform").astype(int).ravel(), minlength=10
        )
        means = scaled.mean(axis=(0, 1)) / 255 if many else ()
        return np.concatenate([gradients, np.sqrt(counts / counts.sum()), means])

    x, test_x = (
        np.stack([describe(image) for image in images])
        for images in (problem.x, problem.test_x)
    )
    folds = (StratifiedKFold if problem.classes else KFold)(
        3, shuffle=True, random_state=0
    )
    machine: Any = SVC()
    if not problem.classes:
        machine = TransformedTargetRegressor(SVR(), transformer=StandardScaler())
    model = GridSearchCV(
        Pipeline([("scaler", StandardScaler()), ("machine", machine)]),
        {"machine__C" if problem.classes else "machine__regressor__C": [1, 10, 100]},
        cv=folds,
    )
    predicted: Array = model.fit(x, problem.y).predict(test_x)
    return predicted


def network(name: str) -> Callable[[Problem], Array]:
    """Return a function that trains one of the networks of ``networks.py`` for the
    given time.
    """

    def fit(problem: Problem) -> Array:
        resolve_name("torch:set_num_threads")(problem.cores)
        resolve_name("torch:manual_seed")(problem.seed)
        # `networks` is the module beside this script.
        fit_network = resolve_name(f"networks:fit_{problem.kind}")
        predicted: Array = fit_network(
            name, problem.x, problem.y, problem.test_x, problem.seconds
        )
        return predicted

    return fit


TOOLS: dict[str, Callable[[Problem], Array]] = {
    "linear": linear,
    "neighbours": neighbours,
    "forest": forest,
    "autogluon_medium": autogluon("medium_quality"),
    "autogluon_best": autogluon("best_quality"),
    "minirocket": rocket("_minirocket", "MiniRocket"),
    "hydra": rocket("_hydra", "Hydra"),
    "multirocket_hydra": rocket("_mr_hydra", "MultiRocketHydra"),
    "hog_svm": hog_svm,
    "cnn": network("cnn"),
    "unet": network("unet"),
    "fno": network("fno"),
}


def main() -> None:
    """Fit the tool and write its predictions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--cores", type=int, required=True)
    options = parser.parse_args()
    problem = Problem(options.folder, options.seconds, options.seed, options.cores)
    predicted = TOOLS[options.tool](problem)
    np.save(
        options.out,
        predicted.astype(str) if problem.classes else predicted.astype(np.float64),
    )


if __name__ == "__main__":
    main()
