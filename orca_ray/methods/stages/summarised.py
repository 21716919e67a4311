"""The last stage of methods that fit a linear model, neighbours or trees to features of
the inputs.

Each stage makes the body and the head of its network, too.
"""

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from orca_ray.methods.options import BoostingConfig, ForestConfig, LinearConfig
from orca_ray.methods.stages.fitted import (
    FINE,
    Columns,
    FittedStage,
    RidgeStage,
    feature_blocks,
    features_of,
    least_left_out,
    principal,
    regressed,
    scaled,
    standardise,
    training_rows,
    varying,
)
from orca_ray.methods.stages.trial import NetworkRequest, Trial
from orca_ray.models.body import Body
from orca_ray.models.crossmodal import PooledHead
from orca_ray.models.features import (
    FeatureBody,
    KernelBody,
    NearestBody,
    ProbabilityHead,
    limited,
)
from orca_ray.models.trees import (
    BoostedBody,
    ForestBody,
    OutputHead,
    Tree,
    of_boosters,
    of_forest,
    renumbered,
)
from orca_ray.process import note_progress
from orca_ray.training.numerics import derive_seed

if TYPE_CHECKING:
    from lightgbm import Dataset

_STRENGTHS = tuple(10.0**exponent for exponent in np.linspace(-4, 2, 7))
"""Inverse penalties C that are tried, from the smallest until two in turn are no better
than the best.
"""
_PARTS = 4
_MOST_PARTS = 1000
_LEAST = 8
"""Each of so many parts of the training samples is left out once; of more samples, only
the first; of fewer, none, and C is 1.
"""
_MOST_COMPARED = 2**22
"""Largest number of features of all samples that compare C."""
NEIGHBOURS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50)
"""Numbers of neighbours that are tried; of equally good ones, the largest is chosen."""
MOST_KEYS = 50_000
_QUERIES = 2000
_BLOCK = 256
"""Largest numbers of samples among which neighbours are found, and for which they are
left out; queries at a time.
"""
_WIDTHS = tuple(2.0**exponent for exponent in range(-4, 3))
"""Factors of the squared distances that are tried, relative to the inverse of their
mean.
"""
MOST_LANDMARKS = 1000
MOST_FITTED = 10_000
_COMPARED = 500
_MOST_STORED = 2**24
"""Largest numbers of landmarks, of samples that are fitted, of those that compare
widths, and of landmarks' values.
"""
TREES = 300
MOST_BAG = 10_000
_MOST_LEVELS = 40
"""Number of trees of a forest, and largest number of samples of a tree."""


