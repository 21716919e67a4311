"""The tables of ``benchmarks/adapt_peers.py``, from its results file only."""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.peers.sets import KINDS, SETS, DataSet, Kind
from benchmarks.peers.tools import TOOLS, Result
from orca_ray.data.rows import Array

RESAMPLES = 2000
SPECIALISED = {
    kind: [tool.name for tool in TOOLS if kind in tool.kinds and not tool.plain][1:]
    for kind in KINDS
}
"""The peers of each kind."""
PLAIN = [tool.name for tool in TOOLS if tool.plain]


def error(metric: str, losses: Array) -> Array:
    """Return the error of losses [..., N]; shares of wrong classes are (k + ½) / (N +
    1), so that none is zero.
    """
    mean = losses.mean(axis=-1)
    if metric == "error":
        num_samples = losses.shape[-1]
        return np.asarray((mean * num_samples + 0.5) / (num_samples + 1))
    return np.asarray(np.sqrt(mean) if metric == "rmse" else mean)


def score(metric: str, losses: Array) -> float:
    """Return the metric itself."""
    return float(np.sqrt(losses.mean()) if metric == "rmse" else losses.mean())


class Board:
    """All results with one time limit: losses of each set and tool, averaged over
    seeds.
    """

    def __init__(self, lines: Iterable[Result], minutes: float) -> None:
        self.lines = [
            line for line in _latest(lines) if line["minutes"] in (None, minutes)
        ]
        groups: dict[tuple[str, str], list[Array]] = {}
        for line in self.lines:
            if line["failure"] is None:
                groups.setdefault((line["set"], line["tool"]), []).append(
                    np.array(line["losses"])
                )
        self.losses = {key: np.mean(found, axis=0) for key, found in groups.items()}
        self.sets = [
            data
            for data in SETS.values()
            if any(name == data.name for name, _ in groups)
        ]
        self.strongest = {kind: self._strongest(kind) for kind in KINDS}

    def _strongest(self, kind: Kind) -> str:
        """Return the peer with the lowest geometric mean error over the sets that all
        peers of the kind have.
        """
        present = [
            peer
            for peer in SPECIALISED[kind]
            if any(tool == peer for _, tool in self.losses)
        ]
        sets = [each for each in self.sets if each.kind == kind]
        common = [
            each
            for each in sets
            if all((each.name, peer) in self.losses for peer in present)
        ]
        means = {
            peer: np.mean([np.log(self.error(each, peer)) for each in common])
            for peer in present
            if common
        }
        return min(means, key=means.__getitem__, default="")

    def error(self, data: DataSet, tool: str) -> float:
        """Return the error of a tool on a set, as `error` has it."""
        return float(error(data.metric, self.losses[data.name, tool]))

    def best_plain(self, data: DataSet) -> str:
        """Return the best plain baseline on a set; "" if none has a result."""
        present = [tool for tool in PLAIN if (data.name, tool) in self.losses]
        return min(present, key=lambda tool: self.error(data, tool), default="")

    def resampled(self, data: DataSet, tool: str) -> Array:
        """Return errors [B] of bootstrap samples of the outer test; all tools have the
        same samples.
        """
        losses = self.losses[data.name, tool]
        random = np.random.default_rng(zlib.crc32(data.name.encode()))
        rows = random.integers(0, len(losses), size=(RESAMPLES, len(losses)))
        return error(data.metric, losses[rows])

    def log_ratios(self, data: DataSet, other: str) -> tuple[float, Array]:
        """Return the logarithm of the error of adapt relative to another tool, and its
        bootstrap values [B].
        """
        value = np.log(self.error(data, "adapt") / self.error(data, other))
        return float(value), np.log(
            self.resampled(data, "adapt") / self.resampled(data, other)
        )

    def compared(self) -> list[DataSet]:
        """Return the sets on which both adapt and the strongest peer of the kind have a
        result.
        """
        found = self.losses.keys()
        return [
            each
            for each in self.sets
            if {(each.name, "adapt"), (each.name, self.strongest[each.kind])} <= found
        ]


def _latest(lines: Iterable[Result]) -> list[Result]:
    """Return the last line of each run, and of each set only runs on the data of its
    last line.
    """
    runs = {
        (line["set"], line["tool"], line["minutes"], line["seed"]): line
        for line in lines
        if line["set"] in SETS
    }
    digests = {line["set"]: line["data"] for line in runs.values()}
    return [line for line in runs.values() if line["data"] == digests[line["set"]]]


def report(lines: Sequence[Result]) -> str:
    """Return the tables of all time limits, as Markdown."""
    limits = sorted(
        {line["minutes"] for line in lines if line["minutes"] is not None}
    ) or [0.0]
    return "\n\n".join(
        part
        for minutes in limits
        for part in _one_limit(Board(lines, minutes), minutes)
    )


def _one_limit(board: Board, minutes: float) -> list[str]:
    parts = [f"## {minutes:g} minutes"] if minutes else []
    compared = board.compared()
    if compared:
        parts += [_summary(board, compared), _ratios(board, compared)]
    parts += [_scores(board), _calibration(board), _conditions(board)]
    return [part for part in parts if part]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _interval(values: Array) -> str:
    low, high = np.quantile(values, (0.05, 0.95))
    return f"[{low:.2f}, {high:.2f}]"


