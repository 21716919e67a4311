"""Pages of boards: ``orca-sweep leaderboard`` with ``--open`` or ``--watch``, and ``orca-sweep site``."""

import re
import time
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from typer import Argument

from orca_ray.cli.options import ResultsOption, required_store, results_uri
from orca_ray.cli.output import note, say

REFRESH_SECONDS = 10
"""Seconds after which a watched page is written again, and loads itself again in the browser."""


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
    from orca_ray.cli.boards import BoardOptions, load_board
    from orca_ray.data.cache import write_text
    from orca_ray.leaderboard import render
    from orca_ray.leaderboard.page import render_index

    benchmarks = required_store(results_uri(results)).scan().values("benchmark")
    directory.mkdir(parents=True, exist_ok=True)
    names, options = file_names(benchmarks), BoardOptions(results=results)
    boards = {}
    for benchmark, name in zip(benchmarks, names, strict=True):
        report = load_board(benchmark, options)
        write_text(directory / name, str(render(report, "html")))
        boards[name] = report.board
    write_text(directory / "index.html", render_index(boards))
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
