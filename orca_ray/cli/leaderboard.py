"""``orca-sweep leaderboard``, ``leaderboard-diff`` and ``site``: boards of a store."""

import re
import shlex
import sys
import time
import webbrowser
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Exit, Option

from orca_ray.cli.boards import BoardOptions, check_page, load_board
from orca_ray.cli.options import (
    JsonOption,
    ResultsOption,
    required_store,
    results_uri,
    takes,
)
from orca_ray.cli.output import OUT_OF_DATE, console, emit_json, note, say, show
from orca_ray.data.cache import disk_errors, write_bytes, write_text
from orca_ray.errors import UserError, lookup, printable
from orca_ray.options import Protocol
from orca_ray.paths import check_output, check_special, check_unread, public_uri

if TYPE_CHECKING:
    import pandas as pd

    from orca_ray.leaderboard import BoardReport

REFRESH_SECONDS = 10
"""Seconds after which ``--watch`` writes a page, and the browser loads it, again."""


def site(
    directory: Annotated[
        Path,
        Argument(
            metavar="DIR", help="Directory of the site; created if it does not exist."
        ),
    ],
    results: ResultsOption = None,
) -> None:
    """Write the leaderboards of all benchmarks in the store as a static site: an index,
    and one page each.
    """
    from orca_ray.leaderboard import render
    from orca_ray.leaderboard.page import render_index

    check_unread(directory, "DIR", [results_uri(results)])
    benchmarks = required_store(results_uri(results)).scan().values("benchmark")
    directory.mkdir(parents=True, exist_ok=True)
    names = file_names(benchmarks)
    for name in [*names, "index.html"]:
        check_page(directory / name, "another DIR")
    options = BoardOptions(results=results)
    boards = {}
    for benchmark, name in zip(benchmarks, names, strict=True):
        report = load_board(benchmark, options)
        write_text(directory / name, str(render(report, "html")))
        boards[name] = report.board
    write_text(directory / "index.html", render_index(boards))
    say(
        f"site: {directory / 'index.html'} ({len(boards)}"
        f" {'board' if len(boards) == 1 else 'boards'})"
    )


def file_names(benchmarks: Sequence[str]) -> list[str]:
    """Return a file name for the page of each benchmark.

    The names are distinct, and allowed on every file system. ``index.html`` is left
    free for the index of the site.
    """
    names: list[str] = []
    for benchmark in benchmarks:
        stem = re.sub(r"[^a-z0-9-]+", "_", benchmark.lower())[:60] or "_"
        name = f"{stem}.html"
        suffix = 0
        while name in {"index.html", *names}:
            suffix += 1
            name = f"{stem}{suffix}.html"
        names.append(name)
    return names


@dataclass(frozen=True, kw_only=True)
class LeaderboardOptions(BoardOptions):
    """Options of `leaderboard`: which board, and where and how it is shown."""

    format: Annotated[
        str | None,
        Option(
            help=(
                "table, markdown, latex, csv, json, parquet or html. Default: that of"
                " the name of --out, else table."
            )
        ),
    ] = None
    out: Annotated[
        Path | None, Option("--out", "-o", metavar="FILE", help="Write to this file.")
    ] = None
    check: Annotated[
        Path | None,
        Option(
            metavar="DIR",
            help=(
                "Exit with 1 if one of the files DIR/NAME.md, .tex, .csv, … is out of"
                " date."
            ),
        ),
    ] = None
    open: Annotated[bool, Option("--open", help="Open the page in the browser.")] = (
        False
    )
    watch: Annotated[
        bool,
        Option(
            "--watch", help="Write the page again while the sweep runs, until Ctrl-C."
        ),
    ] = False
    json: JsonOption = False


@takes(LeaderboardOptions)
def leaderboard(
    name: Annotated[
        str,
        Argument(
            metavar="NAME|SWEEP.yaml",
            help="Benchmark, or sweep with a grid, e.g. pocket or aligning.",
        ),
    ],
    options: LeaderboardOptions,
) -> None:
    """Print each method's test score on each task, mean rank, wins, and how trials
    ended; or the effects of a grid.
    """
    if options.check is not None:
        _check(name, options, options.check)
        return
    if options.out is not None:
        check_output(options.out, "--out", reads=[results_uri(options.results)])
    form = _format(options)
    if options.open or options.watch:
        show_page(name, options, form)
        return
    board = load_board(name, options)
    if options.out is not None:
        content = _file_content(board, form)
        with disk_errors(options.out.absolute().parent):
            write_bytes(options.out, content, durable=True)
        note(f"written: {options.out}")
    else:
        _print(board, form)


