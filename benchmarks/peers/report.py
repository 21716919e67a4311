"""The tables of ``benchmarks/adapt_peers.py`` about the 28 sets, from its results file
only. The spoiled and the new sets are left out.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.peers.parts import KINDS, DataSet, Kind
from benchmarks.peers.sets import SETS
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
        self.losses = {key: np.mean(runs, axis=0) for key, runs in groups.items()}
        names = {name for name, _ in groups}
        self.sets = [data for data in SETS.values() if data.name in names]
        self.strongest = {kind: self._strongest(kind) for kind in KINDS}

    def _strongest(self, kind: Kind) -> str:
        """Return the peer with the lowest geometric mean error over the sets that all
        peers of the kind have.
        """
        tools_with_result = {tool for _, tool in self.losses}
        peers = [peer for peer in SPECIALISED[kind] if peer in tools_with_result]
        common = [
            data
            for data in self.sets
            if data.kind == kind
            and {(data.name, peer) for peer in peers} <= self.losses.keys()
        ]
        if not common:
            return ""

        def mean_log_error(peer: str) -> float:
            return float(np.mean([np.log(self.error(data, peer)) for data in common]))

        return min(peers, key=mean_log_error, default="")

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
        ratios = self.resampled(data, "adapt") / self.resampled(data, other)
        return float(value), np.log(ratios)

    def compared(self) -> list[DataSet]:
        """Return the sets on which both adapt and the strongest peer of the kind have a
        result.
        """
        return [
            data
            for data in self.sets
            if (data.name, "adapt") in self.losses
            and (data.name, self.strongest[data.kind]) in self.losses
        ]


def _latest(lines: Iterable[Result]) -> list[Result]:
    """Return the last line of each run, and of each set only runs on the data of its
    last line.
    """
    runs = {
        (line["set"], line["tool"], line["minutes"], line["seed"]): line
        for line in lines
        if line["set"] in SETS and SETS[line["set"]].half in ("tuning", "held-back")
    }
    digests = {line["set"]: line["data"] for line in runs.values()}
    return [line for line in runs.values() if line["data"] == digests[line["set"]]]


def report(lines: Sequence[Result]) -> str:
    """Return the tables of all time limits, as Markdown."""
    limits = {line["minutes"] for line in lines if line["minutes"] is not None}
    blocks = []
    for minutes in sorted(limits) or [0.0]:
        blocks += _report_limit(Board(lines, minutes), minutes)
    return "\n\n".join(blocks)


def _report_limit(board: Board, minutes: float) -> list[str]:
    """Return the heading, tables and sentences of one time limit."""
    blocks = [f"## {minutes:g} minutes"] if minutes else []
    compared = board.compared()
    if compared:
        blocks += [_summary(board, compared), _ratios(board, compared)]
    blocks += [_scores(board), _calibration(board), _conditions(board)]
    return [block for block in blocks if block]


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
    groups: dict[str, list[DataSet]] = {"all": list(compared)}
    for kind in KINDS:
        groups[kind] = [data for data in compared if data.kind == kind]
    groups["tuning half"] = [data for data in compared if data.tuning]
    groups["held-back half"] = [data for data in compared if not data.tuning]
    groups["images declared later"] = [data for data in compared if data.later]
    rows = []
    for name, sets in groups.items():
        if sets:
            peer = board.strongest[sets[0].kind] if name in KINDS else "of each kind"
            rows.append((name, str(len(sets)), peer, _mean_ratio(board, sets)))
    return _table(
        ("sets", "number", "strongest peer", "error of adapt relative to it"), rows
    )


def _mean_ratio(board: Board, sets: Sequence[DataSet]) -> str:
    """Return the geometric mean over sets with its interval."""
    logs = []
    resampled_logs = []
    for data in sets:
        value, resampled = board.log_ratios(data, board.strongest[data.kind])
        logs.append(value)
        resampled_logs.append(resampled)
    interval = _interval(np.exp(np.mean(resampled_logs, axis=0)))
    return f"**{np.exp(np.mean(logs)):.2f}** {interval}"


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
        rows.append(
            (
                data.name,
                data.kind,
                "tuning" if data.tuning else "held back",
                data.metric,
                _cell(board, data, "adapt"),
                _cell(board, data, peer),
                f"{np.exp(value):.2f} {_interval(np.exp(spread))}",
                _cell(board, data, plain),
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
    """Return the name of a tool, unless it is adapt, and its score on a set."""
    if not tool:
        return "–"
    name = "" if tool == "adapt" else f"{tool} "
    return f"{name}{score(data.metric, board.losses[data.name, tool]):.4g}"


def _scores(board: Board) -> str:
    """Return the score of every tool on every set, one table a kind."""
    tables = []
    for kind in KINDS:
        tools = ["adapt", *SPECIALISED[kind], *PLAIN]
        rows = []
        sets = [data for data in board.sets if data.kind == kind]
        for data in sets:
            size = 0
            cells = []
            for tool in tools:
                losses = board.losses.get((data.name, tool))
                if losses is None:
                    cells.append("–")
                else:
                    size = len(losses)
                    cells.append(f"{score(data.metric, losses):.4g}")
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
            answer: Mapping[str, Any] = line["reported"]
            data = SETS[line["set"]]
            losses = np.array(line["losses"])
            outer = score(data.metric, losses)
            if "low" in answer:
                held.append(answer["low"] <= outer <= answer["high"])
            reported = answer.get("score")
            if isinstance(reported, float | int):
                difference = reported - outer
                differences.append(difference / float(error(data.metric, losses)))
    sentences = []
    if held:
        sentences.append(
            f"The reported interval holds the outer score in {sum(held)} of {len(held)}"
            " runs."
        )
    if differences:
        mean = np.mean(differences)
        noise = np.std(differences) / np.sqrt(len(differences))
        sentences.append(
            f"Reported minus outer score, relative to the outer one: {mean:+.3f} ±"
            f" {noise:.3f} (standard error)."
        )
    return " ".join(sentences)


def _conditions(board: Board) -> str:
    """Return the failures, and how much of the time the runs had a core."""
    sentences = []
    timed = [
        line
        for line in board.lines
        if line["minutes"] and line["tool"] != "adapt" and line["seconds"] > 0
    ]
    shares = [line["cpu_seconds"] / (line["seconds"] * line["cores"]) for line in timed]
    if shares:
        share = f"{np.median(shares):.0%}"
        sentences.append(
            f"Peers with a time limit had {share} of their cores (median)."
        )
    reports = [line["reported"] for line in board.lines if line.get("reported")]
    if reports:
        slowest = max(reported["command_seconds"] for reported in reports)
        sentences.append(f"The longest adapt took {slowest:.0f} s.")
    cores = sorted({line["cores"] for line in board.lines})
    if len(cores) > 1:
        sentences.append(
            f"**Runs with different numbers of cores are compared: {cores}.**"
        )
    failures = [
        f"- {line['tool']} on {line['set']}: {line['failure']}"
        for line in board.lines
        if line["failure"]
    ]
    lines = [" ".join(sentences)]
    if failures:
        lines += ["", "Failed:", "", *failures]
    return "\n".join(lines).strip()