class LinearStage(RidgeStage):
    """Stage that fits numbers and fields by a ridge regression, and classes and labels
    by a logistic regression.

    The logistic regression minimises the task's loss. Its penalty |w|² / (2 C N) is the
    one with the least loss on parts of the training samples that are left out.
    """

    def __init__(self, trial: Trial) -> None:
        super().__init__(trial, leave_one_out=True)

    @staticmethod
    def network(request: NetworkRequest, width: int) -> tuple[Body, nn.Module]:
        """Return body and head for ``width`` features; the weights are 0."""
        head = PooledHead(width, request.task.target)
        nn.init.zeros_(head.output.weight)
        nn.init.zeros_(head.output.bias)
        return (
            limited(FeatureBody(width), request.hyperparameters.of(LinearConfig).limit),
            head,
        )

    @torch.no_grad()
    def fit(self, epoch: int) -> None:
        """Fit the head to all training samples (`training_rows`), with the chosen
        penalty; ``epoch`` is not used.
        """
        trial = self._trial
        output = self._trial.model.head.output
        assert isinstance(output, nn.Linear)
        if trial.task.target.kind in ("scalar", "dense"):
            self.fit_by_leave_one_out(output)
            return
        columns = varying(trial)
        rows = training_rows(trial, columns=columns)
        x = features_of(trial, rows, columns=columns)
        mean, deviation = standardise(x)
        z = x.double()
        directions = None
        if x.shape[0] < x.shape[1]:  # weights outside the span of the samples are 0
            basis, values, directions = principal(x)
            z = basis * values.sqrt()
        y = torch.from_numpy(np.asarray(trial.data.train.y)[rows]).to(trial.device)
        y = y.double() if y.is_floating_point() else y
        loss = trial.objective.training_loss(trial.data.train.y, trial.device)
        found = _logistic(
            z,
            y,
            loss,
            self._parts(rows),
            z.new_zeros(1 + z.shape[1], output.out_features),
        )
        weight = (
            found[1:] if directions is None else directions @ found[1:]
        ) / deviation[:, None]
        output.weight.zero_()[:, columns] = weight.T.to(output.weight)
        output.bias.copy_(found[0] - mean @ weight)

    def _parts(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of the part of each of the training samples ``rows`` [n];
        all parts have equal classes.
        """
        order = np.random.default_rng(derive_seed(self._trial.seed, "parts")).random(
            len(rows)
        )
        if self._trial.task.target.kind == "classes":
            order += np.asarray(self._trial.data.train.y)[rows]
        return np.argsort(np.argsort(order)) % _PARTS


_Loss = Callable[[Tensor, Tensor], Tensor]


def _logistic(
    x: Tensor, y: Tensor, loss: _Loss, parts: np.ndarray, start: Tensor
) -> Tensor:
    """Return biases and weights [1 + R, K] for features ``x`` [N, R], with the C that
    is best for left-out parts.
    """
    number = 0 if len(x) < _LEAST else _PARTS if len(x) <= _MOST_PARTS else 1
    drawn = np.sort(
        np.random.default_rng(0).permutation(len(x))[
            : max(_MOST_PARTS, _MOST_COMPARED // x.shape[1])
        ]
    )
    splits = [
        [
            torch.from_numpy(drawn[side])
            for side in (parts[drawn] != k, parts[drawn] == k)
        ]
        for k in range(number)
    ]
    best = math.inf
    chosen = 1.0
    worse = 0
    found = [start] * number
    for strength in _STRENGTHS if number else ():
        found = [
            _minimised(x[kept], y[kept], loss, strength, each)
            for (kept, _), each in zip(splits, found, strict=True)
        ]
        losses = [
            loss(_affine(x[left], each), y[left])
            for (_, left), each in zip(splits, found, strict=True)
        ]
        total = float(sum(losses))
        worse = worse + 1 if total >= best else 0
        if total < best:
            best = total
            chosen = strength
            start = torch.stack(found).mean(dim=0)
        if worse == 2:
            break
    return _minimised(x, y, loss, chosen, start)


def _affine(x: Tensor, weights: Tensor) -> Tensor:
    return x @ weights[1:] + weights[0]


@torch.enable_grad()
def _minimised(
    x: Tensor, y: Tensor, loss: _Loss, strength: float, start: Tensor
) -> Tensor:
    """Return the biases and weights with the least penalised loss, found from ``start``
    by L-BFGS.
    """

    def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
        note_progress()
        weights = torch.from_numpy(flat.reshape(start.shape)).to(x).requires_grad_()
        penalised = loss(_affine(x, weights), y) + weights[1:].square().sum() / (
            2 * strength * len(x)
        )
        (gradient,) = torch.autograd.grad(penalised, weights)
        return penalised.item(), gradient.cpu().numpy().ravel()

    found = minimize(
        value,
        start.cpu().numpy().ravel(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 200, "ftol": 1e-8},
    )
    return torch.from_numpy(found.x.reshape(start.shape)).to(x)


class NearestStage(FittedStage):
    """Stage that stores the training samples in one epoch, and chooses the number of
    neighbours by leave-one-out.
    """

    @staticmethod
    def network(request: NetworkRequest, width: int) -> tuple[Body, nn.Module]:
        """Return body and head for ``width`` features, without samples."""
        target = request.task.target
        body = NearestBody(width, target.num_outputs, NEIGHBOURS[-1])
        return body, ProbabilityHead(target, 0.1 / target.num_outputs)

    @torch.no_grad()
    def fit(self, epoch: int) -> None:
        """Store features and targets, then choose the number with the best score;
        ``epoch`` is not used.
        """
        trial = self._trial
        body = self._trial.model.body
        assert isinstance(body, NearestBody)
        rows = training_rows(trial, MOST_KEYS)
        features = features_of(trial, rows, encoded=False)
        y = regressed(trial)[rows].float().to(trial.device)
        mean, deviation = standardise(features.clone())
        body.mean = mean.float()
        body.scale = 1 / deviation.float()
        body.keys = body.standardised(features).half()
        body.values = (
            (y + 1) / 2 if trial.task.target.kind in ("classes", "labels") else y
        )
        random = np.random.default_rng(derive_seed(trial.seed, "queries"))
        chosen = random.permutation(len(rows))[:_QUERIES]
        # Without the nearest, which is the sample itself or its equal.
        blocks = torch.split(torch.from_numpy(chosen), _BLOCK)
        near = torch.cat(
            [body.nearest(features[part], NEIGHBOURS[-1] + 1)[:, 1:] for part in blocks]
        )
        targets = np.asarray(trial.data.train.y)[rows[chosen]]
        decode = trial.objective.decoder(trial.device)
        least = math.inf
        for number in NEIGHBOURS:
            note_progress()
            means = torch.stack(
                [body.values[each].mean(dim=0) for each in near[:, :number]]
            )
            value = trial.objective.score(
                decode(trial.model.head(means[:, None])).cpu().numpy(), targets
            )
            if value <= least and number < len(rows):
                least = value
                body.weights.zero_()[:number] = 1 / number


class KernelStage(FittedStage):
    """Stage that fits a ridge regression of Gaussian kernels around training samples,
    the landmarks, in one epoch.

    This is the Nyström method of Williams and Seeger (2001), exact if all samples are
    landmarks. Width and penalty have the least loss of leave-one-out predictions: the
    squared error or, of classes and labels, the task's (`scaled`).
    """

    batch_size = 256

    @staticmethod
    def network(request: NetworkRequest, width: int) -> tuple[Body, nn.Module]:
        """Return body and head for ``width`` features, without landmarks."""
        target = request.task.target
        return KernelBody(width, target.num_outputs), OutputHead(target.output_shape)

    @torch.no_grad()
    def fit(self, epoch: int) -> None:
        """Choose the width on some samples, then fit all, up to `MOST_FITTED`;
        ``epoch`` is not used.
        """
        trial = self._trial
        body = self._trial.model.body
        columns = varying(self._trial)
        assert isinstance(body, KernelBody)
        drawn = np.random.default_rng(derive_seed(trial.seed, "landmarks"))
        rows = drawn.permutation(training_rows(trial, MOST_FITTED))
        features = features_of(trial, rows, encoded=False)
        mean, deviation = standardise(features.clone())
        scale = torch.zeros_like(body.scale)
        scale[columns] = (0.5 / len(scale[columns])) ** 0.5 / deviation[columns].to(
            scale
        )
        body.mean = mean.float()
        few = slice(_COMPARED)
        losses = [
            self._solved(body, features[few], rows[few], scale * width**0.5)
            for width in _WIDTHS
        ]
        self._solved(
            body, features, rows, scale * _WIDTHS[int(np.argmin(losses))] ** 0.5
        )

    def _solved(
        self, body: KernelBody, features: Tensor, rows: np.ndarray, scale: Tensor
    ) -> float:
        """Fit ``body`` to ``features`` [n, F] of the training samples ``rows``; return
        the leave-one-out loss.
        """
        note_progress()
        trial = self._trial
        logits = self._trial.task.target.kind in ("classes", "labels")
        y = regressed(trial)[rows].to(trial.device)
        body.scale = scale
        most = max(2, min(MOST_LANDMARKS, _MOST_STORED // len(scale)))
        body.keys = body.standardised(features[:most]).half()
        own = body.kernels(body.keys)
        root = torch.linalg.cholesky(
            own + 1e-6 * torch.eye(len(own)).to(own)
        )  # equal landmarks make it singular
        near = torch.cat(
            [
                body.kernels(body.standardised(part))
                for part in torch.split(features, _BLOCK)
            ]
        )
        x = torch.linalg.solve_triangular(root, near.T, upper=False).T
        mean = x.mean(dim=0)
        best = scaled(trial, rows) if logits else None
        weight, predictions, loss = least_left_out(
            x - mean,
            y,
            FINE,
            lambda rest: (
                float(rest.square().mean()) if best is None else best(y - rest)[1]
            ),
        )
        factor = 1.0 if best is None else best(predictions)[0]
        body.values = factor * torch.linalg.solve_triangular(root.T, weight, upper=True)
        body.weights = factor * (y.mean(dim=0) - mean @ weight)
        return loss


class ForestStage(FittedStage):
    """Stage that grows a random forest of scikit-learn in one epoch, of bags of at most
    `MOST_BAG` samples.
    """

    @staticmethod
    def network(request: NetworkRequest, width: int) -> tuple[Body, nn.Module]:
        """Return body and head for ``width`` features, without trees."""
        target = request.task.target
        return ForestBody(width, target.num_outputs), ProbabilityHead(
            target, 0.5 / TREES
        )

    def fit(self, epoch: int) -> None:
        """Grow the trees, ten at a time; ``epoch`` is not used."""
        from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor

        trial = self._trial
        body = self._trial.model.body
        assert isinstance(body, ForestBody)
        columns = varying(trial)
        rows = training_rows(trial, columns=columns)
        x = features_of(trial, rows, encoded=False, columns=columns).cpu().numpy()
        y = regressed(trial).numpy()[rows].squeeze()
        numbers = trial.task.target.kind == "scalar"
        bag = min(len(rows), MOST_BAG)
        random = trial.hyperparameters.of(ForestConfig).splits == "random"
        bags = not random or bag < len(rows)
        # The squared error of indicators is the Gini impurity of classes.
        forest = (ExtraTreesRegressor if random else RandomForestRegressor)(
            bootstrap=bags,
            max_samples=bag if bags else None,
            max_features=1 / 3 if numbers else "sqrt",
            max_depth=_MOST_LEVELS,
            warm_start=True,
            min_samples_leaf=max(2 if numbers else 1, bag // 2500),
            random_state=derive_seed(trial.seed, "forest") % 2**32,
        )
        for number in range(10, TREES + 1, 10):
            note_progress()
            forest.set_params(n_estimators=number).fit(x, y if numbers else (y + 1) / 2)
        body.add_trees(
            renumbered([of_forest(each.tree_) for each in forest.estimators_], columns)
        )


class BoostingStage(FittedStage):
    """Stage that adds ``boosting.rounds`` rounds of trees an epoch; resuming is exact
    with equally many threads.

    Every epoch starts from the sums of the trees so far, so that interruption changes
    nothing.
    """

    batch_size = 1024

    def __init__(self, trial: Trial) -> None:
        self._config = trial.hyperparameters.of(BoostingConfig)
        super().__init__(
            trial, trial.hyperparameters.refine.epochs, self._config.patience
        )
        assert isinstance(trial.model.body, BoostedBody)
        self._trees = self._latest = trial.model.body
        self._sums: Tensor | None = (
            None  # of all trees but the latest, for the training samples
        )

    @staticmethod
    def network(request: NetworkRequest, width: int) -> tuple[Body, nn.Module]:
        """Return body and head for ``width`` features, without trees."""
        target = request.task.target
        return BoostedBody(target, width), OutputHead(target.output_shape)

    @torch.no_grad()
    def fit(self, epoch: int) -> float:
        """Add the trees of ``epoch``; return the training loss, averaged over the
        boosters.
        """
        import lightgbm

        rows, datasets = self._data
        if epoch:
            if (
                self._sums is None
            ):  # the trees of the first epoch, or of all epochs before an interruption
                blocks = feature_blocks(
                    self._trial, np.arange(len(rows)), encoded=False
                )
                self._sums = torch.cat(
                    [self._trees.sums(block[:, None]) for block in blocks]
                ).cpu()
            else:
                parts = (
                    torch.split(each, self.batch_size) for each in (rows, self._sums)
                )
                self._sums = torch.cat(list(map(self._latest.sums, *parts)))
            starts = self._sums.cpu().numpy()
            each = (
                np.ascontiguousarray(starts.T)
                if len(datasets) == starts.shape[1]
                else [starts]
            )
            for data, start in zip(datasets, each, strict=True):
                data.set_init_score(start)
        copies = self._config.copies
        losses = list[float]()
        added = list[Tree]()
        for copy in range(copies):
            boosters = [
                lightgbm.train(
                    self._parameters(epoch, copy),
                    data,
                    self._config.rounds,
                    callbacks=[lambda _: note_progress()],
                    keep_training_booster=True,
                )
                for data in datasets
            ]
            losses += [booster.eval_train()[0][2] for booster in boosters]
            added += [
                tree._replace(values=tree.values / copies)
                for tree in of_boosters(boosters)
            ]
        self._trees.add_trees(renumbered(added, self._columns))
        self._latest = BoostedBody(self._trial.task.target, rows.shape[2])
        self._latest.add_trees(added)
        return float(np.mean(losses))

    @cached_property
    def _columns(self) -> Columns:
        return varying(self._trial)

    @cached_property
    def _data(self) -> "tuple[Tensor, list[Dataset]]":
        """The training samples as tokens [N, 1, F], and a data set for each booster."""
        from lightgbm import Dataset

        trial = self._trial
        kind = self._trial.task.target.kind
        y = self._trial.data.train.y
        rows = features_of(
            trial, np.arange(len(y)), encoded=False, columns=self._columns
        ).cpu()
        columns = (
            [np.asarray(y)] if kind == "classes" else list(regressed(trial).numpy().T)
        )
        if kind == "labels":
            columns = [column > 0 for column in columns]
        return rows[:, None], [Dataset(rows.numpy(), column) for column in columns]

    def _parameters(self, epoch: int, copy: int) -> Mapping[str, Any]:
        target = self._trial.task.target
        config = self._config
        draws = (epoch, copy) if copy else (epoch,)
        many = target.kind == "classes" and target.size > 2
        objective, metric = (
            ("regression", "l2")
            if target.kind == "scalar"
            else ("binary", "binary_logloss")
        )
        return {
            "objective": "multiclass" if many else objective,
            "metric": "multi_logloss" if many else metric,
            "num_class": target.size if many else 1,
            "learning_rate": config.learning_rate,
            "num_leaves": config.leaves,
            "min_data_in_leaf": config.leaf_samples,
            "lambda_l2": config.l2,
            "feature_fraction_bynode": config.columns,
            "feature_fraction_seed": (
                derive_seed(self._trial.seed, "columns", *draws) % 2**31
            ),
            "bagging_fraction": config.rows,
            "bagging_freq": int(config.rows < 1),
            "bagging_seed": derive_seed(self._trial.seed, "rows", *draws) % 2**31,
            "num_threads": torch.get_num_threads(),
            "deterministic": True,
            "force_col_wise": True,
            "verbosity": -1,
        }
