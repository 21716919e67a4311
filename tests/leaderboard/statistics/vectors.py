"""Values of all statistics in ``vectors.json``, which the page's JavaScript must reproduce.

``python -m tests.leaderboard.statistics.vectors`` writes the file. NaN is null, and infinity the string "Infinity".
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from orca_ray.leaderboard.statistics import all_statistics
from orca_ray.leaderboard.statistics.critical_difference import signed_rank
from orca_ray.leaderboard.statistics.intervals import (
    chi_square_tail,
    indices,
    student_quantile,
    student_tail,
    tail,
    words,
)
from orca_ray.leaderboard.statistics.verdict import answers
from orca_ray.testing.scores import random_table, table
from tests.leaderboard.statistics.diagram import critical_differences, studentised_range

FILE = Path(__file__).with_name("vectors.json")


def plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [plain(each) for each in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, float):
        return None if math.isnan(value) else float(value) if math.isfinite(value) else "Infinity"
    return int(value) if isinstance(value, np.integer) else value


def tables() -> dict[str, pd.DataFrame]:
    """Return score tables by name; the methods ask for the answers to questions."""
    names = {"m00": "orca", "m01": "nft", "m02": "scratch"}
    whole = random_table(12, 5, 3)
    found = {
        "whole": whole,
        "subset": whole[whole["task"].isin({"t01", "t02", "t05", "t06", "t09", "t11"}) & (whole["method"] != "m03")],
        "missing": random_table(11, 4, 3, missing=0.15, number=4),
        "few tasks": random_table(3, 3, 3, number=1),
        "few tasks, few seeds": random_table(4, 3, 2, missing=0.2, number=2),
        "ties": table({f"t{t}": {f"m0{m}": [0.25 * ((t * m) % 3), 0.5] for m in range(3)} for t in range(7)}),
        "many tasks": random_table(31, 3, 1, number=3),
    }
    return {name: each.replace({"method": names}) for name, each in found.items()}


def vectors() -> dict[str, Any]:
    """Compute the content of the file."""
    boards = []
    for name, scores in tables().items():
        options: dict[str, dict[str, Any]] = {
            "performance_profile": {"factors": [1, 1.05, 1.5, 2, 10]},
            "improvement": {"baseline": "nft"},
        }
        statistics = {
            each.name: each.compute(scores, **options.get(each.name, {})).reset_index().to_dict("records")
            for each in all_statistics().values()
            if each.inputs == ("scores",)
        }
        asked = [
            {"name": each.name, "subject": each.subject, "answer": each.answer, "ratio": each.comparison.ratio}
            | {"tasks": each.comparison.tasks, "sentence": each.sentence}
            for each in answers(scores)
        ]
        diagram = asdict(critical_differences(scores))
        rows = scores[["task", "method", "seed", "score"]].to_numpy().tolist()
        boards.append(
            {"name": name, "scores": rows, "options": options, "statistics": statistics, "answers": asked}
            | {"critical_differences": diagram}
        )
    differences = [[1, -1, 2, 3, 0], [0.5, -0.1, 0.7, 0.2, 0.9, 1.4], [(-1) ** k * k - 3 for k in range(40)]]
    content: dict[str, Any] = plain(
        {
            "words": words(20),
            "indices": [{"limit": n, "first": indices((12,), n)} for n in (2, 7, 60)],
            "tail": [
                [num, freedom, tail(num, freedom)] for num, freedom in ((5, 4), (12, 11), (3, 8), (2, 1), (60, 59))
            ],
            "student_tail": [[t, n, student_tail(t, n)] for t in (0.0, 0.7, 3.1) for n in (1, 2, 3, 4, 30, 59)],
            "student_quantile": [[0.05, n, student_quantile(0.05, n)] for n in (1, 2, 3, 4, 30, 59)],
            "chi_square_tail": [[x, n, chi_square_tail(x, n)] for x in (0.0, 0.5, 9.0, 40.0) for n in (1, 2, 5, 19)],
            "studentised_range": [[0.05, n, studentised_range(0.05, n)] for n in (2, 3, 5, 20)],
            "signed_rank": [[each, signed_rank(np.array(each, dtype=np.float64))] for each in differences],
            "tables": boards,
        }
    )
    return content


if __name__ == "__main__":
    FILE.write_text(json.dumps(vectors(), indent=None, separators=(",", ":"), allow_nan=False) + "\n")
