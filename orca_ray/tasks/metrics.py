"""Metrics of whole splits; lower is better.

Predictions are logits, or values in the target's units for regressions.

Letters: N samples, K classes or labels, S positions on a side of a padded map of
protein distances, P pairs of residues. Samples are ranked by float64 logits, as
saturated probabilities would tie.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import numpy as np

from orca_ray.data.rows import Array
from orca_ray.discovery import tables, with_plug_ins
from orca_ray.errors import UserError, lookup

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -1
"""Target value of ignored pixels.

As in ORCA's code, they count as pixels outside the mask with logit 0.
"""
PADDING = 100.0
"""Target distance, in ångström, at padded positions, as in ORCA's code."""
MARGIN = 5
"""Number of padded rows and columns before the first residue of a map, and at least
that many after the last one.
"""
CONTACT = 8.0
"""Largest true distance, in ångström, of two residues that are in contact."""
SEPARATION = 24
"""Least difference of the sequence positions of the two residues of a long-range
contact.
"""
_FLOOR = 0.01
"""ORCA's code clamps predicted distances to at least this value, in ångström."""


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
    """Function of float64 predictions [N, *output_shape] and targets [N, ...] that
    returns the metric.
    """
    largest: float = math.inf
    """Largest possible value of the metric.

    Imported scores above it, e.g. in percent, are refused.
    """
    losses: Callable[[Array, Array], Array] | None = None
    """Function with the arguments of ``function`` that returns the loss of each sample
    [N], whose mean is the metric; None: the metric is no such mean.
    """
    root: bool = False
    """Whether the metric is the square root of the mean of the losses."""
    version: int = 1
    """Version of the function, raised by every change of its results.

    Scores of several versions are never averaged.
    """

    def compute(self, predictions: Array, targets: Array) -> float:
        """Return the metric of a whole split; lower is better.

        ``predictions`` are [N, *output_shape], ``targets`` [N, ...]. Raises ValueError
        if predictions are not finite, lengths differ or the split is empty. Raises
        UserError if the metric is not defined for these targets (such as an AUROC if
        all samples have one class).
        """
        if len(predictions) != len(targets) or len(targets) == 0:
            raise ValueError(
                f"{self.name}: {len(predictions)} predictions for {len(targets)}"
                " targets"
            )
        if not np.isfinite(predictions).all():
            raise ValueError(
                f"{self.name}: predictions are not finite (NaN or infinite)"
            )
        return float(
            self.function(
                np.asarray(predictions, dtype=np.float64), np.asarray(targets)
            )
        )


def _mean(
    losses: Callable[[Array, Array], Array], predictions: Array, y: Array
) -> float:
    return float(np.mean(losses(predictions, y)))


def _errors(logits_NK: Array, y_N: Array) -> Array:
    return np.asarray(logits_NK.argmax(axis=1) != y_N, dtype=np.float64)


def _one_minus_auroc(logits_NK: Array, y: Array) -> float:
    """Return 1 − AUROC.

    For labels [N, K], the AUROC is the mean over labels. For more than two classes, it
    is the mean over pairs of classes.
    """
    if y.ndim == 2:
        return 1 - _mean_over_labels(area_under_roc, logits_NK, y)
    num_classes = logits_NK.shape[1]
    present = np.unique(y)
    if len(present) < num_classes:
        raise UserError(
            f"AUROC needs every class in the split; {len(present)} of {num_classes} are"
            " there"
        )
    if num_classes == 2:
        return 1 - area_under_roc(logits_NK[:, 1] - logits_NK[:, 0], y)
    scores_NK = _log_odds(logits_NK)
    areas = []
    # Hand and Till, 2001, eq. 7.
    for i, j in itertools.permutations(range(num_classes), 2):
        is_either = (y == i) | (y == j)
        areas.append(area_under_roc(scores_NK[is_either, i], y[is_either] == i))
    return 1 - float(np.mean(areas))


def _log_odds(logits_NK: Array) -> Array:
    """Return log(p / (1 − p)) of softmax probabilities p [N, K].

    It ranks samples as p does, but does not saturate.
    """
    others = [
        np.logaddexp.reduce(np.delete(logits_NK, k, axis=1), axis=1)
        for k in range(logits_NK.shape[1])
    ]
    return np.asarray(logits_NK - np.stack(others, axis=1))


def _mean_over_labels(
    score: Callable[[Array, Array], float], logits_NK: Array, y_NK: Array
) -> float:
    """Return the mean of ``score`` over the usable labels.

    These have both a positive and a negative sample.
    """
    usable = [k for k in range(y_NK.shape[1]) if 0 < y_NK[:, k].sum() < len(y_NK)]
    if not usable:
        raise UserError(
            "no label has both a positive and a negative sample in the split"
        )
    return float(np.mean([score(logits_NK[:, k], y_NK[:, k]) for k in usable]))