def _summary(board: Board, compared: Sequence[DataSet]) -> str:
    """Return geometric means of the error of adapt relative to the strongest peer, with
    90 % intervals.
    """
    groups = {"all": compared} | {
        kind: [each for each in compared if each.kind == kind] for kind in KINDS
    }
    groups["tuning half"] = [each for each in compared if each.tuning]
    groups["held-back half"] = [each for each in compared if not each.tuning]
    groups["images declared later"] = [each for each in compared if each.later]
    rows = []
    for name, sets in groups.items():
        if sets:
            pairs = [
                board.log_ratios(each, board.strongest[each.kind]) for each in sets
            ]
            mean = np.exp(np.mean([value for value, _ in pairs]))
            spread = np.exp(np.mean([values for _, values in pairs], axis=0))
            peer = board.strongest[sets[0].kind] if name in KINDS else "of each kind"
            rows.append(
                (name, str(len(sets)), peer, f"**{mean:.2f}** {_interval(spread)}")
            )
    return _table(
        ("sets", "number", "strongest peer", "error of adapt relative to it"), rows
    )


def _ratios(board: Board, compared: Sequence[DataSet]) -> str:
    rows = []
    for data in compared:
        peer = board.strongest[data.kind]
        plain = board.best_plain(data)
        value, spread = board.log_ratios(data, peer)
        verdict = "–"
        if plain:
            _, differences = board.log_ratios(data, plain)
            verdict = "**yes**" if np.quantile(differences, 0.05) > 0 else "no"
        half = "tuning" if data.tuning else "held back"
        cells = [_cell(board, data, tool) for tool in ("adapt", peer, plain)]
        ratio = f"{np.exp(value):.2f} {_interval(np.exp(spread))}"
        rows.append(
            (
                data.name,
                data.kind,
                half,
                data.metric,
                *cells[:2],
                ratio,
                cells[2],
                verdict,
            )
        )
    header = (
        "set",
        "kind",
        "half",
        "metric",
        "adapt",
        "strongest peer",
        "ratio",
        "best plain",
        "plain beats adapt",
    )
    return _table(header, rows)


def _cell(board: Board, data: DataSet, tool: str) -> str:
    name = "" if tool == "adapt" else f"{tool} "
    return (
        f"{name}{score(data.metric, board.losses[data.name, tool]):.4g}"
        if tool
        else "–"
    )


def _scores(board: Board) -> str:
    """Return the score of every tool on every set, one table a kind."""
    tables = []
    for kind in KINDS:
        tools = ["adapt", *SPECIALISED[kind], *PLAIN]
        rows = []
        for data in (each for each in board.sets if each.kind == kind):
            found = [board.losses.get((data.name, tool)) for tool in tools]
            size = next(len(each) for each in found if each is not None)
            cells = [
                "–" if each is None else f"{score(data.metric, each):.4g}"
                for each in found
            ]
            rows.append((data.name, data.metric, str(size), *cells))
        if rows:
            tables.append(_table((kind, "metric", "test", *tools), rows))
    return "\n\n".join(tables)


def _calibration(board: Board) -> str:
    """Return how often the interval that adapt reports holds the outer score, and how
    far its score is from it.
    """
    held = []
    differences = []
    for line in board.lines:
        if line["tool"] == "adapt" and line["failure"] is None:
            found: Mapping[str, Any] = line["reported"]
            data = SETS[line["set"]]
            losses = np.array(line["losses"])
            outer = score(data.metric, losses)
            if "low" in found:
                held.append(found["low"] <= outer <= found["high"])
            if isinstance(reported := found.get("score"), float | int):
                differences.append(
                    (reported - outer) / float(error(data.metric, losses))
                )
    parts = []
    if held:
        parts.append(
            f"The reported interval holds the outer score in {sum(held)} of {len(held)}"
            " runs."
        )
    if differences:
        mean = np.mean(differences)
        noise = np.std(differences) / np.sqrt(len(differences))
        parts.append(
            f"Reported minus outer score, relative to the outer one: {mean:+.3f} ±"
            f" {noise:.3f} (standard error)."
        )
    return " ".join(parts)


def _conditions(board: Board) -> str:
    """Return the failures, and how much of the time the runs had a core."""
    failed = [
        f"- {line['tool']} on {line['set']}: {line['failure']}"
        for line in board.lines
        if line["failure"]
    ]
    timed = [
        line
        for line in board.lines
        if line["minutes"] and line["tool"] != "adapt" and line["seconds"] > 0
    ]
    shares = [line["cpu_seconds"] / (line["seconds"] * line["cores"]) for line in timed]
    share = (
        f"Peers with a time limit had {np.median(shares):.0%} of their cores (median)."
        if shares
        else ""
    )
    slowest = max(
        (
            line["reported"]["command_seconds"]
            for line in board.lines
            if line.get("reported")
        ),
        default=None,
    )
    share += f" The longest adapt took {slowest:.0f} s." if slowest else ""
    cores = sorted({line["cores"] for line in board.lines})
    share += (
        f" **Runs with different numbers of cores are compared: {cores}.**"
        if len(cores) > 1
        else ""
    )
    return "\n".join([share, *(["", "Failed:", ""] if failed else []), *failed]).strip()
