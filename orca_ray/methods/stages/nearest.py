"""``nearest``: the mean target of the nearest training samples.

scikit-learn's neighbours are not used: the model must be a network that is saved,
exported and run on any device.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from orca_ray.methods.stages.fitted import FittedStage
from orca_ray.methods.stages.ridge_regression import standardise
from orca_ray.methods.stages.training_features import (
    regression_targets,
    training_features,
    training_rows,
)
from orca_ray.methods.stages.trial import NetworkRequest
from orca_ray.models.body import Body
from orca_ray.models.features import MOST_KEYS, NearestBody, ProbabilityHead
from orca_ray.process import note_progress
from orca_ray.training.numerics import derive_seed

NEIGHBOURS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50)
"""Numbers of neighbours that are tried; of equally good ones, the largest is chosen."""
_QUERIES = 2000
"""Largest number of training samples that compare numbers of neighbours."""
_BLOCK = 256
"""Number of samples whose neighbours are found at a time."""


class NearestStage(FittedStage):
    """Stage that stores the training samples, and chooses the number of neighbours.

    It has one epoch. The number is chosen by leave-one-out.
    """

    @staticmethod
    def network(request: NetworkRequest, width: int) -> tuple[Body, nn.Module]:
        """Return body and head for ``width`` features, without samples."""
        target = request.task.target
        body = NearestBody(width, target.num_outputs, NEIGHBOURS[-1])
        return body, ProbabilityHead(target, 0.1 / target.num_outputs)

    @torch.no_grad()
    def fit(self, epoch: int) -> None:
        """Store features and targets, then choose the number of neighbours.

        The number with the best leave-one-out score is chosen. ``epoch`` is not used.
        """
        trial = self._trial
        body = trial.model.body
        assert isinstance(body, NearestBody)
        rows = training_rows(trial, MOST_KEYS)
        features = training_features(trial, rows, encoded=False)
        y = regression_targets(trial)[rows].float().to(trial.device)
        mean, deviation = standardise(features.clone())
        body.mean = mean.float()
        body.scale = 1 / deviation.float()
        body.keys = body.standardised(features).half()
        if trial.task.target.kind in ("classes", "labels"):
            # Targets of a ridge regression are -1 and 1; probabilities are 0 and 1.
            body.values = (y + 1) / 2
        else:
            body.values = y
        num_neighbours = self._best_number(body, features, rows)
        if num_neighbours is not None:
            body.weights.zero_()[:num_neighbours] = 1 / num_neighbours

    def _best_number(
        self, body: NearestBody, features: Tensor, rows: np.ndarray
    ) -> int | None:
        """Return the number of neighbours that predicts left-out samples best.

        Return None if each number of `NEIGHBOURS` is as large as the number of training
        samples ``rows`` or larger, or if no score is finite. Return 1 if each class has
        a single sample, because no number predicts a left-out class then.
        """
        trial = self._trial
        if trial.task.target.kind == "classes" and len(rows) > 1:
            counts = np.unique(
                np.asarray(trial.data.train.y)[rows], return_counts=True
            )[1]
            if counts.max() == 1:
                return 1
        random = np.random.default_rng(derive_seed(trial.seed, "queries"))
        queries = random.permutation(len(rows))[:_QUERIES]
        # The nearest one is left out: it is the sample itself, or equal to it.
        blocks = torch.split(torch.from_numpy(queries), _BLOCK)
        neighbours = torch.cat(
            [
                body.nearest(features[block], NEIGHBOURS[-1] + 1)[:, 1:]
                for block in blocks
            ]
        )
        targets = np.asarray(trial.data.train.y)[rows[queries]]
        decode = trial.objective.decoder(trial.device)
        least_score = math.inf
        best = None
        for num_neighbours in NEIGHBOURS:
            note_progress()
            means = torch.stack(
                [
                    body.values[near].mean(dim=0)
                    for near in neighbours[:, :num_neighbours]
                ]
            )
            outputs = decode(trial.model.head(means[:, None])).cpu().numpy()
            score = trial.objective.score(outputs, targets)
            if score <= least_score and num_neighbours < len(rows):
                least_score = score
                best = num_neighbours
        return best
