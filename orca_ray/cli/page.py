"""Pages of boards: ``orca-sweep leaderboard --format html`` with ``--open`` and ``--watch``, and ``orca-sweep site``."""

import re
import time
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument

from orca_ray.cli.options import ResultsOption, existing_store, results_uri
from orca_ray.cli.output import note, say
from orca_ray.errors import UserError

if TYPE_CHECKING:
    from orca_ray.leaderboard import Board, Effects
    from orca_ray.results.store import ResultsStore

REFRESH_SECONDS = 10
"""Seconds after which a watched page is written again, and loads itself again in the browser."""


def board_page(
    store: "ResultsStore | None", board: "Board", effects: "Effects | None" = None, *, uri: str, watched: bool = False
) -> str:
    """Return the page of a board of ``store``; None is a store in which nothing is stored yet."""
    from orca_ray.leaderboard.page import page_data, render, stored

    where = "" if uri == "results" else f" --results {uri}"
    data = page_data(
        board,
        *stored(store, board),
        effects=effects,
        about=_about(board.tasks),
        reproduce=f"orca-sweep reproduce KEY{where}",
    )
    return render(data, refresh_seconds=REFRESH_SECONDS if watched else 0)


def show_page(make: Callable[[bool], str], path: Path, *, opened: bool, watched: bool) -> None:
    """Write a page, and open it in the browser; if ``watched``, write it again while it changes, until Ctrl-C.

    ``make`` returns the page; its argument says whether the page loads itself again.
    """
    from orca_ray.data.cache import write_text

    text = make(watched)
    write_text(path, text)
    say(f"page: {path}")
    if opened and not webbrowser.open(path.resolve().as_uri()):
        note(f"no browser found: open {path.resolve().as_uri()}")
    if not watched:
        return
    note(f"writing {path} again every {REFRESH_SECONDS} s while it changes; Ctrl-C ends it")
    try:
        while True:
            time.sleep(REFRESH_SECONDS)
            if (new := make(True)) != text:
                write_text(path, text := new)
    except KeyboardInterrupt:
        write_text(path, make(False))


def site(
    directory: Annotated[Path, Argument(metavar="DIR", help="Directory of the site; created if it does not exist.")],
    results: ResultsOption = None,
) -> None:
    """Write the leaderboards of all benchmarks in the store as a static site: an index, and one page each."""
    from orca_ray.data.cache import write_text
    from orca_ray.leaderboard import build
    from orca_ray.leaderboard.page import render_index

    uri = results_uri(results)
    store = existing_store(uri)
    if store is None:
        raise UserError(f"no results at {uri!r}: run `orca-sweep benchmark NAME` first, or give --results URI")
    records = store.records()
    boards = [build(records, benchmark=str(name)) for name in sorted(records["benchmark"].unique())]
    directory.mkdir(parents=True, exist_ok=True)
    names = file_names([board.benchmark for board in boards])
    for board, name in zip(boards, names, strict=True):
        write_text(directory / name, board_page(store, board, uri=uri))
    write_text(directory / "index.html", render_index(dict(zip(names, boards, strict=True))))
    say(f"site: {directory / 'index.html'} ({len(boards)} {'board' if len(boards) == 1 else 'boards'})")


def file_names(benchmarks: Sequence[str]) -> list[str]:
    """Return a distinct, portable file name for the page of each benchmark."""
    names: list[str] = []
    for benchmark in benchmarks:
        stem = re.sub(r"[^a-z0-9-]+", "_", benchmark.lower())[:60] or "_"
        taken = {"index.html", *names}
        number = next(n for n in range(len(taken) + 1) if f"{stem}{n or ''}.html" not in taken)
        names.append(f"{stem}{number or ''}.html")
    return names


def _about(tasks: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the title, metric and definition of each task that this installation declares."""
    from orca_ray.tasks.metrics import get_metric
    from orca_ray.tasks.registry import all_tasks

    declared = all_tasks()
    return {name: _texts(declared[name], get_metric(declared[name].metric)) for name in tasks if name in declared}


def _texts(task: Any, metric: Any) -> dict[str, str]:
    return {"title": task.title, "metric": metric.title, "definition": metric.definition}
