"""Published results: rows of ``results.csv``, normalised to the task names, metrics and units of this project.

The file holds scores of papers, their figures and pages that quote them, for benchmarks that are declared here; each
score is also kept with the digits, unit and direction in which it was published. Not included, because no task here
holds their data: the tasks of FPT (arXiv:2103.05247 and 2107.12460, whose ListOps data also differ from each other),
CIFAR-10 with TinyLlama, time series forecasting (GPT4TS and its critique), Unseen NAS, and the analysis of
arXiv:2403.13537.
"""

import csv
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

PRIMARY, DIGITISED, SECONDARY, SUBMITTED, IMPORTED = KINDS = (
    "primary",
    "digitised",
    "secondary",
    "submitted",
    "imported",
)
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
"""Meaning of each protocol. The first two are the protocols of sweeps; rows with another one stay apart."""

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
_OPTIONAL = {"score": float, "std": float, "n": int}


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
    """None for a `CLAIM`."""
    std: float | None
    n: int | None
    """Number of seeds, where stated."""
    published: str
    """The score with the digits of its source."""
    published_std: str
    published_metric: str
    """Name and unit of the metric in the source."""
    direction: str
    """``lower`` or ``higher``: which published values are better."""
    protocol: str
    """A key of `PROTOCOLS`."""
    setting: str
    """Rows of one task, quantity and setting were compared with each other in the literature, and are ranked."""
    kind: str
    """One of `KINDS`."""
    flag: str
    """A key of `FLAGS`."""
    source: str
    """Key of `sources`, or for submitted and imported rows the source itself."""
    note: str

    PERCENT: ClassVar[str] = "(%)"
    """Ending of ``published_metric`` if values are in percent; ``score`` is a fraction then."""

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
    return tuple(_row(row) for row in _read("results.csv"))


def published_rows(benchmark: str) -> list[PublishedRow]:
    """Return the published rows of a benchmark."""
    return [row for row in all_published() if row.benchmark == benchmark]


def _read(name: str) -> list[dict[str, str]]:
    with (_FOLDER / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _row(cells: dict[str, str]) -> PublishedRow:
    numbers = {name: kind(cells[name]) if cells[name] else None for name, kind in _OPTIONAL.items()}
    return PublishedRow(**{**cells, **numbers})  # type: ignore[arg-type]
