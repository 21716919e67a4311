"""``gradient_boosting``: trees of LightGBM."""

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from orca_ray.methods.options import BoostingConfig
from orca_ray.methods.stages.fitted import FittedStage
from orca_ray.methods.stages.training_features import (
    Columns,
    feature_blocks,
    regression_targets,
    training_features,
    varying_columns,
)
from orca_ray.methods.stages.trial import NetworkRequest, Trial
from orca_ray.models.body import Body
from orca_ray.models.trees import (
    BoostedBody,
    OutputHead,
    Tree,
    read_lightgbm_trees,
    renumber_features,
)
from orca_ray.process import note_progress
from orca_ray.training.numerics import derive_seed

if TYPE_CHECKING:
    from lightgbm import Dataset


class BoostingStage(FittedStage):
    """Stage that adds ``boosting.rounds`` rounds of trees an epoch.

    Every epoch starts from the sums of the trees so far, so that an interruption
    changes nothing if it is resumed with as many threads.
    """

    batch_size = 1024

    def __init__(self, trial: Trial) -> None:
        self._config = trial.hyperparameters.of(BoostingConfig)
        super().__init__(
            trial, trial.hyperparameters.refine.epochs, self._config.patience
        )
        assert isinstance(trial.model.body, BoostedBody)
        self._trees = trial.model.body
        self._latest = trial.model.body
        """The trees of the latest epoch, over the columns of `_data`."""
        self._sums: Tensor | None = None
        """Sums [N, K] of all trees but the latest, for the training samples."""

    @staticmethod
    def network(request: NetworkRequest, width: int) -> tuple[Body, nn.Module]:
        """Return body and head for ``width`` features, without trees."""
        target = request.task.target
        return BoostedBody(target, width), OutputHead(target.output_shape)

    @torch.no_grad()
    def fit(self, epoch: int) -> float:
        """Add the trees of ``epoch``; return the mean training loss of the boosters."""
        import lightgbm

        tokens, datasets = self._data
        if epoch:
            self._start_from_sums(tokens, datasets)
        copies = self._config.copies
        losses = list[float]()
        new_trees = list[Tree]()
        for copy in range(copies):
            boosters = [
                lightgbm.train(
                    self._parameters(epoch, copy),
                    dataset,
                    self._config.rounds,
                    callbacks=[lambda _: note_progress()],
                    keep_training_booster=True,
                )
                for dataset in datasets
            ]
            losses += [booster.eval_train()[0][2] for booster in boosters]
            new_trees += [
                tree._replace(values=tree.values / copies)
                for tree in read_lightgbm_trees(boosters)
            ]
        self._trees.add_trees(renumber_features(new_trees, self._columns))
        self._latest = BoostedBody(self._trial.task.target, tokens.shape[2])
        self._latest.add_trees(new_trees)
        return float(np.mean(losses))

    def _start_from_sums(self, tokens: Tensor, datasets: "list[Dataset]") -> None:
        """Let the boosters of ``datasets`` start from the sums of all trees so far."""
        if self._sums is None:
            # The trees of the first epoch, or of all epochs before an interruption.
            blocks = feature_blocks(self._trial, np.arange(len(tokens)), encoded=False)
            sums = [self._trees.sums(block[:, None]) for block in blocks]
            self._sums = torch.cat(sums).cpu()
        else:
            token_blocks = torch.split(tokens, self.batch_size)
            sum_blocks = torch.split(self._sums, self.batch_size)
            self._sums = torch.cat(
                list(map(self._latest.sums, token_blocks, sum_blocks))
            )
        scores = self._sums.cpu().numpy()
        if len(datasets) == scores.shape[1]:
            starts = list(np.ascontiguousarray(scores.T))
        else:
            starts = [scores]
        for dataset, start in zip(datasets, starts, strict=True):
            dataset.set_init_score(start)

    @cached_property
    def _columns(self) -> Columns:
        return varying_columns(self._trial)

    @cached_property
    def _data(self) -> "tuple[Tensor, list[Dataset]]":
        """The training samples as tokens [N, 1, F], and a data set for each booster."""
        from lightgbm import Dataset

        trial = self._trial
        y = trial.data.train.y
        features = training_features(
            trial, np.arange(len(y)), encoded=False, columns=self._columns
        ).cpu()
        if trial.task.target.kind == "classes":
            targets = [np.asarray(y)]
        else:
            targets = list(regression_targets(trial).numpy().T)
        if trial.task.target.kind == "labels":
            targets = [target > 0 for target in targets]
        datasets = [Dataset(features.numpy(), target) for target in targets]
        return features[:, None], datasets

    def _parameters(self, epoch: int, copy: int) -> Mapping[str, Any]:
        """Return LightGBM's parameters for a copy of the trees of ``epoch``."""
        target = self._trial.task.target
        config = self._config
        # The first copy draws as earlier versions did, which had no copies.
        draw = (epoch, copy) if copy else (epoch,)
        num_classes = 1
        if target.kind in ("scalar", "dense"):
            objective = "regression"
            metric = "l2"
        elif target.kind == "classes" and target.size > 2:
            objective = "multiclass"
            metric = "multi_logloss"
            num_classes = target.size
        else:
            objective = "binary"
            metric = "binary_logloss"
        return {
            "objective": objective,
            "metric": metric,
            "num_class": num_classes,
            "learning_rate": config.learning_rate,
            "num_leaves": config.leaves,
            "min_data_in_leaf": config.leaf_samples,
            "lambda_l2": config.l2,
            "feature_fraction_bynode": config.columns,
            "feature_fraction_seed": (
                derive_seed(self._trial.seed, "columns", *draw) % 2**31
            ),
            "bagging_fraction": config.rows,
            "bagging_freq": int(config.rows < 1),
            "bagging_seed": derive_seed(self._trial.seed, "rows", *draw) % 2**31,
            "num_threads": torch.get_num_threads(),
            "deterministic": True,
            "force_col_wise": True,
            "verbosity": -1,
        }