def _one_minus_map(logits_NK: Array, y_NK: Array) -> float:
    """Return 1 − the mean average precision over labels."""
    from sklearn.metrics import average_precision_score

    return 1 - _mean_over_labels(
        lambda scores_N, y_N: average_precision_score(y_N, scores_N), logits_NK, y_NK
    )


def _one_minus_macro_f1(logits_NK: Array, y_N: Array) -> float:
    """Return 1 − the F1 score, averaged over classes."""
    from sklearn.metrics import f1_score

    return 1 - float(
        f1_score(y_N, logits_NK.argmax(axis=1), average="macro", zero_division=0)
    )


def _relative_l2(predictions: Array, y: Array) -> Array:
    """Return the relative error ‖ŷ − y‖₂ / ‖y‖₂ [N] of each sample, ŷ predicted."""
    predictions, y = _flat(predictions, y)
    norms_N = np.linalg.norm(y, axis=1)
    if not norms_N.all():
        raise UserError(
            "relative error needs targets that are not zero;"
            f" {int((norms_N == 0).sum())} samples are"
        )
    return np.asarray(np.linalg.norm(predictions - y, axis=1) / norms_N)


def _rmse(predictions: Array, y: Array) -> float:
    predictions, y = _flat(predictions, y)
    return float(np.sqrt(np.mean((predictions - y) ** 2)))


def _mean_squares(predictions: Array, y: Array) -> Array:
    predictions, y = _flat(predictions, y)
    return np.asarray(np.mean((predictions - y) ** 2, axis=1))


def _one_minus_r2(predictions: Array, y: Array) -> float:
    """Return 1 − R²: the squared error relative to that of the mean target."""
    predictions, y = _flat(predictions, y)
    total = float(((y - y.mean(axis=0)) ** 2).sum())
    if total == 0:
        raise UserError(
            "R² needs targets that vary; all targets of the split are equal"
        )
    return float(((predictions - y) ** 2).sum()) / total


def _flat(predictions: Array, y: Array) -> tuple[Array, Array]:
    check_other_shape(predictions, y)
    return predictions.reshape(len(y), -1), y.astype(np.float64).reshape(len(y), -1)


def one_minus_mask_auroc(logits: Array, y: Array) -> float:
    """Return 1 − AUROC of ``logits`` [N, ...] over all pixels.

    ``y`` [N, ...] holds 0, 1 and `IGNORED`.
    """
    check_other_shape(logits, y)
    scores = np.where(y == IGNORED, 0.0, logits)
    return 1 - area_under_roc(scores.ravel(), _both_outcomes(y).ravel())


def one_minus_thresholded_auroc(logits: Array, y: Array) -> float:
    """Return 1 − AUROC of the masks "logit > 0".

    It is half the sum of their false-negative and false-positive rates.
    """
    check_other_shape(logits, y)
    positive = _both_outcomes(y)
    marked = _marked(logits, y)
    return float(1 - marked[positive].mean() + marked[~positive].mean()) / 2


def false_negative_rate(logits: Array, y: Array) -> float:
    """Return the share of pixels inside target masks that are not marked.

    Their ``y`` is above 0, and their logit is not above 0.
    """
    check_other_shape(logits, y)
    positive = y > 0
    if not positive.any():
        raise UserError(
            "a false-negative rate needs masks that are not empty; all masks of the"
            " split are"
        )
    return float(1 - _marked(logits, y)[positive].mean())


def long_range_contact_error(predictions: Array, y: Array) -> float:
    """Return the mean over proteins of the error at long-range contacts.

    The error of a protein is its mean absolute error in ångström. Long-range contacts
    are pairs of residues i < j with j − i ≥ `SEPARATION` whose true distance is at most
    `CONTACT`. The prediction for a pair is the mean of entries (i, j) and (j, i) of the
    map. Proteins without such contacts are left out; raises UserError if no protein has
    one.
    """
    predictions_NSS, y_NSS = _maps(predictions, y)
    contacts = _contacts(y_NSS)
    upper_P = contacts.upper(predictions_NSS)
    lower_P = contacts.lower(predictions_NSS)
    errors_P = np.abs((upper_P + lower_P) / 2 - contacts.upper(y_NSS))
    return _mean_of_proteins(errors_P, contacts.protein)


def long_range_contact_error_reference(predictions: Array, y: Array) -> float:
    """Return `long_range_contact_error` as ORCA's code computes it.

    The prediction for a pair i < j is the mean of two values, both clamped to at least
    0.01 Å: entry (j, i), and the mean of entries (i, j) and (j, i). So (j, i) weighs ¾.
    Every protein is cut to the length of the first. ORCA's code crashes for a protein
    without long-range contacts; this function leaves such proteins out.
    """
    predictions_NSS, y_NSS = _maps(predictions, y)
    length = int((y_NSS[0] != PADDING).any(axis=1).sum())
    window = slice(MARGIN, MARGIN + length)
    predictions_NSS = predictions_NSS[:, window, window]
    y_NSS = y_NSS[:, window, window]
    contacts = _contacts(y_NSS)
    lower_P = contacts.lower(predictions_NSS)
    upper_P = contacts.upper(predictions_NSS)
    mean_P = np.maximum((lower_P + upper_P) / 2, _FLOOR)
    predicted_P = (np.maximum(lower_P, _FLOOR) + mean_P) / 2
    errors_P = np.abs(predicted_P - contacts.upper(y_NSS))
    return _mean_of_proteins(errors_P, contacts.protein)


