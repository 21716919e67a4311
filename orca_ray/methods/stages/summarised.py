"""The last stage of methods that fit a logistic regression, neighbours or a forest to features of the inputs."""

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from orca_ray.methods.stages.fitted import (
    FittedStage,
    features_of,
    principal,
    regressed,
    standardise,
    training_rows,
)
from orca_ray.methods.stages.trial import Trial
from orca_ray.models.crossmodal import PooledHead
from orca_ray.models.features import MOST_DEPTH, ForestBody, NearestBody
from orca_ray.process import note_progress
from orca_ray.training.numerics import derive_seed

_STRENGTHS = tuple(10.0**exponent for exponent in np.linspace(-4, 2, 13))
"""Inverse penalties C that are tried, from the smallest until two in turn are no better than the best."""
_SPLITS, _MOST_SPLIT = 4, 3000
"""Each of so many parts of the training samples is left out once; only one of them, if there are more samples."""
_LEAST = 8
"""Number of samples below which C is 1."""
NEIGHBOURS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50)
"""Numbers of neighbours that are tried; of equally good ones, the largest is chosen."""
MOST_KEYS, _QUERIES, _BLOCK = 50_000, 2000, 256
"""Largest numbers of samples among which neighbours are found, and for which they are left out; queries at a time."""

MOST_BAG = 10_000


