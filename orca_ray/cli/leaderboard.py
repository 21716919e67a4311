"""``orca-sweep leaderboard``: print the results of a sweep."""

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from orca_ray.cli.options import JsonOption, ResultsOption, existing_store, is_path, results_uri, split_names
from orca_ray.cli.output import say
from orca_ray.errors import UserError, unknown_name
from orca_ray.protocol import Protocol

if TYPE_CHECKING:
    from orca_ray.sweep.planning.spec import SweepSpec

FormatOption = Annotated[str, Option(help="Output format: table, markdown, csv or json.")]


def leaderboard(
    name: Annotated[
        str, Argument(metavar="NAME|SWEEP.yaml", help="Benchmark, or sweep with a grid, e.g. pocket or aligning.")
    ],
    format: FormatOption = "table",
    sweep: Annotated[
        str | None, Option(help="Sweep to show, e.g. pocket/full. Default: the one with the most scores.")
    ] = None,
    budget: Annotated[str | None, Option(help="Short for --sweep NAME/BUDGET.")] = None,
    protocol: Annotated[Protocol | None, Option(help="Which splits selection read. Default: the sweep's.")] = None,
    hide: Annotated[
        list[str] | None,
        Option(help="Hide published scores by kind: primary, digitised, secondary, submitted, imported."),
    ] = None,
    results: ResultsOption = None,
    json: JsonOption = False,
) -> None:
    """Print each method's test score on each task, mean rank, wins, and how trials ended; or the effects of a grid."""
    from orca_ray.leaderboard import Grid, Report, build, build_effects, empty_board, render, render_effects
    from orca_ray.leaderboard.published import KINDS, published_for
    from orca_ray.results.submissions import imported_scores

    uri, hidden = results_uri(results), split_names("--hide", hide) or []
    if unknown := sorted({*hidden} - {*KINDS}):
        raise unknown_name("kind of published scores", unknown[0], KINDS)
    store = existing_store(uri)
    imported, warnings = imported_scores(uri) if store else ([], [])
    nothing = empty_board(name)
    empty = sweep is None and budget is None and published_for(nothing, imported=imported) is not None
    if store is None and not empty:
        command = "run" if is_path(name) else "benchmark"
        raise UserError(f"no results at {uri!r}: run `orca-sweep {command} {name}` first, or give --results URI")
    chosen, form = protocol and protocol.value, "json" if json else format
    records = store.records() if store else None
    known = records is None or (not is_path(name) and name in set(records["benchmark"]))
    if records is not None and (spec := None if known else _sweep_with_grid(name, sweep, budget)):
        from orca_ray.sweep.planning.grid import grid_cells

        cells = {(task, method): grid_cells(spec, task, method) for task in spec.tasks for method in spec.methods}
        grid, sweep = Grid(cells, spec.confirm_seeds), sweep or spec.sweep_id
        effects = build_effects(records, grid, benchmark=spec.file.benchmark, sweep=sweep, protocol=chosen)
        text = render_effects(effects, form)
    else:
        if sweep is None and budget is not None:
            sweep = f"{name}/{budget}"
        board = nothing
        if records is not None:
            board = build(records, benchmark=name, sweep=sweep, protocol=chosen, empty=empty)
        board = replace(board, warnings=(*board.warnings, *warnings))
        text = render(Report(board, published_for(board, imported=imported, hide=hidden)), form)
    # A file or pipe gets the text unchanged; for a terminal, `say` escapes control sequences.
    (say if sys.stdout.isatty() else print)(text)


def _sweep_with_grid(name: str, sweep: str | None, budget: str | None) -> "SweepSpec | None":
    """Return the shipped sweep or the sweep file ``name`` if it has a grid; None if it has none, or is a benchmark.

    The budget is ``budget``, else that in the name of the sweep (``aligning/quick-deterministic``), else the default.
    """
    from orca_ray.sweep.planning.loading import load_spec, shipped_sweeps

    if not is_path(name) and name not in shipped_sweeps():
        return None
    file = load_spec(name).file
    if not file.grid:
        if is_path(name):
            raise UserError(f"{name} has no grid: give its benchmark, {file.benchmark}, and --sweep {file.name}/BUDGET")
        return None
    named = (each for each in file.budgets if f"{sweep}-".startswith(f"{file.name}/{each}-"))
    return load_spec(name, budget=budget or max(named, key=len, default=None))
