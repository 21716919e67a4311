"""``forest``: a random forest of scikit-learn."""

from torch import nn

from orca_ray.methods.options import ForestConfig
from orca_ray.methods.stages.fitted import FittedStage
from orca_ray.methods.stages.training_features import (
    scaled_targets,
    training_features,
    training_rows,
    varying_columns,
)
from orca_ray.methods.stages.trial import NetworkRequest
from orca_ray.models.body import Body
from orca_ray.models.features import ProbabilityHead
from orca_ray.models.trees import ForestBody, Tree, read_sklearn_tree, renumber_features
from orca_ray.process import note_progress
from orca_ray.training.numerics import derive_seed

TREES = 300
"""Number of trees."""
MOST_BAG = 10_000
"""Largest number of samples of a tree."""
_MOST_LEVELS = 40
"""Largest depth of a tree."""


class ForestStage(FittedStage):
    """Stage that grows a random forest in one epoch, of bags of at most `MOST_BAG`."""

    @staticmethod
    def network(request: NetworkRequest, width: int) -> tuple[Body, nn.Module]:
        """Return body and head for ``width`` features, without trees."""
        target = request.task.target
        body = ForestBody(width, target.num_outputs)
        return body, ProbabilityHead(target, 0.5 / TREES)

    def fit(self, epoch: int) -> None:
        """Grow the trees, ten at a time; ``epoch`` is not used."""
        from sklearn.ensemble import ExtraTreesRegressor, RandomForestRegressor

        trial = self._trial
        body = trial.model.body
        assert isinstance(body, ForestBody)
        columns = varying_columns(trial)
        rows = training_rows(trial, columns=columns)
        features = training_features(trial, rows, encoded=False, columns=columns)
        x = features.cpu().numpy()
        targets, scales = scaled_targets(trial, rows)
        y = targets.numpy().squeeze()
        bag = min(len(rows), MOST_BAG)
        if trial.task.target.kind in ("scalar", "dense"):
            max_features: str | float = 1 / 3
            least_leaf = 2
        else:
            # The squared error of indicators is the Gini impurity of classes.
            y = (y + 1) / 2
            max_features = "sqrt"
            least_leaf = 1
        draws_thresholds = trial.hyperparameters.of(ForestConfig).splits == "random"
        draws_bags = not draws_thresholds or bag < len(rows)
        kind = ExtraTreesRegressor if draws_thresholds else RandomForestRegressor
        forest = kind(
            bootstrap=draws_bags,
            max_samples=bag if draws_bags else None,
            max_features=max_features,
            max_depth=_MOST_LEVELS,
            warm_start=True,
            min_samples_leaf=max(least_leaf, bag // 2500),
            random_state=derive_seed(trial.seed, "forest") % 2**32,
        )
        for num_trees in range(10, TREES + 1, 10):
            note_progress()
            forest.set_params(n_estimators=num_trees).fit(x, y)
        trees = list[Tree]()
        for estimator in forest.estimators_:
            tree = read_sklearn_tree(estimator.tree_)
            trees.append(tree._replace(values=tree.values * scales.numpy()))
        body.add_trees(renumber_features(trees, columns))
