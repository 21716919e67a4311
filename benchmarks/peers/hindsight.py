"""`adapt` beside the strongest of all peers and plain baselines: one table for the sets
that are selected, from the results file only.

Two tools stand for the others: the best in hindsight on each set, and one tool a kind,
which has the lowest geometric mean error over the sets of the kind. A run that failed
is shown, and its tool stands for no other on that set. The outer splits of a set count
as one set, with the geometric means of their errors.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.peers.parts import KINDS, DataSet, Kind
from benchmarks.peers.report import error, score
from benchmarks.peers.tools import TOOLS, Result
from orca_ray.data.rows import Array

RESAMPLES = 10_000
"""Number of bootstrap samples of the sets."""
LEVEL = 0.95
"""Level of the intervals of geometric means."""


@dataclass(frozen=True)
class Outcome:
    """What a tool did on one outer split, over all seeds."""

    error: float
    """Error as `report.error` has it: never zero."""
    score: float
    """The metric itself."""


@dataclass(frozen=True)
class Row:
    """What all tools did on one set."""

    name: str
    kind: Kind
    metric: str
    num_splits: int
    """Number of outer splits on which adapt has a result."""
    outcomes: Mapping[str, Outcome]
    """Geometric means over the splits, by tool; a tool without a result on one of the
    splits of adapt is missing.
    """
    failed: tuple[str, ...]
    """Tools of which a run failed."""

    @property
    def best(self) -> str:
        """The other tool with the lowest error; "" if there is none."""
        others = [tool for tool in self.outcomes if tool != "adapt"]
        return min(others, key=lambda tool: self.outcomes[tool].error, default="")

    def ratio(self, tool: str) -> float:
        """Return the error of adapt divided by that of another tool."""
        return self.outcomes["adapt"].error / self.outcomes[tool].error


def compare(lines: Sequence[Result], sets: Sequence[DataSet]) -> str:
    """Return the tables of all time limits, as Markdown."""
    limits = {line["minutes"] for line in lines if line["minutes"] is not None}
    blocks = []
    for minutes in sorted(limits):
        block = _compare_limit(
            [line for line in lines if line["minutes"] in (None, minutes)], sets
        )
        if block:
            blocks += [
                f"## {minutes:g} minutes: adapt and the best of all other tools",
                block,
            ]
    return "\n\n".join(blocks)


def _compare_limit(lines: Iterable[Result], sets: Sequence[DataSet]) -> str:
    latest = latest_lines(lines, sets)
    rows = make_rows(latest, sets)
    compared = [row for row in rows if "adapt" in row.outcomes and row.best]
    strongest = {kind: strongest_tool(compared, kind) for kind in KINDS}
    blocks = []
    if compared:
        blocks += [
            _means_table(compared, strongest),
            _ratio_table(compared, strongest),
        ]
    blocks += [_adapt_table(latest, sets), _failures(latest)]
    return "\n\n".join(block for block in blocks if block)


def latest_lines(lines: Iterable[Result], sets: Sequence[DataSet]) -> list[Result]:
    """Return the last line of each run on the sets, and of each set only runs on the
    data of its last line.
    """
    names = {data.name for data in sets}
    runs = {
        (line["set"], line["tool"], line["seed"]): line
        for line in lines
        if line["set"] in names
    }
    digests = {line["set"]: line["data"] for line in runs.values()}
    return [line for line in runs.values() if line["data"] == digests[line["set"]]]


def make_rows(lines: Sequence[Result], sets: Sequence[DataSet]) -> list[Row]:
    """Return a row for each set that has a result, in the order of the sets."""
    splits: dict[str, list[DataSet]] = {}
    for data in sets:
        splits.setdefault(data.source, []).append(data)
    outcomes = _outcomes(lines, sets)
    failed = [(line["set"], line["tool"]) for line in lines if line["failure"]]
    rows = []
    for source, members in splits.items():
        of_adapt = [data for data in members if (data.name, "adapt") in outcomes]
        of_set = {}
        for tool in (tool.name for tool in TOOLS):
            found = [outcomes.get((data.name, tool)) for data in of_adapt]
            present = [outcome for outcome in found if outcome is not None]
            if present and len(present) == len(of_adapt):
                of_set[tool] = _mean_outcome(present)
        names = {data.name for data in members}
        of_failed = tuple(sorted({tool for name, tool in failed if name in names}))
        if of_set or of_failed:
            rows.append(
                Row(
                    source,
                    members[0].kind,
                    members[0].metric,
                    len(of_adapt),
                    of_set,
                    of_failed,
                )
            )
    return rows


def _outcomes(
    lines: Iterable[Result], sets: Iterable[DataSet]
) -> dict[tuple[str, str], Outcome]:
    """Return what each tool did on each outer split; losses are means over seeds."""
    metrics = {data.name: data.metric for data in sets}
    losses: dict[tuple[str, str], list[Array]] = {}
    for line in lines:
        if line["failure"] is None:
            key = (line["set"], line["tool"])
            losses.setdefault(key, []).append(np.array(line["losses"]))
    return {
        (name, tool): Outcome(
            float(error(metrics[name], np.mean(runs, axis=0))),
            score(metrics[name], np.mean(runs, axis=0)),
        )
        for (name, tool), runs in losses.items()
    }


def _mean_outcome(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the geometric mean of the errors, and the mean of the scores."""
    return Outcome(
        geometric_mean([outcome.error for outcome in outcomes]),
        float(np.mean([outcome.score for outcome in outcomes])),
    )


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean of positive values."""
    return float(np.exp(np.mean(np.log(values))))


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the interval of the geometric mean, by a bootstrap over the values."""
    logarithms = np.log(values)
    random = np.random.default_rng(0)
    drawn = random.integers(0, len(logarithms), (RESAMPLES, len(logarithms)))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(logarithms[drawn].mean(axis=1), (tail, 1 - tail))
    return float(np.exp(low)), float(np.exp(high))


