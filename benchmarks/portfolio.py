"""Order the portfolio of `adapt` by the stored trials of the replay.

``python -m benchmarks.portfolio [--tables benchmarks/replay] [--without SET]``

For each kind of data, methods are chosen greedily: the next one is the method with
which the least error so far, relative to that of all methods, falls the most in the
geometric mean over the data sets. Of methods that lower it equally, the faster one
comes first. The error of a method is that of its usual configuration, trained on the
first fold, on the outer test of ``adapt_peers``.

The order is written to ``orca_ray/adaptation/portfolio.toml``. Kinds of data without a
stored set keep their order. ``--without`` leaves a set out and only prints the order.
"""

# ruff: noqa: T201 - a benchmark prints its result

import argparse
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from benchmarks.replay import Answers, error_of, half_error
from benchmarks.replay_table import FOLDER, PEERS, TrialTable, read_table, table_names
from orca_ray.adaptation.portfolio import FILE, kind_of_data, read_portfolio

HEADER = """\
# The methods that `adapt` compares, by kind of data, in the order in which they start.
# `python -m benchmarks.portfolio` orders them by the stored trials of the replay.
"""
METHODS_OF_LINE = 5
"""Number of methods in a line of the file."""

Costs = Mapping[str, tuple[float, float]]
"""Logarithm of the error, and seconds, of each method on one data set."""


def measure_methods(table: TrialTable) -> Costs:
    """Return error and seconds of the longest usual trial of each method on a fold."""
    answers = Answers(table)
    costs = dict[str, tuple[float, float]]()
    epochs = dict[str, int]()
    for trial in table.trials:
        method = trial.record.method
        if trial.fold != 1 or PEERS not in trial.outputs:
            continue
        if trial.epochs <= epochs.get(method, 0):
            continue
        epochs[method] = trial.epochs
        error = error_of(answers.as_predictions(trial.outputs[PEERS]), table)
        log_error = math.log(error + max(half_error(table), 1e-9))
        costs[method] = log_error, trial.record.wall_seconds
    return costs


def order_methods(methods: Sequence[str], sets: Sequence[Costs]) -> list[str]:
    """Return ``methods`` in greedy order; those without a stored trial come last."""
    ordered = list[str]()
    remaining = [method for method in methods if any(method in costs for costs in sets)]
    while remaining:
        best = min(remaining, key=lambda method: _rank_with(method, ordered, sets))
        ordered.append(best)
        remaining.remove(best)
    return [*ordered, *(method for method in methods if method not in ordered)]


def _rank_with(
    method: str, ordered: Sequence[str], sets: Sequence[Costs]
) -> tuple[float, float]:
    """Return the mean log error of the best method, and the seconds of ``method``."""
    candidates = [*ordered, method]
    errors = []
    seconds = []
    for costs in sets:
        worst = max(error for error, _ in costs.values())
        known = [costs[name][0] for name in candidates if name in costs]
        errors.append(min(known, default=worst))
        if method in costs:
            seconds.append(costs[method][1])
    return mean(errors), mean(seconds)


def write_portfolio(portfolio: Mapping[str, Sequence[str]], path: Path = FILE) -> None:
    """Write the methods of each kind of data to a TOML file."""
    lines = [HEADER]
    for kind, methods in portfolio.items():
        key = f'"{kind}"' if " " in kind else kind
        lines.append(f"{key} = [")
        for start in range(0, len(methods), METHODS_OF_LINE):
            names = methods[start : start + METHODS_OF_LINE]
            lines.append("  " + ", ".join(f'"{name}"' for name in names) + ",")
        lines.append("]")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def learn_portfolio(tables: Sequence[TrialTable]) -> dict[str, list[str]]:
    """Return the portfolio, ordered by the stored trials of data sets."""
    costs = defaultdict[str, list[Costs]](list)
    for table in tables:
        costs[kind_of_data(table.task)].append(measure_methods(table))
    return {
        kind: order_methods(methods, costs[kind])
        for kind, methods in read_portfolio().items()
    }


def main() -> None:
    """Order the portfolio, and write it unless a set is left out."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", type=Path, default=FOLDER)
    parser.add_argument("--without", default="", help="name of a set to leave out")
    options = parser.parse_args()
    names = [name for name in table_names(options.tables) if name != options.without]
    portfolio = learn_portfolio([read_table(name, options.tables) for name in names])
    for kind, methods in portfolio.items():
        print(f"{kind}: {', '.join(methods)}")
    if not options.without:
        write_portfolio(portfolio)


if __name__ == "__main__":
    main()
