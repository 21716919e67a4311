"""Scores that other people submitted or a user imported, as rows beside published ones."""

import functools
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from orca_ray.leaderboard.published.rows import IMPORTED, SUBMITTED, PublishedRow
from orca_ray.results.submissions import SubmittedScore, merged, parse_scores

FOLDER = Path(__file__).with_name("submitted")
"""Folder of the CSV files that came by pull request; `orca-sweep results check` and the tests check every file."""


@functools.cache
def shipped_scores() -> tuple[SubmittedScore, ...]:
    """Return the scores in the files of `FOLDER`."""
    files = sorted(FOLDER.glob("*.csv"))
    return tuple(merged((file.name, parse_scores(file.read_bytes(), file.name, None)) for file in files)[0])


def rows_of_others(benchmark: str, imported: Iterable[SubmittedScore] = ()) -> list[PublishedRow]:
    """Return the shipped and the ``imported`` scores of a benchmark as rows: one per method, task and source."""
    groups: dict[tuple[str, SubmittedScore], list[SubmittedScore]] = {}
    for kind, scores in ((SUBMITTED, shipped_scores()), (IMPORTED, imported)):
        for each in scores:
            if each.task.partition("/")[0] == benchmark:
                groups.setdefault((kind, each.group), []).append(each)
    return [_row(kind, scores) for (kind, _), scores in groups.items()]


def _row(kind: str, scores: list[SubmittedScore]) -> PublishedRow:
    first, values = scores[0], [each.score for each in scores]
    mean = len(values) == 1 and first.seed is None
    return PublishedRow(
        task=first.task, method=first.method, metric=first.metric, quantity=first.metric,
        score=float(np.mean(values)), std=float(np.std(values, ddof=1)) if len(values) > 1 else first.std,
        n=None if mean else len(values), published="", published_std="", published_metric=first.metric,
        direction="lower", protocol=first.protocol, setting=f"{kind}, protocol {first.protocol}", kind=kind, flag="",
        source=first.source, note="",
    )  # fmt: skip
