"""`orca-sweep adapt` beside the tools that a user would take instead: same outer
splits, same minutes, same cores.

``python -m benchmarks.adapt_peers --work DIR --out FILE [--minutes 2] [--cores 1]
[--sets crx,fields] [--tools adapt]``

28 data sets (``benchmarks/peers/sets.py``): 8 tables, 8 series, 8 image sets, 4 fields.
Twelve of them, declared there, are for tuning; the others are held back, four image
sets of these declared later (``benchmarks/peers/images.py`` says why). Peers:
AutoGluon's tabular predictor with two presets; MiniRocket, Hydra and MultiRocket-Hydra
of aeon; histograms of gradients with a support vector machine, and a small CNN; a U-Net
and an FNO with a schedule as long as the time. Plain baselines for all: a linear model,
nearest neighbours, a forest.

DIR gets the data sets and, made by venv and pip, an environment with the peers, of
about 3 GB; it takes the project's environment no package. Every tool is told the metric
(error, RMSE, relative L2) and fits the training part; its predictions of the outer test
are scored here. FILE gets a JSON line a run: a second start skips what is there. With
``--also FILE`` runs in another file count as there, e.g. the peers' while `adapt`
changes. Tools that need no time limit run once for all.

``--report`` runs nothing and prints, from the files, the error of `adapt` relative to
the strongest peer of the kind (one a kind: the best by its geometric mean over the
kind's sets), with 90 % bootstrap intervals over the outer test; the geometric means
over all sets, by kind and by half; whether a plain baseline beats `adapt` by more than
noise; and whether the score and interval that `adapt` reports hold on the outer test.
Then, for the selected sets, it compares `adapt` with the strongest of all peers and
plain baselines (``benchmarks/peers/hindsight.py``). ``--shapes`` prints the data sets.

``--sets old`` selects the 28 sets. ``--sets new`` selects twelve further ones, on which
nobody had run the search when they were declared (``benchmarks/peers/fresh.py``); one
of them has three outer splits. Kinds include neither these nor the spoiled sets.
``--report --sets new`` prints the comparison on the new sets alone.

``--sets spoiled`` selects further sets, for tuning only, which are in no report
(``benchmarks/peers/spoiled.py``).
"""

# ruff: noqa: T201 - a benchmark prints its table

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.peers.hindsight import compare
from benchmarks.peers.parts import KINDS, DataSet
from benchmarks.peers.report import report
from benchmarks.peers.sets import SETS
from benchmarks.peers.tools import (
    TOOLS,
    Result,
    Results,
    Run,
    Tool,
    peers_python,
    run_tool,
)
from benchmarks.peers.writing import write

HALVES = {
    "tuning": ("tuning",),
    "held-back": ("held-back",),
    "old": ("tuning", "held-back"),
    "spoiled": ("spoiled",),
    "new": ("new",),
}
"""What ``--sets`` takes besides kinds and names, and the halves that it selects."""


