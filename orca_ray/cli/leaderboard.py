"""``orca-sweep leaderboard``: print the leaderboard of a benchmark from the results store alone."""

import sys
from enum import StrEnum
from typing import Annotated

import typer

from orca_ray.cli.options import JsonOption, ResultsOption, existing_store, results_uri
from orca_ray.cli.output import say
from orca_ray.errors import UserError
from orca_ray.protocol import Protocol


class Format(StrEnum):
    """Format in which a leaderboard is printed."""

    TABLE = "table"
    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"


def leaderboard(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Benchmark, e.g. pocket.")],
    format: Annotated[Format, typer.Option(help="Output format.")] = Format.TABLE,
    sweep: Annotated[
        str | None, typer.Option(help="Sweep to show, e.g. pocket/full. Default: the one with the most confirm trials.")
    ] = None,
    budget: Annotated[str | None, typer.Option(help="Short for --sweep NAME/BUDGET.")] = None,
    protocol: Annotated[
        Protocol | None, typer.Option(help="Which splits selection read. Default: the sweep's.")
    ] = None,
    results: ResultsOption = None,
    json: JsonOption = False,
) -> None:
    """Print each method's mean score and spread on each task, ranks, wins, and how all trials ended."""
    from orca_ray.leaderboard import build, render

    uri = results_uri(results)
    store = existing_store(uri)
    if store is None:
        raise UserError(f"no results at {uri!r}: run `orca-sweep benchmark {name}` first, or give --results URI")
    if sweep is None and budget is not None:
        sweep = f"{name}/{budget}"
    chosen = None if protocol is None else protocol.value
    board = build(store.records(), benchmark=name, sweep=sweep, protocol=chosen)
    text = render(board, "json" if json else format.value)
    # A file or pipe gets CSV and JSON unchanged; a terminal gets nothing that it would act on.
    (say if sys.stdout.isatty() else print)(text)
