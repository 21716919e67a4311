"""Score tables for tests."""

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

COLUMNS = ["task", "method", "seed", "score"]


def table(cells: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Return the score table with these scores, by task and method: one number, or one per seed."""
    rows = [
        (task, method, seed, float(score))
        for task, methods in cells.items()
        for method, scores in methods.items()
        for seed, score in enumerate(np.atleast_1d(scores))
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def random_table(tasks: int, methods: int, seeds: int, *, missing: float = 0.0, number: int = 0) -> pd.DataFrame:
    """Return log-normal scores whose scale depends on the task; later methods are a little worse."""
    random = np.random.default_rng(number)
    scale = np.exp(random.normal(0, 2, tasks))
    rows = [
        (f"t{task:02}", f"m{method:02}", seed, scale[task] * np.exp(random.normal(0.05 * method, 0.3)))
        for task, method, seed in product(range(tasks), range(methods), range(seeds))
    ]
    whole = pd.DataFrame(rows, columns=COLUMNS)
    return whole[random.random(len(whole)) >= missing].reset_index(drop=True)
