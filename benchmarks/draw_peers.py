"""Draws docs/own-data-peers.svg: the error of `adapt` relative to the strongest peer.

``python -m benchmarks.draw_peers``: the ratios are those of the table of data sets in
docs/results.md, which ``benchmarks/adapt_peers.py`` prints.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from benchmarks import forest_plot
from benchmarks.regression import Estimate

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results.md"
PICTURE = ROOT / "docs" / "own-data-peers.svg"
HEADER = "| set | kind | half | metric | adapt | strongest peer | ratio |"
"""Start of the header of the table of data sets."""
RIVALS = {
    "table": "tables, AutoGluon",
    "series": "series, aeon",
    "images": "images, a CNN",
    "fields": "fields, a U-Net",
}
"""Label of each kind of data: the kind, and the strongest peer."""
TITLE = "Test errors of adapt in two minutes"


def read_log_ratios(text: str) -> dict[str, list[float]]:
    """Return the log ratios of the data sets of each kind, from the text of
    docs/results.md.
    """
    table = text.partition(HEADER)[2].partition("\n\n")[0]
    logs: dict[str, list[float]] = {}
    for row in table.splitlines()[2:]:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        kind = cells[1]
        ratio = cells[6].split()[0]
        logs.setdefault(kind, []).append(math.log(float(ratio)))
    return logs


def estimate_mean(logs: Sequence[float]) -> Estimate:
    """Return the mean log ratio with its standard error over data sets."""
    error = stdev(logs) / math.sqrt(len(logs))
    return Estimate(mean(logs), error, len(logs) - 1)


def draw(logs: Mapping[str, Sequence[float]]) -> str:
    """Return the picture: the mean over all data sets, and the means of each kind."""
    every = [log for kind in logs.values() for log in kind]
    rows = [(f"all data sets ({len(every)})", estimate_mean(every))]
    rows += [
        (f"{label} ({len(logs[kind])})", estimate_mean(logs[kind]))
        for kind, label in RIVALS.items()
    ]
    return forest_plot.draw(TITLE, [rows], reference="the peer", units="data sets")


if __name__ == "__main__":
    log_ratios = read_log_ratios(RESULTS.read_text(encoding="utf-8"))
    PICTURE.write_text(draw(log_ratios), encoding="utf-8")
