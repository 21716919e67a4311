"""``orca-sweep leaderboard``: the board of a benchmark, from the results store alone."""

from enum import StrEnum
from typing import Annotated

import typer

from orca_ray.cli.output import JsonOption, ResultsOption, existing_store, results_uri
from orca_ray.errors import UserError
from orca_ray.protocol import Protocol


class Format(StrEnum):
    """How a board is printed."""

    TABLE = "table"
    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"


FormatOption = Annotated[Format, typer.Option("--format", help="How to print it.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("leaderboard")(leaderboard)


def leaderboard(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Benchmark, e.g. pocket.")],
    format: FormatOption = Format.TABLE,
    sweep: Annotated[str | None, typer.Option(help="Sweep to show, e.g. pocket/full. Default: the fullest.")] = None,
    budget: Annotated[str | None, typer.Option(help="Short for --sweep NAME/BUDGET.")] = None,
    protocol: Annotated[Protocol | None, typer.Option(help="What selection saw. Default: the sweep's.")] = None,
    results: ResultsOption = None,
    json: JsonOption = False,
) -> None:
    """Print mean and spread per task and method, ranks, wins and what became of every trial."""
    from orca_ray.leaderboard.board import build
    from orca_ray.leaderboard.render import render

    uri = results_uri(results)
    store = existing_store(uri)
    if store is None:
        raise UserError(f"no results at {uri!r}: run `orca-sweep benchmark {name}` first, or give --results URI")
    if sweep is None and budget is not None:
        sweep = f"{name}/{budget}"
    chosen = None if protocol is None else protocol.value
    board = build(store.records(), benchmark=name, sweep=sweep, protocol=chosen)
    print(render(board, "json" if json else format.value).rstrip("\n"))
