"""A table in scikit-learn: ``python examples/table.py my-data``.

A pipeline, a grid of its parameters, and the model. The table is scikit-learn's wine;
the model folder is written to ``my-data``.
"""

import sys
from pathlib import Path

import pandas as pd
from sklearn.datasets import load_wine
from sklearn.feature_selection import SelectKBest
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import Pipeline

from orca_ray import CrossModalClassifier


def main(folder: Path) -> None:
    x, y = load_wine(return_X_y=True, as_frame=True)
    x_train, x_test, y_train, y_test = train_test_split(
        x, y, stratify=y, random_state=0
    )
    pipeline = Pipeline(
        [
            ("select", SelectKBest(k=8)),
            ("model", CrossModalClassifier(method="nft", epochs=5, random_state=0)),
        ]
    ).set_output(transform="pandas")  # the model then knows the columns by name
    grid = {"model__learning_rate": [1e-4, 1e-3]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(x_train, y_train)

    results = pd.DataFrame(search.cv_results_)
    print(results[["param_model__learning_rate", "mean_test_score"]])
    print(f"accuracy on test: {search.score(x_test, y_test):.3f}")
    model = search.best_estimator_["model"]
    print(f"columns: {', '.join(model.feature_names_in_)}")
    model.adapted_.save(folder / "table-model")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "my-data"))