def show_page(name: str, options: LeaderboardOptions, form: str) -> None:
    """Write the page of a board, and open it in the browser with ``--open``.

    With ``--watch``, write it again while it changes, until Ctrl-C. Raises UserError if
    ``form`` is another format than ``html``.
    """
    if form != "html":
        raise UserError(
            f"--open and --watch show the page: give --format html, not {form}"
        )
    path = options.out or Path(f"{_stem(name)}.html")
    check_unread(path, "--out", [results_uri(options.results)])
    if options.out is None:
        check_page(path, "--out FILE")
    text = _page(name, options, form, refresh=options.watch)
    write_text(path, text)
    show_path(path, opens=options.open)
    if not options.watch:
        return
    note(
        f"writing {path} again every {REFRESH_SECONDS} s while it changes; Ctrl-C"
        " ends it"
    )
    try:
        while True:
            time.sleep(REFRESH_SECONDS)
            new_text = _page(name, options, form, refresh=True)
            if new_text != text:
                text = new_text
                write_text(path, text)
    except KeyboardInterrupt:
        # The last page does not reload itself.
        write_text(path, _page(name, options, form, refresh=False))


def show_path(path: Path, *, opens: bool) -> None:
    """Print the path of a written page and, if ``opens``, open it in the browser."""
    say(f"page: {path}")
    address = path.resolve().as_uri()
    if opens and not webbrowser.open(address):
        note(f"no browser found: open {address}")


def _page(name: str, options: BoardOptions, form: str, *, refresh: bool) -> str:
    """Return the page of a board; with ``refresh``, the browser reloads it."""
    from orca_ray.leaderboard import render

    report = load_board(name, options)
    if refresh:
        report = replace(report, refresh_seconds=REFRESH_SECONDS)
    return str(render(report, form))


def _format(options: LeaderboardOptions) -> str:
    """Return the name of the format in which the options ask for a board.

    ``--json`` and ``--format`` give it directly. Otherwise it is ``html`` for a page to
    open or watch, that of the suffix of ``--out``, or ``table``.
    """
    from orca_ray.leaderboard import all_formats

    if options.json:
        return lookup("format", "json", all_formats()).name
    if options.format is not None:
        return lookup("format", options.format, all_formats()).name
    if options.open or options.watch:
        return "html"
    if options.out is None:
        return "table"
    by_suffix = {form.suffix: form.name for form in all_formats().values()}
    if options.out.suffix not in by_suffix:
        raise UserError(
            f"--out {options.out}: give --format, or a name that ends in"
            f" {', '.join(sorted(by_suffix))}"
        )
    return by_suffix[options.out.suffix]


def _file_content(report: "BoardReport", form: str) -> bytes:
    """Return the content of a file with a board in the format ``form``.

    Text ends with a line break. A lone surrogate, which UTF-8 lacks, is escaped.
    """
    from orca_ray.leaderboard import render

    content = render(report, form)
    if isinstance(content, bytes):
        return content
    return f"{content}\n".encode("utf-8", "backslashreplace")


def _print(report: "BoardReport", form: str) -> None:
    """Print a board.

    A terminal gets colours and escaped control sequences, a file or pipe the bytes that
    --out writes.
    """
    if not sys.stdout.isatty():
        sys.stdout.flush()
        sys.stdout.buffer.write(_file_content(report, form))
    elif form == "table" and report.effects is None:
        from orca_ray.leaderboard.formats.table import renderables

        screen = console()
        unicode = screen.encoding.startswith("utf")  # curves are drawn by characters
        screen.print(*renderables(report, screen.width, curves=unicode), sep="\n")
    else:
        from orca_ray.leaderboard import render

        content = render(report, form)
        if isinstance(content, bytes):
            raise UserError(f"{form} is not for a terminal: give --out FILE")
        say(content)


def _stem(name: str) -> str:
    """Return the name of a board's files without their ending."""
    if name.endswith((".yaml", ".yml")):
        return Path(name).stem
    return name.replace("/", "-")


def _check(name: str, options: LeaderboardOptions, directory: Path) -> None:
    """Compare the board ``name`` with the files in a directory that hold it.

    The files have the board's name and the suffix of a format. Exit with `OUT_OF_DATE`
    if one of them differs, and raise UserError if there is none.
    """
    from orca_ray.leaderboard import all_formats

    check_special(directory, "--check")
    stem = _stem(name)
    formats = {
        directory / f"{stem}{form.suffix}": form for form in all_formats().values()
    }
    existing = {path: form for path, form in formats.items() if path.is_file()}
    if not existing:
        command = _command(name, options, directory / f"{stem}.md")
        raise UserError(
            f"--check {directory}: no board of {name} there; write one: {command}"
        )
    board = load_board(name, options)
    stale_paths = [
        path
        for path, form in existing.items()
        if not form.same(path.read_bytes(), _file_content(board, form.name))
    ]
    for path in stale_paths:
        say(f"out of date: {path}\n  {_command(name, options, path)}")
    if stale_paths:
        raise Exit(OUT_OF_DATE)
    say(f"up to date: {', '.join(map(str, existing))}")


