"""Metrics of whole splits; lower is better. Predictions are logits, or values in the target's units for regressions.

Letters: N samples, K classes or labels. Samples are ranked by float64 logits, as saturated probabilities would tie.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pkgutil import resolve_name

import numpy as np

from orca_ray.data.rows import Array
from orca_ray.discovery import tables, with_plug_ins
from orca_ray.errors import UserError, lookup
from orca_ray.tasks.dense_metrics import area_under_roc, check_other_shape


@dataclass(frozen=True)
class Metric:
    """A metric: its function, definition, source and properties."""

    name: str
    title: str
    definition: str
    """Definition in words."""
    source: str
    """Origin of the definition or convention."""
    function: Callable[[Array, Array], float]
    """Takes float64 predictions [N, *output_shape] and targets [N, ...], and returns the metric."""
    largest: float = math.inf
    """Largest possible value of the metric. Imported scores above it, e.g. in percent, are refused."""
    version: int = 1
    """Version of the function, raised by every change of its results. Scores of several versions are never averaged."""

    def compute(self, predictions: Array, targets: Array) -> float:
        """Return the metric of a whole split: ``predictions`` [N, *output_shape], ``targets`` [N, ...]; lowest is best.

        Raises ValueError if predictions are not finite, lengths differ or the split is empty, and UserError if the
        metric is not defined for these targets (such as an AUROC if all samples have one class).
        """
        if len(predictions) != len(targets) or len(targets) == 0:
            raise ValueError(f"{self.name}: {len(predictions)} predictions for {len(targets)} targets")
        if not np.isfinite(predictions).all():
            raise ValueError(f"{self.name}: predictions are not finite (NaN or infinite)")
        return float(self.function(np.asarray(predictions, dtype=np.float64), np.asarray(targets)))


def _error(logits_NK: Array, y_N: Array) -> float:
    return float(np.mean(logits_NK.argmax(axis=1) != y_N))


def _one_minus_auroc(logits_NK: Array, y: Array) -> float:
    if y.ndim == 2:
        return 1 - _mean_over_labels(area_under_roc, logits_NK, y)
    num_classes = logits_NK.shape[1]
    present = np.unique(y)
    if len(present) < num_classes:
        raise UserError(f"AUROC needs every class in the split; {len(present)} of {num_classes} are there")
    if num_classes == 2:
        return 1 - area_under_roc(logits_NK[:, 1] - logits_NK[:, 0], y)
    return 1 - _one_versus_one(_log_odds(logits_NK), y, num_classes)


def _one_versus_one(scores_NK: Array, y_N: Array, num_classes: int) -> float:
    """Return the mean over pairs i ≠ j of the AUROC of class i against j by scores of i: Hand and Till, 2001, eq. 7."""
    areas = []
    for i, j in itertools.permutations(range(num_classes), 2):
        chosen = (y_N == i) | (y_N == j)
        areas.append(area_under_roc(scores_NK[chosen, i], y_N[chosen] == i))
    return float(np.mean(areas))


def _log_odds(logits_NK: Array) -> Array:
    """Return log(p / (1 − p)) of softmax probabilities p [N, K]: it ranks samples as p does, but does not saturate."""
    columns = range(logits_NK.shape[1])
    others = [np.logaddexp.reduce(np.delete(logits_NK, k, axis=1), axis=1) for k in columns]
    return np.asarray(logits_NK - np.stack(others, axis=1))


def _mean_over_labels(score: Callable[[Array, Array], float], logits_NK: Array, y_NK: Array) -> float:
    """Return the mean of ``score`` over the labels that have both a positive and a negative sample."""
    usable = [k for k in range(y_NK.shape[1]) if 0 < y_NK[:, k].sum() < len(y_NK)]
    if not usable:
        raise UserError("no label has both a positive and a negative sample in the split")
    return float(np.mean([score(logits_NK[:, k], y_NK[:, k]) for k in usable]))


def _one_minus_map(logits_NK: Array, y_NK: Array) -> float:
    from sklearn.metrics import average_precision_score

    return 1 - _mean_over_labels(lambda scores_N, y_N: average_precision_score(y_N, scores_N), logits_NK, y_NK)


def _one_minus_macro_f1(logits_NK: Array, y_N: Array) -> float:
    from sklearn.metrics import f1_score

    return 1 - float(f1_score(y_N, logits_NK.argmax(axis=1), average="macro", zero_division=0))


def _relative_l2(predictions: Array, y: Array) -> float:
    predictions, y = _flat(predictions, y)
    norms_N = np.linalg.norm(y, axis=1)
    if not norms_N.all():
        raise UserError(f"relative error needs targets that are not zero; {int((norms_N == 0).sum())} samples are")
    return float(np.mean(np.linalg.norm(predictions - y, axis=1) / norms_N))


def _rmse(predictions: Array, y: Array) -> float:
    predictions, y = _flat(predictions, y)
    return float(np.sqrt(np.mean((predictions - y) ** 2)))


def _one_minus_r2(predictions: Array, y: Array) -> float:
    predictions, y = _flat(predictions, y)
    total = float(((y - y.mean(axis=0)) ** 2).sum())
    if total == 0:
        raise UserError("R² needs targets that vary; all targets of the split are equal")
    return float(((predictions - y) ** 2).sum()) / total


def _flat(predictions: Array, y: Array) -> tuple[Array, Array]:
    check_other_shape(predictions, y)
    return predictions.reshape(len(y), -1), y.astype(np.float64).reshape(len(y), -1)


@cache
def all_metrics() -> Mapping[str, Metric]:
    """Return all metrics by name, those of plug-ins last."""
    declared = tables("orca_ray.tasks", "metrics.toml")
    functions = {name: resolve_name(words.pop("function")) for name, words in declared.items()}
    shipped = {name: Metric(name, function=functions[name], **words) for name, words in declared.items()}
    return with_plug_ins("metric", Metric, shipped)


def get_metric(name: str) -> Metric:
    """Return a metric by name; raises UserError for an unknown one."""
    return lookup("metric", name, all_metrics())