class LogisticStage(FittedStage):
    """Stage that fits a logistic regression of features by the task's loss, in one epoch.

    The penalty |w|² / (2 C N) is the one with the least loss on parts of the training samples that are left out.
    """

    def __init__(self, trial: Trial) -> None:
        super().__init__(trial, epochs=1)

    def fit(self, epoch: int) -> None:
        """Fit the head to all training samples (`training_rows`), with the chosen penalty; ``epoch`` is not used."""
        trial, head = self._trial, self._trial.model.head
        assert isinstance(head, PooledHead)
        rows = training_rows(trial)
        x = features_of(trial, rows)
        mean, deviation = standardise(x)
        back = torch.eye(0)
        if x.shape[0] < x.shape[1]:  # weights outside the span of the samples are 0
            basis, values, back = principal(x)
            z = basis * values.sqrt()
        else:
            z = x.double()
        y = torch.from_numpy(np.asarray(trial.data.train.y)[rows]).to(trial.device)
        loss = trial.objective.training_loss(trial.data.train.y, trial.device)
        found = _logistic(z, y.double() if y.is_floating_point() else y, loss, self._parts(rows), head)
        weight = (back @ found[1:] if len(back) else found[1:]) / deviation[:, None]
        with torch.no_grad():
            head.output.weight.copy_(weight.T)
            head.output.bias.copy_(found[0] - mean @ weight)

    def _parts(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of the part that each of the training samples ``rows`` [n] belongs to, 0 to 3.

        Classes are divided equally, and rows of one sample (`Split.group`) are not.
        """
        train, random = self._trial.data.train, np.random.default_rng(derive_seed(self._trial.seed, "parts"))
        group = np.arange(len(rows)) if train.group is None else np.unique(train.group[rows], return_inverse=True)[1]
        classes = np.zeros(group.max() + 1)
        if self._trial.task.target.kind == "classes":
            classes[group] = np.asarray(train.y)[rows]
        parts = np.empty(len(classes), np.int64)
        parts[np.lexsort((random.random(len(classes)), classes))] = np.arange(len(classes)) % _SPLITS
        return np.asarray(parts[group])


_Loss = Callable[[Tensor, Tensor], Tensor]


def _logistic(x: Tensor, y: Tensor, loss: _Loss, parts: np.ndarray, head: PooledHead) -> Tensor:
    """Return biases and weights [1 + R, K] for features ``x`` [N, R], with the C that is best for left-out parts."""
    best, chosen, worse = math.inf, 1.0, 0
    start = x.new_zeros(1 + x.shape[1], head.output.out_features)
    number = 0 if len(x) < _LEAST else _SPLITS if len(x) <= _MOST_SPLIT else 1
    splits = [(torch.from_numpy(parts != part), torch.from_numpy(parts == part)) for part in range(number)]
    found = [start] * number
    for strength in _STRENGTHS if number else ():
        total = 0.0
        for place, (kept, left) in enumerate(splits):
            found[place] = _minimised(x[kept], y[kept], loss, strength, found[place])
            total += float(loss(_affine(x[left], found[place]), y[left])) * int(left.sum())
        worse = worse + 1 if total >= best else 0
        if total < best:
            best, chosen, start = total, strength, torch.stack(found).mean(dim=0)
        if worse == 2:
            break
    return _minimised(x, y, loss, chosen, start)


def _affine(x: Tensor, weights: Tensor) -> Tensor:
    return x @ weights[1:] + weights[0]


def _minimised(x: Tensor, y: Tensor, loss: _Loss, strength: float, start: Tensor) -> Tensor:
    """Return the biases and weights with the least penalised loss, found from ``start`` by L-BFGS."""

    def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
        note_progress()
        weights = torch.from_numpy(flat.reshape(start.shape)).to(x).requires_grad_()
        penalised = loss(_affine(x, weights), y) + weights[1:].square().sum() / (2 * strength * len(x))
        (gradient,) = torch.autograd.grad(penalised, weights)
        return penalised.item(), gradient.cpu().numpy().ravel()

    found = minimize(value, start.cpu().numpy().ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 200})
    return torch.from_numpy(found.x.reshape(start.shape)).to(x)


class NearestStage(FittedStage):
    """Stage that stores the training samples in one epoch, and chooses the number of neighbours by leave-one-out."""

    def __init__(self, trial: Trial) -> None:
        super().__init__(trial, epochs=1)

    @torch.no_grad()
    def fit(self, epoch: int) -> None:
        """Store features and targets, then choose the number with the best score; ``epoch`` is not used."""
        trial, body = self._trial, self._trial.model.body
        assert isinstance(body, NearestBody)
        rows = training_rows(trial, MOST_KEYS)
        features = features_of(trial, rows, embedded=True)
        mean, deviation = standardise(features.clone())
        body.mean, body.scale = mean.float(), 1 / deviation.float()
        body.keys = body.standardised(features).half()
        y = regressed(trial)[rows].to(trial.device)
        decides = trial.task.target.kind in ("classes", "labels")
        body.values = ((y + 1) / 2 if decides else y).float()
        if decides:
            body.prior = body.values.mean(dim=0)
        random = np.random.default_rng(derive_seed(trial.seed, "queries"))
        chosen = np.sort(random.permutation(len(rows))[:_QUERIES])
        near = torch.cat(
            [self._others(features, part) for part in np.split(chosen, range(_BLOCK, len(chosen), _BLOCK))]
        )
        prior, values, decode = body.prior, body.values, trial.objective.decoder(trial.device)
        best, least = NEIGHBOURS[0], math.inf
        for number in NEIGHBOURS:
            weight, share = self._shares(number, decides)
            means = share * prior + weight * values[near[:, :number]].sum(dim=1)
            predictions = decode(trial.model.head(means[:, None])).cpu().numpy()
            value = trial.objective.score(predictions, np.asarray(trial.data.train.y)[rows[chosen]])
            if value <= least and number < len(rows):
                best, least = number, value
        weight, share = self._shares(best, decides)
        body.weights.zero_()[:best] = weight
        body.prior = share * prior

    def _others(self, features: Tensor, chosen: np.ndarray) -> Tensor:
        """Return the indices [n, most] of those nearest to the samples ``chosen``, without the samples themselves."""
        note_progress()
        body, own = self._trial.model.body, torch.from_numpy(chosen).to(features.device)
        assert isinstance(body, NearestBody)
        near = body.nearest(features[own], NEIGHBOURS[-1] + 1)
        same = near == own[:, None]
        same[:, -1] |= ~same.any(dim=1)  # hidden among duplicates
        return near[~same].reshape(len(own), -1)

    @staticmethod
    def _shares(number: int, decides: bool) -> tuple[float, float]:
        """Return the weight of each of ``number`` neighbours, and of the mean of all samples, which counts as one."""
        return (1 / (number + 1), 1 / (number + 1)) if decides else (1 / number, 0.0)


class ForestStage(FittedStage):
    """Stage that grows a random forest of scikit-learn in one epoch, of bags of at most `MOST_BAG` samples."""

    batch_size = 256

    def __init__(self, trial: Trial, trees: int) -> None:
        super().__init__(trial, epochs=1)
        self._num_trees = trees

    def fit(self, epoch: int) -> None:
        """Grow the trees, ten at a time; ``epoch`` is not used."""
        from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

        trial, body = self._trial, self._trial.model.body
        assert isinstance(body, ForestBody)
        rows = training_rows(trial)
        kind, x, y = trial.task.target.kind, features_of(trial, rows, embedded=True).cpu().numpy(), regressed(trial)
        targets = np.asarray(trial.data.train.y)[rows] if kind == "classes" else y.numpy()[rows].squeeze()
        bag = min(len(rows), MOST_BAG)
        forest = (RandomForestClassifier if kind == "classes" else RandomForestRegressor)(
            max_samples=bag, max_features="sqrt" if kind != "scalar" else 1 / 3, max_depth=MOST_DEPTH, warm_start=True,
            min_samples_leaf=max(1 if kind != "scalar" else 2, bag // 2500),
            random_state=derive_seed(trial.seed, "forest") % 2**32,
        )  # fmt: skip
        for number in range(min(10, self._num_trees), self._num_trees + 10, 10):
            note_progress()
            forest.set_params(n_estimators=min(number, self._num_trees)).fit(x, targets)
        values = [each.tree_.value.reshape(each.tree_.node_count, -1) for each in forest.estimators_]
        if kind == "classes":  # those that occur in training
            values = [value @ np.eye(body.feature_width)[forest.classes_.astype(int)] for value in values]
        elif kind == "labels":
            values = [(value + 1) / 2 for value in values]
        body.set_trees([each.tree_ for each in forest.estimators_], values)
