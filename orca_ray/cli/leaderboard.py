"""``orca-sweep leaderboard``, ``leaderboard-diff`` and ``site``: print, write, open and
compare boards.
"""

import re
import shlex
import sys
import time
import webbrowser
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
"""Seconds after which ``--watch`` writes a page again, and the page loads itself again
in the browser.
"""


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
    """Return a distinct, portable file name for the page of each benchmark."""
    names: list[str] = []
    for benchmark in benchmarks:
        stem = re.sub(r"[^a-z0-9-]+", "_", benchmark.lower())[:60] or "_"
        taken = {"index.html", *names}
        number = next(
            n for n in range(len(taken) + 1) if f"{stem}{n or ''}.html" not in taken
        )
        names.append(f"{stem}{number or ''}.html")
    return names


@dataclass(frozen=True, kw_only=True)
class LeaderboardOptions(BoardOptions):
    """Options of `leaderboard`: which board, as in `BoardOptions`, and where and how it
    is shown.
    """

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
        content = _file(board, form)
        with disk_errors(options.out.absolute().parent):
            write_bytes(options.out, content, durable=True)
        note(f"written: {options.out}")
    else:
        _print(board, form)


def show_page(name: str, options: LeaderboardOptions, form: str) -> None:
    """Write a page, and open it in the browser; with --watch, write it again while it
    changes, until Ctrl-C.
    """
    from orca_ray.leaderboard import render

    if form != "html":
        raise UserError(
            f"--open and --watch show the page: give --format html, not {form}"
        )
    path = options.out or Path(f"{_stem(name)}.html")
    check_unread(path, "--out", [results_uri(options.results)])
    if options.out is None:
        check_page(path, "--out FILE")

    def page(watched: bool) -> str:
        return str(
            render(
                replace(
                    load_board(name, options), refresh_seconds=REFRESH_SECONDS * watched
                ),
                form,
            )
        )

    write_text(path, text := page(options.watch))
    say(f"page: {path}")
    if options.open and not webbrowser.open(path.resolve().as_uri()):
        note(f"no browser found: open {path.resolve().as_uri()}")
    if not options.watch:
        return
    note(
        f"writing {path} again every {REFRESH_SECONDS} s while it changes; Ctrl-C"
        " ends it"
    )
    try:
        while True:
            time.sleep(REFRESH_SECONDS)
            if (new := page(True)) != text:
                write_text(path, text := new)
    except KeyboardInterrupt:
        write_text(path, page(False))


def _format(options: LeaderboardOptions) -> str:
    """Return the format that the options name, directly or by the name of the file."""
    from orca_ray.leaderboard import all_formats

    if options.format is not None or options.json:
        return lookup(
            "format", "json" if options.json else str(options.format), all_formats()
        ).name
    if options.open or options.watch:
        return "html"
    if options.out is None:
        return "table"
    known = {each.suffix: each.name for each in all_formats().values()}
    if options.out.suffix not in known:
        raise UserError(
            f"--out {options.out}: give --format, or a name that ends in"
            f" {', '.join(sorted(known))}"
        )
    return known[options.out.suffix]


def _file(report: "BoardReport", form: str) -> bytes:
    """Return the content of a file with a board: text ends with a line break."""
    from orca_ray.leaderboard import render

    content = render(report, form)
    return (
        content
        if isinstance(content, bytes)
        else f"{content}\n".encode("utf-8", "backslashreplace")
    )


def _print(report: "BoardReport", form: str) -> None:
    """Print a board: in colour and with escaped control sequences to a terminal, else
    the bytes that --out writes.
    """
    if not sys.stdout.isatty():
        sys.stdout.flush()
        sys.stdout.buffer.write(_file(report, form))
    elif form == "table" and report.effects is None:
        from orca_ray.leaderboard.formats.table import renderables

        screen = console()
        unicode = screen.encoding.startswith("utf")
        screen.print(*renderables(report, screen.width, curves=unicode), sep="\n")
    else:
        from orca_ray.leaderboard import render

        content = render(report, form)
        if isinstance(content, bytes):
            raise UserError(f"{form} is not for a terminal: give --out FILE")
        say(content)


def _stem(name: str) -> str:
    """Return the name of a board's files without their ending."""
    return (
        Path(name).stem if name.endswith((".yaml", ".yml")) else name.replace("/", "-")
    )


def _check(name: str, options: LeaderboardOptions, directory: Path) -> None:
    """Compare the board with its files in a directory, and exit with `OUT_OF_DATE` if
    one differs.
    """
    from orca_ray.leaderboard import all_formats

    check_special(directory, "--check")
    stem = _stem(name)
    formats = {
        directory / f"{stem}{each.suffix}": each for each in all_formats().values()
    }
    found = {path: each for path, each in formats.items() if path.is_file()}
    if not found:
        command = _command(name, options, directory / f"{stem}.md")
        raise UserError(
            f"--check {directory}: no board of {name} there; write one: {command}"
        )
    board = load_board(name, options)
    stale = [
        path
        for path, each in found.items()
        if not each.same(path.read_bytes(), _file(board, each.name))
    ]
    for path in stale:
        say(f"out of date: {path}\n  {_command(name, options, path)}")
    if stale:
        raise Exit(OUT_OF_DATE)
    say(f"up to date: {', '.join(map(str, found))}")


def _command(name: str, options: BoardOptions, path: Path) -> str:
    """Return the command that writes a board with the same options to a file."""
    words = ["orca-sweep", "leaderboard", name]
    for each in fields(BoardOptions):
        value = getattr(options, each.name)
        if value:
            text = (
                ",".join(value)
                if isinstance(value, list)
                else value.value
                if isinstance(value, Enum)
                else value
            )
            words += [f"--{each.name}", text]
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

    sides = _sides(
        (before, after), benchmark, BoardOptions(sweep=sweep, protocol=protocol)
    )
    changes = compare_boards(*sides)
    counts = {kind.value: sum(each.kind is kind for each in changes) for kind in Kind}
    if json:
        emit_json({"rule": RULE, "counts": counts, "changes": changes})
        return
    rows = [
        (
            each.task,
            each.method,
            number(each.before),
            number(each.after),
            number(each.difference),
            number(each.error),
            each.seeds,
            f"{each.kind.value}: {each.reason}" if each.reason else each.kind.value,
        )
        for each in changes
        if each.kind is not Kind.EQUAL
    ]
    if rows:
        numbers = ("before", "after", "difference", "standard error", "equal seeds")
        show(("task", "method", *numbers, "change"), rows, right=numbers)
        say()
    say(
        ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
        or "no scores in either board"
    )
    say(RULE)


def _sides(
    given: tuple[str, str], benchmark: str | None, options: BoardOptions
) -> "list[pd.DataFrame]":
    """Return the scores of two boards; if only one is a store and no benchmark is
    named, the other board names it.
    """
    from orca_ray.leaderboard.format import SUFFIXES, read_scores

    files = [
        read_scores(Path(each)) if Path(each).suffix in SUFFIXES else None
        for each in given
    ]
    for file in files:
        if file is not None and len(file):
            benchmark = benchmark or str(file["benchmark"].iloc[0])
    found = [
        _stored(uri, benchmark, options) if file is None else file
        for uri, file in zip(given, files, strict=True)
    ]
    names = [set(side["benchmark"]) for side in found]
    if names[0] and names[1] and names[0] != names[1]:
        one, other = (", ".join(sorted(each)) for each in names)
        raise UserError(
            f"boards of different benchmarks: {printable(one)} and {printable(other)}"
        )
    return found


def _stored(uri: str, benchmark: str | None, options: BoardOptions) -> "pd.DataFrame":
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