def _both_outcomes(y: Array) -> Array:
    """Return the mask y > 0; UserError if all its entries are equal."""
    positive: Array = y > 0
    if positive.all() or not positive.any():
        raise UserError(
            "AUROC needs pixels inside and outside of the masks; the split has only one"
            " of the two"
        )
    return positive


def _marked(logits: Array, y: Array) -> Array:
    return np.asarray((logits > 0) & (y != IGNORED))


def _maps(predictions: Array, y: Array) -> tuple[Array, Array]:
    """Return predictions and targets, [N, S, S] or [N, 1, S, S] each, as [N, S, S].

    ValueError for other shapes.
    """
    check_other_shape(predictions, y)
    side = y.shape[-1]
    if y.ndim < 3 or y.size != len(y) * side * side:
        raise ValueError(
            f"distance maps have shape [N, S, S] or [N, 1, S, S], not {list(y.shape)}"
        )
    return predictions.reshape(-1, side, side), y.reshape(-1, side, side)


@dataclass(frozen=True)
class _Contacts:
    """Pairs of residues: indices of proteins, and of two positions, [P] each."""

    protein: Array
    row: Array
    column: Array
    """Larger than ``row``."""

    def upper(self, maps_NSS: Array) -> Array:
        """Return the entries (row, column) of ``maps_NSS``, [P]."""
        return np.asarray(maps_NSS[self.protein, self.row, self.column])

    def lower(self, maps_NSS: Array) -> Array:
        """Return the entries (column, row) of ``maps_NSS``, [P]."""
        return np.asarray(maps_NSS[self.protein, self.column, self.row])


def _contacts(y_NSS: Array) -> _Contacts:
    """Return the indices of protein, row and column of long-range contacts.

    They are [P] each; row < column.
    """
    protein, row, column = np.nonzero(np.triu(y_NSS <= CONTACT, k=SEPARATION))
    if len(protein) == 0:
        raise UserError(
            "no protein of the split has a contact: a pair of residues at most"
            f" {CONTACT:g} Å apart and at least {SEPARATION} residues along the"
            " sequence"
        )
    return _Contacts(protein, row, column)


def _mean_of_proteins(errors_P: Array, protein_P: Array) -> float:
    counts = np.bincount(protein_P)
    sums = np.bincount(protein_P, weights=errors_P)
    return float(np.mean(sums[counts > 0] / counts[counts > 0]))


def check_other_shape(predictions: "Array | Tensor", y: "Array | Tensor") -> None:
    """Raise ValueError if ``predictions`` and ``y`` differ in shape.

    Broadcasting would give a wrong score or loss.
    """
    if predictions.shape != y.shape:
        raise ValueError(
            f"predictions have shape {tuple(predictions.shape)}, targets"
            f" {tuple(y.shape)}"
        )


def area_under_roc(scores_N: Array, positive_N: Array) -> float:
    """Return the exact area under the ROC curve.

    Both positive and negative samples must occur. It is the share of (positive,
    negative) pairs in which the positive sample has the higher score; ties count half
    (Mann and Whitney, 1947). It needs a quarter of scikit-learn's time, and a third of
    its memory for 7 million pixels.
    """
    positive_N = positive_N.astype(bool)
    positives = np.sort(scores_N[positive_N])
    negatives = np.sort(scores_N[~positive_N])
    below = np.searchsorted(negatives, positives, side="left").sum()
    not_above = np.searchsorted(negatives, positives, side="right").sum()
    return float(below + not_above) / 2 / (len(positives) * len(negatives))


@cache
def all_metrics() -> Mapping[str, Metric]:
    """Return all metrics by name, those of plug-ins last."""
    declarations = tables("orca_ray.tasks", "metrics.toml")
    metrics = {name: _declared(name, **rest) for name, rest in declarations.items()}
    return with_plug_ins("metric", Metric, metrics)


def _declared(
    name: str, *, function: str = "", losses: str = "", **rest: Any
) -> Metric:
    """Return a metric, given the names of its functions.

    Without ``function``, it is the mean of ``losses``.
    """
    loss_function: Any = resolve_name(losses) if losses else None
    metric = resolve_name(function) if function else partial(_mean, loss_function)
    return Metric(name, function=metric, losses=loss_function, **rest)


def get_metric(name: str) -> Metric:
    """Return a metric by name; raises UserError for an unknown one."""
    return lookup("metric", name, all_metrics())