def strongest_tool(rows: Sequence[Row], kind: Kind) -> str:
    """Return the tool with the lowest geometric mean error over the sets of a kind,
    among those with a result on each of them; "" if there is none.
    """
    of_kind = [row for row in rows if row.kind == kind]
    candidates = [
        tool.name
        for tool in TOOLS
        if of_kind
        and tool.name != "adapt"
        and all(tool.name in row.outcomes for row in of_kind)
    ]

    def mean_error(tool: str) -> float:
        return geometric_mean([row.outcomes[tool].error for row in of_kind])

    return min(candidates, key=mean_error, default="")


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _means_table(rows: Sequence[Row], strongest: Mapping[Kind, str]) -> str:
    """Return geometric means of ratios over all sets and over those of each kind."""
    groups: dict[str, list[Row]] = {"all": list(rows)}
    for kind in KINDS:
        groups[kind] = [row for row in rows if row.kind == kind]
    lines = []
    for name, group in groups.items():
        if group:
            by_kind = [
                (row.name, row.ratio(strongest[row.kind]))
                for row in group
                if strongest[row.kind]
            ]
            in_hindsight = [(row.name, row.ratio(row.best)) for row in group]
            lines.append(
                (name, str(len(group)), *_describe(by_kind), *_describe(in_hindsight))
            )
    header = (
        "sets",
        "number",
        "to the strongest tool of the kind",
        "largest",
        "to the best in hindsight",
        "largest",
    )
    return _table(header, lines)


def _describe(ratios: Sequence[tuple[str, float]]) -> tuple[str, str]:
    """Return the geometric mean of ratios with its interval, and the largest ratio."""
    if not ratios:
        return "–", "–"
    values = [value for _, value in ratios]
    low, high = bootstrap_interval(values)
    name, largest = max(ratios, key=lambda ratio: ratio[1])
    mean = f"**{geometric_mean(values):.2f}** [{low:.2f}, {high:.2f}]"
    return mean, f"{largest:.2f} ({name})"


def _ratio_table(rows: Sequence[Row], strongest: Mapping[Kind, str]) -> str:
    lines = []
    for row in rows:
        peer = strongest[row.kind]
        lines.append(
            (
                row.name,
                row.kind,
                row.metric,
                str(row.num_splits),
                f"{row.outcomes['adapt'].score:.4g}",
                *_beside(row, peer),
                *_beside(row, row.best),
                ", ".join(row.failed) or "–",
            )
        )
    header = (
        "set",
        "kind",
        "metric",
        "splits",
        "adapt",
        "strongest of the kind",
        "ratio",
        "best in hindsight",
        "ratio",
        "failed",
    )
    return _table(header, lines)


def _beside(row: Row, tool: str) -> tuple[str, str]:
    """Return the name and score of a tool, and the ratio of adapt to it."""
    if not tool:
        return "–", "–"
    return f"{tool} {row.outcomes[tool].score:.4g}", f"{row.ratio(tool):.2f}"


def _adapt_table(lines: Iterable[Result], sets: Sequence[DataSet]) -> str:
    """Return what adapt says about itself: its intervals and its time."""
    metrics = {data.name: data.metric for data in sets}
    of_adapt = [
        line
        for line in lines
        if line["tool"] == "adapt" and line["failure"] is None and line["reported"]
    ]
    rows = []
    held = []
    shares = []
    for line in of_adapt:
        reported: Mapping[str, Any] = line["reported"]
        outer = score(metrics[line["set"]], np.array(line["losses"]))
        interval = "–"
        if reported.get("low") is not None and reported.get("high") is not None:
            is_held = reported["low"] <= outer <= reported["high"]
            held.append(is_held)
            interval = f"[{reported['low']:.4g}, {reported['high']:.4g}]"
            interval += "" if is_held else " **out**"
        share = reported.get("held_share")
        if share is not None:
            shares.append(share)
        rows.append(
            (
                line["set"],
                f"{outer:.4g}",
                interval,
                "–" if share is None else f"{share:.3f}",
                f"{reported['command_seconds']:.0f} of {60 * line['minutes']:.0f}",
            )
        )
    if not rows:
        return ""
    header = (
        "set",
        "outer score",
        "expected (90 %)",
        "share of samples in their 90 % intervals",
        "seconds of the command",
    )
    sentences = []
    if held:
        sentences.append(
            f"The expected interval holds the outer score in {sum(held)} of"
            f" {len(held)} runs."
        )
    if shares:
        sentences.append(
            f"The 90 % intervals of samples hold {np.mean(shares):.3f} of them (mean"
            f" over {len(shares)} runs)."
        )
    return "\n\n".join(filter(None, (_table(header, rows), " ".join(sentences))))


def _failures(lines: Iterable[Result]) -> str:
    failures = [
        f"- {line['tool']} on {line['set']}: {line['failure']}"
        for line in lines
        if line["failure"]
    ]
    return "\n".join(["Failed:", "", *failures]) if failures else ""
