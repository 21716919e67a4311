"""How long the methods of a study trained, and which may not have converged.

``python -m benchmarks.findings_training cabinet --results DIR`` prints the text of
docs/six-epochs.md, which ``make boards`` writes.
"""

# ruff: noqa: T201 - a benchmark prints its text

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.findings_reading import KINDS
from orca_ray.leaderboard import BoardReport, build
from orca_ray.leaderboard.formats.markdown import escaped, markdown_table
from orca_ray.leaderboard.statistics.convergence import trial_ends
from orca_ray.leaderboard.training import (
    GRID_TITLE,
    convergence_lines,
    percent,
    training_curves,
    training_grid,
)
from orca_ray.results.store import ResultsStore
from orca_ray.tasks.registry import get_task


def page(arguments: Sequence[str] | None = None) -> str:
    """Return the text for command-line ``arguments``.

    The table of boards also has the share of trials that still improve by kind of data.
    The text says so if there is no store yet.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("benchmark")
    parser.add_argument("--results", required=True, help="folder of the results store")
    parser.add_argument("--sweep", help="sweep of the benchmark (default: as boards)")
    options = parser.parse_args(arguments)
    if not Path(options.results).is_dir():
        return "Not run yet.\n"
    store = ResultsStore(options.results)
    board = build(store, benchmark=options.benchmark, sweep=options.sweep)
    points = store.curves(board.sweep)
    report = BoardReport(board, read_curves=lambda: points)
    ends = trial_ends(training_curves(board, points))
    domains = ends["task"].map(lambda name: get_task(name).domain)
    ends["kind"] = domains.map(lambda domain: KINDS.get(domain, domain))
    shares = ends.pivot_table("still_falling", "method", "kind", aggfunc="mean")
    titles, *rows = training_grid(report.trainings)
    kinds = [kind for kind in dict.fromkeys(KINDS.values()) if kind in shares]
    grid = [[*titles, *kinds]]
    for method, *cells in rows:
        of_kinds = shares.loc[method, kinds].dropna().to_dict()
        texts = [percent(of_kinds[kind]) if kind in of_kinds else "–" for kind in kinds]
        grid.append([f"`{method}`", *cells, *texts])
    title = f"{GRID_TITLE}; the last columns have the trials still improving by kind"
    lines = [f"- {escaped(line)}" for line in convergence_lines(report.trainings)]
    return "\n".join(
        [f"{escaped(title)}:", "", *markdown_table(grid, 2), "", *lines, ""]
    )


if __name__ == "__main__":
    print(page())
