"""Estimators with scikit-learn's interface, which train one configuration each.

They train in this process, without sweep, Ray or store; `orca_ray.adapt` searches for
the best configuration instead.
"""

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import (
    check_array,
    check_consistent_length,
    check_random_state,
    column_or_1d,
)
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import assert_all_finite, check_is_fitted, validate_data

from orca_ray.adaptation.notebook import cell_output
from orca_ray.data.prepared import PreparedData
from orca_ray.data.rows import Array
from orca_ray.errors import DataWarning, UserError
from orca_ray.methods.options import Scalar
from orca_ray.methods.recipe import NO_BODY
from orca_ray.methods.registry import get_method
from orca_ray.methods.reports import EpochProgress
from orca_ray.methods.trial_trainer import TrialTrainer
from orca_ray.own_data import UserData, make_options
from orca_ray.own_data.infer_task import Inferred, infer
from orca_ray.own_data.registration import in_memory
from orca_ray.own_data.targets import label_texts
from orca_ray.predictor import Predictor
from orca_ray.training.numerics import NotFiniteError, find_device

logger = logging.getLogger(__name__)

_warned: set[str] = set()
"""Warnings that were given in this process.

Python's own record of them is cleared whenever a library changes filters, as
scikit-learn does in each fit of a cross-validation.
"""

_AXES = {2: "NL", 3: "NCL", 4: "NCHW"}
"""Names of the axes of X, by the number of axes."""
_TEST_FRACTION = 0.15
"""Share of test samples, which `infer` requires; `fit` makes no test split."""
_SHOWN_NUMBERS = ("loss", "validation_score", "distance")
"""Numbers of an epoch that `fit` reports, if the stage has them."""


def _with_weights(
    inferred: Inferred, data: PreparedData, weight: Array
) -> tuple[Inferred, PreparedData]:
    """Return the task and its data with the weights [N] of all samples.

    If the loss weights classes, the weights of the training samples include the weights
    of their classes, and the loss becomes plain cross-entropy.
    """
    split_weights = {name: weight[rows] for name, rows in inferred.splits.items()}
    if inferred.task.loss == "weighted_cross_entropy":
        y = data.train.y
        train_weight = split_weights["train"]
        # Divided by the total weight of the sample's class: all classes count the same.
        split_weights["train"] = train_weight / np.bincount(y, train_weight)[y]
        inferred = replace(inferred, task=replace(inferred.task, loss="cross_entropy"))
    splits = {
        name: replace(split, weight=split_weights[name])
        for name, split in data.splits.items()
    }
    return inferred, replace(data, splits=splits)


def _checked_weight(sample_weight: Any, x: Any) -> Array:
    """Return the weights [N] of samples ``x``, divided by the largest weight.

    All weights are 1 if ``sample_weight`` is None. Raises UserError for a negative
    weight, or if all are 0.
    """
    if sample_weight is None:
        return np.ones(len(x))
    weight = np.asarray(column_or_1d(sample_weight, dtype=np.float64))
    assert_all_finite(weight, input_name="sample_weight")
    check_consistent_length(x, weight)
    if (weight < 0).any() or not weight.any():
        raise UserError(
            "sample_weight must be at least 0, and not zero for all samples"
        )
    return np.asarray(weight / weight.max())


def _has_unequal_shapes(samples: Sequence[Any]) -> bool:
    """Return whether samples are arrays of different shapes, such as series."""
    shapes = {sample.shape for sample in samples if isinstance(sample, np.ndarray)}
    return len(shapes) > 1


def _describe(step: EpochProgress) -> str:
    """Return a text with the stage, the epoch and the `_SHOWN_NUMBERS` that exist."""
    numbers = {name: getattr(step, name) for name in _SHOWN_NUMBERS}
    texts = [
        f"{name} {value:.4g}" for name, value in numbers.items() if value is not None
    ]
    return f"{step.stage}, epoch {step.epoch} of {step.epochs}: {', '.join(texts)}"


