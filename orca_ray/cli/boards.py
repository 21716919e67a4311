"""The options that select a board of a store, and the board that they select."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

from typer import Option

from orca_ray.cli.options import (
    ResultsOption,
    existing_store,
    is_path,
    no_results,
    results_uri,
    split_names,
)
from orca_ray.cli.output import note
from orca_ray.errors import UserError
from orca_ray.options import Protocol, Seen
from orca_ray.paths import check_output, public_uri

if TYPE_CHECKING:
    from orca_ray.leaderboard import Board, BoardReport
    from orca_ray.leaderboard.board import BoardCell
    from orca_ray.results.scan import StoreSnapshot
    from orca_ray.results.store import ResultsStore
    from orca_ray.results.submissions import Known
    from orca_ray.sweep.plan.spec import SweepSpec


@dataclass(frozen=True, kw_only=True)
class BoardOptions:
    """Options that select a leaderboard of a results store, and the tasks, methods and
    published scores on it.
    """

    sweep: Annotated[
        str | None,
        Option(
            help=(
                "Sweep to show, e.g. pocket/full. Default: the one with the most"
                " scores."
            )
        ),
    ] = None
    budget: Annotated[str | None, Option(help="Short for --sweep NAME/BUDGET.")] = None
    protocol: Annotated[
        Protocol | None,
        Option(help="Which splits selection read. Default: the sweep's."),
    ] = None
    tasks: Annotated[
        list[str] | None,
        Option(
            help=(
                "Only these tasks; comma-separated or repeated. All statistics are"
                " recomputed."
            )
        ),
    ] = None
    methods: Annotated[
        list[str] | None,
        Option(
            help=(
                "Only these methods; comma-separated or repeated. All statistics are"
                " recomputed."
            )
        ),
    ] = None
    seen: Annotated[
        Seen | None,
        Option(
            help=(
                "Only tasks whose data no pretraining saw (no), or is known to have"
                " seen (unknown)."
            )
        ),
    ] = None
    results: ResultsOption = None


def check_page(path: Path, option: str) -> None:
    """Raise UserError if a page at ``path`` would replace other content; ``option`` is
    the option for another path.
    """
    check_output(path, "the page")
    head = (
        path.open("rb").read(1000)
        if path.is_file()
        else b"<!doctype html>: leaderboard</title>"
    )
    if not (
        head.startswith(b"<!doctype html>")
        and re.search(b": (leaderboard|adapted model)</title>", head)
    ):
        raise UserError(
            f"{path}, where the page is written, has other content: move it, or give"
            f" {option}"
        )


def load_board(name: str, options: BoardOptions) -> "BoardReport":
    """Return the leaderboard of the benchmark ``name`` or, if ``name`` is a sweep with
    a grid, its factors' effects.

    Without stored records, the board shows only published and imported scores;
    UserError if there are none, or if ``options`` choose a sweep or budget.
    """
    from orca_ray.leaderboard import build
    from orca_ray.leaderboard.assembly import published_only
    from orca_ray.tasks.registry import known_tasks

    uri = results_uri(options.results)
    store = existing_store(uri)
    scan = None if store is None else store.scan()
    stored = scan is not None and name in scan.values("benchmark")
    if scan is not None and not stored and (spec := _sweep_with_grid(name, options)):
        return _effects(scan, spec, options)
    if (
        not stored
        and not options.sweep
        and not options.budget
        and (empty := published_only(name, store, scan))
    ):
        note(f"no results of {name} at {public_uri(uri)!r}")
        return _report(empty, options, store, None)
    if scan is None:
        command = "run" if is_path(name) else "benchmark"
        raise no_results(
            uri, f"run `orca-sweep {command} {name}` first, or give --results URI"
        )
    sweep = (
        f"{name}/{options.budget}"
        if options.sweep is None and options.budget
        else options.sweep
    )
    protocol = options.protocol and options.protocol.value
    declared = [task.name for task in known_tasks().values() if task.benchmark == name]
    try:
        board = build(
            scan,
            benchmark=name,
            sweep=sweep,
            protocol=protocol,
            known_tasks=declared or None,
        )
    except UserError:
        for warning in scan.warnings:  # what is left out may be all that there is
            note(f"warning: {warning}")
        raise
    return _report(board, options, store, scan)


def _report(
    board: "Board",
    options: BoardOptions,
    store: "ResultsStore | None",
    scan: "StoreSnapshot | None",
) -> "BoardReport":
    from orca_ray.leaderboard.assembly import board_report

    tasks = split_names("--tasks", options.tasks)
    methods = split_names("--methods", options.methods)
    tasks = (
        tasks if options.seen is None else _unseen(board, options.seen, tasks, methods)
    )
    # No path of this machine, so that a page of an equal store has equal bytes.
    where = "" if results_uri(options.results) == "results" else " --results DIR"
    reproduce = f"orca-sweep reproduce KEY{where}"
    current = known_versions().current
    report = board_report(
        board,
        store,
        scan,
        tasks=tasks,
        methods=methods,
        current=current,
        read_about=_about,
    )
    return replace(report, read_facts=_facts, reproduce=reproduce)


def _unseen(
    board: "Board", seen: Seen, tasks: list[str] | None, methods: list[str] | None
) -> list[str]:
    """Return the chosen tasks whose data the pretraining of no chosen method saw more
    than ``seen`` says.
    """
    from orca_ray.leaderboard import subset

    shown = subset(board, tasks, methods)[0]
    order = get_args(Seen)
    found = [
        (task, _facts(cell)["seen"])
        for (task, _), cell in shown.cells.items()
        if cell.score.n
    ]
    more = {task for task, saw in found if order.index(saw) > order.index(seen)}
    if kept := [task for task in shown.tasks if task not in more]:
        return kept
    why = (
        "on each, the pretraining of a method may have seen the data: choose other"
        " methods by --methods"
    )
    raise UserError(
        f"--seen {seen} leaves no task; {why if more else 'nothing ran here'}"
    )


def _facts(cell: "BoardCell") -> dict[str, str]:
    """Return the `FACTS` of a board's cell, as the command's parts declare them."""
    from orca_ray.methods.registry import all_methods
    from orca_ray.models.names import listed_body, saw

    recipe = all_methods().get(cell.method.partition(" (")[0])
    body = cell.provenance.body
    links = recipe.links if recipe else {}
    if body == "" or (recipe and not recipe.pretrained):
        return {"body": body, "seen": "no" if body else "", **links}
    info = listed_body(body)
    weights = (
        {"body_licence": info.licence, "body_sha256": getattr(info, "sha256", "")}
        if info
        else {}
    )
    return {"body": body, **weights, "seen": saw(body, cell.task), **links}


def _effects(
    scan: "StoreSnapshot", spec: "SweepSpec", options: BoardOptions
) -> "BoardReport":
    from orca_ray.leaderboard import EffectGrid
    from orca_ray.leaderboard.assembly import effects_report
    from orca_ray.sweep.plan.grid import grid_cells

    for option, given in (
        ("--tasks", options.tasks),
        ("--methods", options.methods),
        ("--seen", options.seen),
    ):
        if given:
            raise UserError(
                f"{option} is for the leaderboard of a benchmark; the effects of a grid"
                " have no subset"
            )
    cells = {
        (task, method): grid_cells(spec, task, method) for task, method in spec.pairs
    }
    sweep = options.sweep or spec.sweep_id
    protocol = options.protocol and options.protocol.value
    grid = EffectGrid(cells, spec.confirm_seeds)
    return effects_report(
        scan, grid, benchmark=spec.file.benchmark, sweep=sweep, protocol=protocol
    )


def _sweep_with_grid(name: str, options: BoardOptions) -> "SweepSpec | None":
    """Return the shipped sweep or the sweep file ``name`` if it has a grid; None if it
    has none, or is a benchmark.

    The budget is the option's, else that in the name of the sweep
    (``aligning/quick-deterministic``), else the default.
    """
    from orca_ray.sweep.plan.loading import load_spec, shipped_sweeps

    if not is_path(name) and name not in shipped_sweeps():
        return None
    file = load_spec(name).file
    if not file.grid:
        if is_path(name):
            raise UserError(
                f"{name} has no grid: give its benchmark, {file.benchmark}, and --sweep"
                f" {file.name}/BUDGET"
            )
        return None
    named = (
        each
        for each in file.budgets
        if f"{options.sweep}-".startswith(f"{file.name}/{each}-")
    )
    return load_spec(name, budget=options.budget or max(named, key=len, default=None))


def _about(board: "Board") -> Mapping[str, Mapping[str, str]]:
    """Return the texts of each task and method that are declared here, as
    `BoardReport.read_about` does.
    """
    from orca_ray.methods.registry import all_methods
    from orca_ray.tasks.metrics import get_metric
    from orca_ray.tasks.registry import known_tasks

    declared = {
        name: task for name, task in known_tasks().items() if name in board.tasks
    }
    metrics = {name: get_metric(task.metric) for name, task in declared.items()}
    tasks = {
        name: (
            {
                "title": task.title,
                "metric": metrics[name].title,
                "definition": metrics[name].definition,
            }
            | {
                "kind": task.domain,
                "modality": task.modality,
                "size": _size(task.num_samples),
            }
        )
        for name, task in declared.items()
    }
    return {
        **tasks,
        **{
            name: {"title": recipe.title, **recipe.links}
            for name, recipe in all_methods().items()
        },
    }


def known_versions() -> "Known":
    """Return what a row of scores may name here; data are known by their fingerprint if
    the task pins it.
    """
    from orca_ray.results.submissions import Known
    from orca_ray.tasks.metrics import all_metrics
    from orca_ray.tasks.registry import known_tasks

    tasks = known_tasks().values()
    metrics = all_metrics()
    names = {
        task.name: tuple(dict.fromkeys([task.metric, task.paper_metric or task.metric]))
        for task in tasks
    }
    current = {
        (task.name, metric, protocol.value): (
            metrics[metric].version,
            task.expected(protocol) or "",
        )
        for task, protocol in product(tasks, Protocol)
        for metric in names[task.name]
    }
    return Known(
        names, {name: metric.largest for name, metric in metrics.items()}, current
    )


def _size(num_samples: tuple[int, int, int] | None) -> str:
    """Return the decade of the declared number of training samples, such as "101 to
    1000"; "1 to 100" for fewer.
    """
    most = 10 ** max(2, len(str(num_samples[0] - 1))) if num_samples else 0
    return f"{most // 10 + 1 if most > 100 else 1} to {most}" if most else ""
