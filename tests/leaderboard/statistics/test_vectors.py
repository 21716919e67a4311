"""The values of all statistics on some tables do not change by accident: ``vectors.json`` holds them.

After a wanted change, run ``python -m tests.leaderboard.statistics.test_vectors``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from orca_ray.leaderboard.statistics import all_statistics
from orca_ray.leaderboard.statistics.questions import answers
from orca_ray.testing.tables import random_table, table

FILE = Path(__file__).with_name("vectors.json")
TABLES = {
    "whole": random_table(12, 5, 3),
    "missing": random_table(11, 4, 3, missing=0.15, number=4),
    "few tasks, few seeds": random_table(4, 3, 2, missing=0.2, number=2),
    "ties": table({f"t{t}": {f"m0{m}": [0.25 * ((t * m) % 3), 0.5] for m in range(3)} for t in range(7)}),
}
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "performance_profile": {"factors": [1, 1.05, 1.5, 2, 10]},
    "improvement": {"baseline": "nft"},
}


def vectors() -> dict[str, dict[str, list[Any]]]:
    """Compute the content of the file: the columns of each statistic of each table, and the answers to questions."""
    found: dict[str, dict[str, list[Any]]] = {}
    for name, scores in TABLES.items():
        renamed = scores.replace({"method": {"m00": "orca", "m01": "nft", "m02": "scratch"}})
        for each in all_statistics().values():
            if each.inputs == ("scores",):
                values = each.compute(renamed, **OPTIONS.get(each.name, {})).reset_index()
                found[f"{name}: {each.name}"] = {str(key): column for key, column in values.to_dict("list").items()}
        for answer in answers(renamed):
            ratios = pd.DataFrame(answer.comparison.tasks).T.reset_index().to_dict("list")
            found[f"{name}: {answer.sentence}"] = {str(key): column for key, column in ratios.items()}
    return found


def test_vectors_are_up_to_date() -> None:
    expected = json.loads(FILE.read_text())
    found = vectors()
    assert found.keys() == expected.keys()
    for name, columns in found.items():
        pd.testing.assert_frame_equal(pd.DataFrame(columns), pd.DataFrame(expected[name]), check_dtype=False, rtol=1e-9)


if __name__ == "__main__":
    FILE.write_text(json.dumps(vectors(), separators=(",", ":")) + "\n")