class _CrossModal(BaseEstimator):  # type: ignore[misc]
    """Base class of the classifier and the regressor."""

    _kind: Literal["classes", "scalar"]

    def __init__(
        self,
        *,
        method: str = "orca_guarded",
        body: str | None = None,
        epochs: int | None = None,
        learning_rate: float | None = None,
        batch_size: int | None = None,
        validation_fraction: float = 0.15,
        hyperparameters: Mapping[str, Scalar] | None = None,
        random_state: Any = None,
        device: str = "auto",
        verbose: bool = False,
    ) -> None:
        self.method = method
        self.body = body
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.hyperparameters = hyperparameters
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Adapt the body to samples X with targets y [N], and return this estimator.

        A random share ``validation_fraction`` is held out; the epoch with the best
        score on it is kept. Unusual data cause an `orca_ray.errors.DataWarning`; an
        equal warning is given once per process.

        ``sample_weight`` [N]: weights, at least 0; None: all are equal. An epoch of
        refining draws samples in proportion to their weights, so that in expectation a
        sample of weight 2 counts as two samples. The score of the held-out samples,
        which chooses the epoch, is weighted, too. A sample of weight 0 is left out of
        everything. The split and aligning ignore other weights. Classes of very unequal
        sizes weigh the same, as without weights.

        Raises:
            UserError (a ValueError): too few samples, targets of one value, an unknown
                or invalid parameter, negative weights, all weights 0, or unequal ones
                for a method that does not train by epochs.
            ValueError, TypeError: X or y is not what scikit-learn's estimators take.
        """
        options = self._options()
        x = self._read(X, reset=True)
        if y is None:
            raise UserError(
                f"{type(self).__name__} requires y to be passed, but the target y is"
                " None: give y"
            )
        name = getattr(y, "name", None)
        targets = self._targets(y)
        check_consistent_length(x, targets)
        data = UserData(
            x=x,
            y=targets,
            source="X",
            target_names=() if name is None else (str(name),),
        )
        weight = _checked_weight(sample_weight, x)
        if not weight.all():
            data = data.select(np.flatnonzero(weight))
            weight = weight[weight > 0]
            # Called again to set `classes_` to the classes that are left.
            self._targets(data.y)
        is_weighted = bool((weight != weight[0]).any())
        if is_weighted and get_method(self.method).fitted:
            raise UserError(
                f"{self.method} takes no sample_weight but 0 and 1: give a method that"
                " trains by epochs"
            )
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        inferred = self._infer(data, x, seed)
        for warning in inferred.warnings:
            text = f"{type(self).__name__}: {warning}"
            if text not in _warned:
                warnings.warn(text, DataWarning, stacklevel=2)
                _warned.add(text)
        prepared = in_memory(inferred, data)
        if is_weighted:
            inferred, prepared = _with_weights(inferred, prepared, weight)
        self.adapted_ = self._train(inferred, prepared, options, seed)
        return self

    def _infer(self, data: UserData, x: Any, seed: int) -> Inferred:
        """Return the task that is inferred from ``data``, with its preprocessing.

        ``data`` has the samples ``x``, or those of them whose weight is not 0.
        """
        axes = ""  # a table has none
        if not hasattr(x, "columns"):
            axes = _AXES.get(1 + np.ndim(x[0]), "")
        values = {
            "kind": self._kind,
            "seed": seed,
            "fractions": (self.validation_fraction, _TEST_FRACTION),
            "body": self.body or "",
            "name": type(self).__name__,
            "axes": axes,
        }
        options = make_options(type(self).__name__, values)
        # test=False: no test split is made.
        return infer(data, options, test=False, warn=logger.debug)

    def _options(self) -> dict[str, Scalar]:
        """Return the hyper-parameters by dotted name.

        Raises UserError for a value that no fit can use.
        """
        if not 0 < self.validation_fraction < 0.5:
            raise UserError(
                "validation_fraction must be above 0 and below 0.5, got"
                f" {self.validation_fraction!r}"
            )
        parameters = {
            "refine.epochs": self.epochs,
            "refine.learning_rate": self.learning_rate,
            "refine.batch_size": self.batch_size,
        }
        values = dict(self.hyperparameters or {})
        for name, value in parameters.items():
            if value is None:
                continue
            if name in values:
                raise UserError(
                    f"{name} is given twice: leave it out of hyperparameters, or out of"
                    " the parameters"
                )
            values[name] = value
        # A grid of numpy gives numpy's numbers.
        return {
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in values.items()
        }

    def _train(
        self,
        inferred: Inferred,
        data: PreparedData,
        options: Mapping[str, Scalar],
        seed: int,
    ) -> Predictor:
        """Train, report each epoch, and return the model of the best epoch."""
        device = find_device(self.device)
        body = inferred.task.body if get_method(self.method).uses_body else NO_BODY
        trainer = TrialTrainer(
            inferred.task,
            data,
            self.method,
            body,
            options,
            seed,
            test=False,
            device=str(device),
            threads=torch.get_num_threads(),
            reuse_aligned=False,
        )
        level = logging.INFO if self.verbose else logging.DEBUG
        output = cell_output() if self.verbose else None
        try:
            while not trainer.done:
                text = _describe(trainer.step())
                logger.log(level, "%s", text)
                if output is not None:
                    output.show(text, last=trainer.done)
            snapshot = trainer.snapshot()
        except NotFiniteError as error:
            raise UserError(
                f"training diverged ({error}): lower learning_rate"
            ) from error
        finally:
            trainer.close()
        return Predictor(snapshot, inferred.preprocessing.to_json(), device=str(device))

    def _read(self, X: Any, *, reset: bool) -> Any:
        """Return samples as a table, an array [N, ...], or a list of arrays.

        ``reset`` says that the samples are for `fit`, whose names and number of columns
        later samples must have.
        """
        if isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 1:
            X = list(X)
        if isinstance(X, list | tuple) and _has_unequal_shapes(X):
            if reset:
                self.__dict__.pop("n_features_in_", None)
                self.__dict__.pop("feature_names_in_", None)
            return [np.asarray(sample) for sample in X]
        x = self._validate(X, reset=reset)
        # A model of series of unequal lengths takes an array [N, L] as series.
        is_table = x.ndim == 2 and (reset or self._takes_tables())
        return self._named(x) if is_table else x

    def _named(self, x: Any) -> pd.DataFrame:
        """Return validated samples as a table, whose columns have distinct names."""
        names = [
            str(name) for name in getattr(self, "feature_names_in_", range(x.shape[1]))
        ]
        if len(set(names)) < len(names):
            raise UserError("X has several columns of one name: rename them")
        table = x if hasattr(x, "iloc") else pd.DataFrame(x)
        named: pd.DataFrame = table.set_axis(names, axis=1)
        return named

    def _validate(self, X: Any, *, reset: bool) -> Any:
        """Return X as a data frame or an array that scikit-learn accepts."""
        if hasattr(X, "iloc"):
            return validate_data(self, X, reset=reset, skip_check_array=True)
        return validate_data(
            self,
            X,
            reset=reset,
            allow_nd=True,
            ensure_all_finite="allow-nan",
            ensure_min_samples=2 if reset else 1,
        )

    def _takes_tables(self) -> bool:
        """Return whether the fitted model takes tables."""
        preprocessing = self.adapted_.preprocessing
        return preprocessing is not None and preprocessing.encoder.form == "table"

    def _targets(self, y: Any) -> Array:
        raise NotImplementedError

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.three_d_array = True
        return tags


class CrossModalClassifier(ClassifierMixin, _CrossModal):  # type: ignore[misc]
    """Classifier for scikit-learn: `fit` adapts a pretrained transformer to samples.

    X is a table (an array [N, F], or a data frame, whose columns may also hold
    categories and dates), series [N, C, L], images [N, C, H, W], or a list of series of
    unequal length, [L] or [C, L]. NaN counts as missing.

    Args:
        method: name of the method; ``orca-sweep methods`` lists them.
        body: name of the pretrained body; None: the default of the modality, cut to
            four layers.
        epochs, learning_rate, batch_size: those of the refine stage; None: the method's
            defaults.
        validation_fraction: share of the samples that is held out to choose the best
            epoch, above 0 and below 0.5.
        hyperparameters: further hyper-parameters by dotted name, such as
            ``{"align.epochs": 20}``.
        random_state: seed or generator of the split and the training. With an integer,
            fits of equal data on a CPU with an equal number of threads are equal.
        device: torch device; ``auto``: a GPU if there is one.
        verbose: whether each epoch is logged at the level INFO, not DEBUG, and shown
            below the cell of a notebook.

    Attributes:
        adapted_: the trained model, an `orca_ray.Predictor`; ``adapted_.save(folder)``
            writes a model folder.
        n_features_in_: number of columns or channels (the second axis of X); absent
            after `fit` on a list of series.
        feature_names_in_: names of the columns [F], if X was a data frame whose columns
            have names.
        classes_: the classes [K], sorted.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.model_selection import cross_val_score
        >>> from orca_ray import CrossModalClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> model = CrossModalClassifier(epochs=5, random_state=0)
        >>> cross_val_score(model, X, y, cv=3).mean()  # doctest: +SKIP
        0.946...
    """

    _kind = "classes"

    def predict(self, X: Any) -> Array:
        """Return the classes [N], of the type of y in `fit`.

        Raises ValueError for samples of another form than in `fit`.
        """
        class_indices = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[class_indices])

    def predict_proba(self, X: Any) -> Array:
        """Return probabilities [N, K] of ``classes_``, float32.

        Raises ValueError for samples of another form than in `fit`.
        """
        check_is_fitted(self)
        probabilities = self.adapted_.predict_proba(
            UserData(x=self._read(X, reset=False), source="X")
        )
        # The model may have its classes in another order than `classes_`.
        names = self.adapted_.label_names
        columns = [names.index(str(text)) for text in label_texts(self.classes_)]
        return probabilities[:, columns]

    def _targets(self, y: Any) -> Array:
        y = column_or_1d(y, warn=True)
        assert_all_finite(y, input_name="y")
        check_classification_targets(y)
        self.classes_ = np.unique(y)
        return np.asarray(y)


class CrossModalRegressor(RegressorMixin, _CrossModal):  # type: ignore[misc]
    """Regressor for scikit-learn: `fit` adapts a pretrained transformer to samples.

    The target of a sample is one number. Samples, arguments and attributes are those of
    `CrossModalClassifier`, except that there is no ``classes_``.

    Example:
        >>> from sklearn.datasets import load_diabetes
        >>> from orca_ray import CrossModalRegressor
        >>> X, y = load_diabetes(return_X_y=True, as_frame=True)
        >>> model = CrossModalRegressor(epochs=5, random_state=0)
        >>> model.fit(X, y)  # doctest: +SKIP
        >>> model.adapted_.save("model")  # doctest: +SKIP
    """

    _kind = "scalar"

    def predict(self, X: Any) -> Array:
        """Return the predicted numbers [N], float32.

        Raises ValueError for samples of another form than in `fit`.
        """
        check_is_fitted(self)
        return self.adapted_.predict(UserData(x=self._read(X, reset=False), source="X"))

    def _targets(self, y: Any) -> Array:
        y = column_or_1d(y, warn=True)
        return np.asarray(
            check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
        )
