"""The stage of ``gradient_boosting``: each epoch adds some trees to those of the epochs before."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import lightgbm
import numpy as np
import torch

from orca_ray.data.rows import row_slices
from orca_ray.methods.options import BoostingConfig
from orca_ray.methods.reports import Outcome
from orca_ray.methods.stages.fitted import FittedStage, regressed
from orca_ray.methods.stages.trial import Trial
from orca_ray.models.trees import TreeBody, table_rows
from orca_ray.progress_counter import note_progress
from orca_ray.training.feed import make_samples
from orca_ray.training.numerics import derive_seed


class BoostingStage(FittedStage):
    """Boosts ``boosting.rounds`` rounds an epoch; a restored state continues bit for bit, with equal threads.

    Every epoch starts from the text of the trees so far, so that interruption changes nothing.
    """

    batch_size = 1024

    def __init__(self, trial: Trial, config: BoostingConfig) -> None:
        super().__init__(trial, trial.hyperparameters.refine.epochs, config.patience)
        self._config = config
        assert isinstance(trial.model.body, TreeBody)
        self._trees: TreeBody = trial.model.body

    def fit(self, epoch: int) -> float:
        """Add the trees of an epoch; return the mean loss of the training split."""
        boosters = [
            lightgbm.train(
                self._parameters(epoch), data, self._config.rounds, callbacks=[lambda _: note_progress()],
                init_model=lightgbm.Booster(model_str=before) if before else None, keep_training_booster=True,
            )
            for data, before in zip(self._datasets, self._trees.models or [""] * len(self._datasets), strict=True)
        ]  # fmt: skip
        self._trees.set_models([booster.model_to_string() for booster in boosters])
        return float(np.mean([booster.eval_train()[0][2] for booster in boosters]))

    def add_to(self, outcome: Outcome) -> Outcome:
        """Return ``outcome`` as `FittedStage` does; the parameters are the values in the trees."""
        fitted = self._trees.num_values
        return replace(super().add_to(outcome), num_parameters=fitted, num_trainable=fitted)

    @cached_property
    def _datasets(self) -> list[lightgbm.Dataset]:
        """The training split, once for each booster."""
        trial, x = self._trial, self._trial.data.train.x
        samples = make_samples([x], trial.device)
        rows = np.concatenate([table_rows(trial.model, inputs) for (inputs,) in samples.batches(row_slices(x))])
        kind = trial.task.target.kind
        columns = [np.asarray(trial.data.train.y)] if kind == "classes" else list(regressed(trial).numpy().T)
        if kind == "labels":
            columns = [column > 0 for column in columns]
        return [lightgbm.Dataset(rows, column, free_raw_data=False) for column in columns]

    def _parameters(self, epoch: int) -> Mapping[str, Any]:
        target, config = self._trial.task.target, self._config
        many = target.kind == "classes" and target.size > 2
        objective, metric = ("regression", "l2") if target.kind == "scalar" else ("binary", "binary_logloss")
        return {
            "objective": "multiclass" if many else objective, "metric": "multi_logloss" if many else metric,
            "num_class": target.size if many else 1, "learning_rate": config.learning_rate,
            "num_leaves": config.leaves, "min_data_in_leaf": config.leaf_samples, "lambda_l2": config.l2,
            "feature_fraction_bynode": config.columns,
            "feature_fraction_seed": derive_seed(self._trial.seed, "columns", epoch) % 2**31,
            "num_threads": torch.get_num_threads(), "deterministic": True, "force_col_wise": True, "verbosity": -1,
        }  # fmt: skip
