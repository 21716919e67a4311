"""``orca-sweep leaderboard``: print the results of a sweep."""

import sys
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from orca_ray.cli.options import JsonOption, ResultsOption, existing_store, is_path, results_uri
from orca_ray.cli.output import say
from orca_ray.errors import UserError
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
    results: ResultsOption = None,
    json: JsonOption = False,
) -> None:
    """Print each method's test score on each task, mean rank, wins, and how trials ended; or the effects of a grid."""
    from orca_ray.leaderboard import Grid, build, build_effects, render, render_effects

    uri = results_uri(results)
    store = existing_store(uri)
    if store is None:
        command = "run" if is_path(name) else "benchmark"
        raise UserError(f"no results at {uri!r}: run `orca-sweep {command} {name}` first, or give --results URI")
    records, chosen, form = store.records(), protocol and protocol.value, "json" if json else format
    known = not is_path(name) and name in set(records["benchmark"])
    if spec := None if known else _sweep_with_grid(name, sweep, budget):
        from orca_ray.sweep.planning.grid import grid_cells

        cells = {(task, method): grid_cells(spec, task, method) for task in spec.tasks for method in spec.methods}
        grid, sweep = Grid(cells, spec.confirm_seeds), sweep or spec.sweep_id
        effects = build_effects(records, grid, benchmark=spec.file.benchmark, sweep=sweep, protocol=chosen)
        text = render_effects(effects, form)
    else:
        if sweep is None and budget is not None:
            sweep = f"{name}/{budget}"
        text = render(build(records, benchmark=name, sweep=sweep, protocol=chosen), form)
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
