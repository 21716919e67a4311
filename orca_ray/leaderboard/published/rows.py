"""Published scores: rows of the packaged tables, and of submitted files."""

import csv
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orca_ray.results.submissions import SubmittedScore, merged, parse_scores

PRIMARY, SUBMITTED, IMPORTED = "primary", "submitted", "imported"
KINDS = (PRIMARY, "digitised", "secondary", SUBMITTED, IMPORTED)
"""Where a score was read: in a table, notebook or page of its authors; off the bars of their figure; in somebody
else's transcription. ``submitted``: a row that came by pull request; ``imported``: by `orca-sweep results import`."""

PROTOCOLS = {
    "paper": "selected on test",
    "held-out": "selected on validation",
    "rollout": "averaged over the time steps of a roll-out; a sweep here predicts the last frame from the first",
    "one-step": "predicts one time step ahead; a sweep here predicts the last frame from the first",
    "several-coefficients": "data with several coefficients per equation, and a protocol that is not stated",
    "": "the source does not say which split selected",
}
"""Meaning of each protocol. The first two are the protocols of sweeps; rows with another protocol are shown in tables
of their own."""

FLAGS = {
    "misprint": "misprinted",
    "suspect": "doubtful",
    "repeat": "repeats another row",
    "": "",
}
"""Why a row has no rank."""

CLAIM = "claim"
"""The ``setting`` of a statement about a whole benchmark: its ``task`` is the benchmark, and it has no score."""

_FOLDER = Path(__file__).parent
_NUMBERS = {"score": float, "std": float, "n": int}


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One published result. ``score`` and ``std`` are in the unit of ``metric``; lower is better."""

    task: str
    """Full name of the task."""
    method: str
    """The method as its source calls it. Its hyper-parameters and body are not those of a recipe of the same name."""
    metric: str
    """Name of the equal metric of this project; "": none is known to be equal."""
    quantity: str
    """Quantity that was measured, normalised to lower is better. Only rows of one quantity are comparable."""
    score: float | None
    """The score; None for a `CLAIM`."""
    std: float | None
    n: int | None
    """Number of seeds, where stated."""
    published: str = ""
    """The score with the digits of its source."""
    published_std: str = ""
    published_metric: str
    """Name and unit of the metric in the source; if it ends with "(%)", ``score`` is a fraction."""
    direction: str = "lower"
    """``lower`` or ``higher``: which published values are better."""
    protocol: str
    """A key of `PROTOCOLS`."""
    setting: str = ""
    """Rows of one task, quantity and setting were compared with each other in the literature, and are ranked."""
    kind: str
    """One of `KINDS`."""
    flag: str = ""
    """A key of `FLAGS`."""
    source: str
    """Key of `sources`, or for submitted and imported rows the source itself."""
    note: str = ""

    @property
    def benchmark(self) -> str:
        """Name of the benchmark."""
        return self.task.partition("/")[0]


@functools.cache
def sources() -> dict[str, str]:
    """Return the text of each source by its key: publication, table or figure, and where it was seen."""
    return {row["source"]: row["text"] for row in _read("sources.csv")}


@functools.cache
def all_published() -> tuple[PublishedRow, ...]:
    """Return the published rows of all benchmarks, in the order of the tables that they come from."""
    found = []
    for row in _read("results.csv"):
        numbers = {name: kind(row[name]) if row[name] else None for name, kind in _NUMBERS.items()}
        found.append(PublishedRow(**{**row, **numbers}))  # type: ignore[arg-type]
    return tuple(found)


def published_rows(benchmark: str) -> list[PublishedRow]:
    """Return the published rows of a benchmark."""
    return [row for row in all_published() if row.benchmark == benchmark]


def _read(name: str) -> list[dict[str, str]]:
    with (_FOLDER / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


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
    return [_row_submitted(kind, scores) for (kind, _), scores in groups.items()]


def _row_submitted(kind: str, scores: list[SubmittedScore]) -> PublishedRow:
    first, values = scores[0], [each.score for each in scores]
    mean = len(values) == 1 and first.seed is None
    return PublishedRow(
        task=first.task, method=first.method, metric=first.metric, quantity=first.metric,
        score=float(np.mean(values)), std=float(np.std(values, ddof=1)) if len(values) > 1 else first.std,
        n=None if mean else len(values), published_metric=first.metric, protocol=first.protocol,
        setting=f"{kind}, protocol {first.protocol}", kind=kind, source=first.source,
    )  # fmt: skip