def _command(name: str, options: BoardOptions, path: Path) -> str:
    """Return the command that writes a board with the same options to a file."""
    words = ["orca-sweep", "leaderboard", name]
    for field in fields(BoardOptions):
        value = getattr(options, field.name)
        if not value:
            continue
        if isinstance(value, list):
            value = ",".join(value)
        elif isinstance(value, Enum):
            value = value.value
        words += [f"--{field.name}", value]
    return shlex.join([*words, "--out", str(path)])


def leaderboard_diff(
    before: Annotated[
        str,
        Argument(
            metavar="A", help="Results store, or board exported as .json or .parquet."
        ),
    ],
    after: Annotated[
        str,
        Argument(metavar="B", help="The same; what changed from A to B is printed."),
    ],
    benchmark: Annotated[
        str | None, Option(help="Benchmark, for stores that have several.")
    ] = None,
    sweep: Annotated[
        str | None,
        Option(help="Sweep, for stores. Default: the one with the most scores."),
    ] = None,
    protocol: Annotated[
        Protocol | None, Option(help="Protocol, for stores. Default: the sweep's.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Print which scores moved between two boards, by how much, and whether beyond the
    noise over seeds.
    """
    from orca_ray.leaderboard.difference import RULE, Kind, compare_boards
    from orca_ray.leaderboard.text import number

    options = BoardOptions(sweep=sweep, protocol=protocol)
    changes = compare_boards(*_read_boards(before, after, benchmark, options))
    counts = Counter(change.kind.value for change in changes)
    if json:
        all_counts = {kind.value: counts[kind.value] for kind in Kind}
        emit_json({"rule": RULE, "counts": all_counts, "changes": changes})
        return
    rows = []
    for change in changes:
        if change.kind is Kind.EQUAL:
            continue
        kind = change.kind.value
        numbers = (change.before, change.after, change.difference, change.error)
        rows.append(
            (
                change.task,
                change.method,
                *map(number, numbers),
                change.seeds,
                f"{kind}: {change.reason}" if change.reason else kind,
            )
        )
    if rows:
        headers = ("before", "after", "difference", "standard error", "equal seeds")
        show(("task", "method", *headers, "change"), rows, right=headers)
        say()
    texts = [
        f"{counts[kind.value]} {kind.value}" for kind in Kind if counts[kind.value]
    ]
    say(", ".join(texts) or "no scores in either board")
    say(RULE)


def _read_boards(
    before: str, after: str, benchmark: str | None, options: BoardOptions
) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Return the scores of two boards, which are files or stores.

    If ``benchmark`` is None and one of the boards is a file, a store's board is that of
    the file's benchmark.
    """
    from orca_ray.leaderboard.format import SUFFIXES, read_scores

    sides = (before, after)
    files = {
        side: read_scores(Path(side)) for side in sides if Path(side).suffix in SUFFIXES
    }
    for scores in files.values():
        if not benchmark and len(scores):
            benchmark = str(scores["benchmark"].iloc[0])
    boards = [
        files[side] if side in files else _read_store(side, benchmark, options)
        for side in sides
    ]
    names = [", ".join(sorted(set(board["benchmark"]))) for board in boards]
    if all(names) and names[0] != names[1]:
        raise UserError(
            f"boards of different benchmarks: {printable(names[0])} and"
            f" {printable(names[1])}"
        )
    return boards[0], boards[1]


def _read_store(
    uri: str, benchmark: str | None, options: BoardOptions
) -> "pd.DataFrame":
    """Return the scores of one board of the store ``uri``.

    If ``benchmark`` is None, the store must have records of only one benchmark.
    """
    from orca_ray.leaderboard import build
    from orca_ray.leaderboard.format import score_frame

    scan = required_store(
        uri, "give a results store, or a board exported as .json or .parquet"
    ).scan()
    if benchmark is None:
        names = scan.values("benchmark")
        if len(names) != 1:
            raise UserError(
                f"{public_uri(uri)} has records of {', '.join(map(printable, names))}:"
                " give --benchmark NAME"
            )
        benchmark = names[0]
    board = build(
        scan,
        benchmark=benchmark,
        sweep=options.sweep,
        protocol=options.protocol and options.protocol.value,
    )
    for warning in board.warnings:
        note(f"warning: {public_uri(uri)}: {warning}")
    return score_frame(board)