def main() -> None:
    """Run what is not in the results file yet, or print the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--work", type=Path, help="folder for the data sets and the peers' environment"
    )
    parser.add_argument("--out", type=Path, help="results file")
    parser.add_argument(
        "--also",
        type=Path,
        action="append",
        default=[],
        help="further results files, only read",
    )
    parser.add_argument(
        "--sets",
        default="tuning,held-back",
        help="names, kinds, tuning, held-back, old (both halves), new or spoiled",
    )
    parser.add_argument(
        "--tools",
        default=",".join(tool.name for tool in TOOLS),
        help="names, or peers for all but adapt",
    )
    parser.add_argument("--minutes", default="2", help="time limits, e.g. 0.5,2,10")
    parser.add_argument("--cores", type=int, choices=(1, 2), default=1)
    parser.add_argument(
        "--seeds", type=int, default=1, help="number of runs of each tool on each set"
    )
    parser.add_argument(
        "--retry", action="store_true", help="repeat the runs that failed"
    )
    parser.add_argument(
        "--report", action="store_true", help="print the tables, run nothing"
    )
    parser.add_argument(
        "--shapes",
        action="store_true",
        help="write the data sets and print their shapes",
    )
    options = parser.parse_args()
    if options.out is None and not options.shapes:
        parser.error("--out FILE is missing")
    if options.work is None and not options.report:
        parser.error("--work DIR is missing")
    try:
        sets = chosen_sets(options.sets.split(","))
        tools = chosen_tools(options.tools.split(","))
        minutes = [float(text) for text in options.minutes.split(",")]
    except (KeyError, ValueError) as error:
        parser.error(f"unknown: {error}")
    if options.shapes:
        print_shapes(sets, options.work.resolve() / "sets")
    elif options.report:
        print_report(Results(options.out, options.also).lines, sets)
    else:
        results = Results(options.out, options.also, retry=options.retry)
        run_all(
            sets,
            tools,
            minutes,
            range(options.seeds),
            options.cores,
            results,
            options.work.resolve(),
        )


def chosen_sets(names: Sequence[str]) -> list[DataSet]:
    """Return the data sets of the given names, kinds and halves, in this order;
    KeyError for another name.

    A kind does not include the spoiled and the new sets. The name of a set that has
    several outer splits selects them all.
    """
    chosen: dict[str, DataSet] = {}
    for name in names:
        if name in KINDS:
            selected = [
                data
                for data in SETS.values()
                if data.kind == name and data.half in HALVES["old"]
            ]
        elif name in HALVES:
            selected = [data for data in SETS.values() if data.half in HALVES[name]]
        else:
            splits = [data for data in SETS.values() if data.split_of == name]
            selected = splits or [SETS[name]]
        chosen |= {data.name: data for data in selected}
    return list(chosen.values())


def chosen_tools(names: Sequence[str]) -> list[Tool]:
    """Return the tools of the given names; KeyError for another name."""
    by_name = {tool.name: tool for tool in TOOLS}
    chosen: list[Tool] = []
    for name in names:
        if name == "peers":
            chosen += TOOLS[1:]
        else:
            chosen.append(by_name[name])
    return chosen


def run_all(
    sets: Sequence[DataSet],
    tools: Sequence[Tool],
    limits: Sequence[float],
    seeds: Sequence[int],
    cores: int,
    results: Results,
    work: Path,
) -> None:
    """Run each tool on each set with each limit and seed, except what the results have;
    one at a time.
    """
    if any(tool.name != "adapt" for tool in tools):
        peers_python(work / "env")
    for data in sets:
        written = write(data, work / "sets")
        fitting = [tool for tool in tools if data.kind in tool.kinds]
        for tool in fitting:
            for minutes in limits if tool.timed else (None,):
                for seed in seeds:
                    run = Run(tool, written, minutes, seed, cores)
                    if not results.has(run):
                        line = run_tool(run, work)
                        results.add(line)
                        print_outcome(line)


def print_outcome(line: Result) -> None:
    """Print what came of a run."""
    limit = ""
    if line["minutes"] is not None:
        limit = f" {line['minutes']:g} minutes"
    outcome = line["failure"]
    if not outcome:
        outcome = f"loss {sum(line['losses']) / len(line['losses']):.4g}"
    print(
        f"{line['set']} {line['tool']}{limit} seed {line['seed']}: {outcome},"
        f" {line['seconds']} s",
        flush=True,
    )


def print_report(lines: Sequence[Result], sets: Sequence[DataSet]) -> None:
    """Print the tables of the 28 sets if one of them is selected, and `adapt` beside
    the best of all other tools on the selected sets.
    """
    blocks = [compare(lines, sets)]
    if any(data.half in HALVES["old"] for data in sets):
        blocks.insert(0, report(lines))
    print("\n\n".join(block for block in blocks if block))


def print_shapes(sets: Sequence[DataSet], folder: Path) -> None:
    """Print a table of the data sets, which are written if they are not there."""
    print("| set | kind | half | train | test | classes | metric | from |")
    print("|---|---|---|---|---|---|---|---|")
    for data in sets:
        about = json.loads((write(data, folder).folder / "about.json").read_text())
        cells = (
            data.name,
            data.kind,
            data.half.replace("-", " "),
            "×".join(map(str, about["train"])),
            "×".join(map(str, about["test"])),
            str(about["classes"] or ""),
            data.metric,
            origin(data),
        )
        print("|", " | ".join(cells), "|")


def origin(data: DataSet) -> str:
    """Return where the data come from."""
    if data.package:
        return data.package.requirement
    if data.spoiled or data.kind == "fields":
        return "simulated"
    return "scikit-learn"


if __name__ == "__main__":
    main()
