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


_OWN_PAGE = re.compile(
    rb'<meta name="generator" content="orca-ray">'
    rb"|(: (leaderboard|adapted model)|>Leaderboards)</title>"
    rb"| has [^<]* \[[^<]*\] on [^<]*</title>"  # models', before they had a generator
)
"""Part of the beginning of each page that orca-ray wrote."""


@dataclass(frozen=True, kw_only=True)
class BoardOptions:
    """Options that select a board of a results store, and its tasks and methods."""

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
    """Raise UserError if a page at ``path`` would replace other content.

    ``option`` is the command-line option that chooses another path.
    """
    check_output(path, "the page")
    if not path.is_file():
        return
    with path.open("rb") as file:
        head = file.read(1000)  # the title and the generator are there
    if not head.startswith(b"<!doctype html>") or not _OWN_PAGE.search(head):
        raise UserError(
            f"{path}, where the page is written, has other content: move it, or give"
            f" {option}"
        )


def load_board(name: str, options: BoardOptions) -> "BoardReport":
    """Return the leaderboard of a benchmark, or the effects of a sweep with a grid.

    ``name`` is that of the benchmark or the sweep. Without stored records, the board
    shows only published and imported scores. UserError is raised if there are no such
    scores either, or if ``options`` choose a sweep or budget, which need records.
    """
    from orca_ray.leaderboard.assembly import published_only

    uri = results_uri(options.results)
    store = existing_store(uri)
    scan = None if store is None else store.scan()
    is_stored = scan is not None and name in scan.values("benchmark")
    if scan is not None and not is_stored:
        spec = _sweep_with_grid(name, options)
        if spec is not None:
            return _effects(scan, spec, options)
    if not is_stored and not options.sweep and not options.budget:
        board = published_only(name, store, scan)
        if board is not None:
            note(f"no results of {name} at {public_uri(uri)!r}")
            return _report(board, options, store, None)
    if scan is None:
        command = "run" if is_path(name) else "benchmark"
        raise no_results(
            uri, f"run `orca-sweep {command} {name}` first, or give --results URI"
        )
    return _report(_stored_board(name, scan, options), options, store, scan)


def _stored_board(name: str, scan: "StoreSnapshot", options: BoardOptions) -> "Board":
    """Return the board of the benchmark ``name`` from the records in a store.

    Records of tasks that the benchmark does not declare are left out. ``options``
    choose the sweep and the protocol.
    """
    from orca_ray.leaderboard import build
    from orca_ray.tasks.registry import known_tasks

    sweep = options.sweep
    if sweep is None and options.budget:
        sweep = f"{name}/{options.budget}"
    declared = [task.name for task in known_tasks().values() if task.benchmark == name]
    try:
        return build(
            scan,
            benchmark=name,
            sweep=sweep,
            protocol=_protocol_name(options),
            # A benchmark that is not installed declares none: then all tasks count.
            known_tasks=declared or None,
        )
    except UserError:
        for warning in scan.warnings:  # what is left out may be all that there is
            note(f"warning: {warning}")
        raise


def _protocol_name(options: BoardOptions) -> str | None:
    return None if options.protocol is None else options.protocol.value


def _report(
    board: "Board",
    options: BoardOptions,
    store: "ResultsStore | None",
    scan: "StoreSnapshot | None",
) -> "BoardReport":
    """Return the report of a board with the tasks and methods that ``options`` name."""
    from orca_ray.leaderboard.assembly import board_report

    tasks = split_names("--tasks", options.tasks)
    methods = split_names("--methods", options.methods)
    if options.seen is not None:
        tasks = _unseen(board, options.seen, tasks, methods)
    # No path of this machine, so that a page of an equal store has equal bytes.
    where = "" if results_uri(options.results) == "results" else " --results DIR"
    report = board_report(
        board,
        store,
        scan,
        tasks=tasks,
        methods=methods,
        current=known_versions().current,
        read_about=_about,
    )
    return replace(
        report, read_facts=_facts, reproduce=f"orca-sweep reproduce KEY{where}"
    )


def _unseen(
    board: "Board", seen: Seen, tasks: list[str] | None, methods: list[str] | None
) -> list[str]:
    """Return the chosen tasks whose data no chosen method's pretraining saw.

    ``seen`` says which doubt is allowed: ``unknown`` also returns tasks whose data the
    pretraining may have seen, and ``known`` returns all.
    """
    from orca_ray.leaderboard import subset

    chosen_board = subset(board, tasks, methods)[0]
    order = get_args(Seen)
    too_seen = set()
    for (task, _), cell in chosen_board.cells.items():
        if not cell.score.n:  # without a score, the cell is in no statistic
            continue
        if order.index(_facts(cell)["seen"]) > order.index(seen):
            too_seen.add(task)
    remaining = [task for task in chosen_board.tasks if task not in too_seen]
    if remaining:
        return remaining
    reason = "nothing ran here"
    if too_seen:
        reason = (
            "on each, the pretraining of a method may have seen the data: choose other"
            " methods by --methods"
        )
    raise UserError(f"--seen {seen} leaves no task; {reason}")


def _facts(cell: "BoardCell") -> dict[str, str]:
    """Return the `FACTS` of a board's cell, which its method and body declare."""
    from orca_ray.methods.registry import all_methods
    from orca_ray.models.names import listed_body, pretraining_saw

    # On a board, the name of a method may be "method (body)".
    recipe = all_methods().get(cell.method.partition(" (")[0])
    body = cell.provenance.body
    links = recipe.links if recipe else {}
    if body == "":
        return {"body": body, "seen": "", **links}
    if recipe and not recipe.pretrained:
        return {"body": body, "seen": "no", **links}
    facts = {"body": body}
    info = listed_body(body)
    if info:
        facts["body_licence"] = info.licence
        facts["body_sha256"] = getattr(info, "sha256", "")
    return {**facts, "seen": pretraining_saw(body, cell.task), **links}


def _effects(
    scan: "StoreSnapshot", spec: "SweepSpec", options: BoardOptions
) -> "BoardReport":
    """Return the report of the effects of a sweep's grid."""
    from orca_ray.leaderboard import EffectGrid
    from orca_ray.leaderboard.assembly import effects_report
    from orca_ray.sweep.plan.grid import grid_cells

    for name in ("tasks", "methods", "seen"):
        if getattr(options, name):
            raise UserError(
                f"--{name} is for the leaderboard of a benchmark; the effects of a grid"
                " have no subset"
            )
    cells = {
        (task, method): grid_cells(spec, task, method) for task, method in spec.pairs
    }
    return effects_report(
        scan,
        EffectGrid(cells, spec.confirm_seeds),
        benchmark=spec.file.benchmark,
        sweep=options.sweep or spec.sweep_id,
        protocol=_protocol_name(options),
    )


def _sweep_with_grid(name: str, options: BoardOptions) -> "SweepSpec | None":
    """Return the shipped sweep or the sweep file ``name`` if it has a grid.

    Returns None for a benchmark and for a shipped sweep without a grid. The budget is
    ``--budget``, else the one in ``--sweep`` (``aligning/quick-deterministic``), else
    the default. Raises UserError for a file without a grid.
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
    budget = options.budget
    if not budget:
        # A sweep is named FILE/BUDGET or FILE/BUDGET-VARIANT. A budget's name may
        # itself have hyphens, so the longest one that fits is taken.
        named_budgets = [
            budget_name
            for budget_name in file.budgets
            if f"{options.sweep}-".startswith(f"{file.name}/{budget_name}-")
        ]
        budget = max(named_budgets, key=len, default=None)
    return load_spec(name, budget=budget)


def _about(board: "Board") -> Mapping[str, Mapping[str, str]]:
    """Return texts about each declared task and method for `BoardReport.read_about`."""
    from orca_ray.methods.registry import all_methods
    from orca_ray.tasks.metrics import get_metric
    from orca_ray.tasks.registry import known_tasks

    texts: dict[str, Mapping[str, str]] = {}
    for name, task in known_tasks().items():
        if name not in board.tasks:
            continue
        metric = get_metric(task.metric)
        texts[name] = {
            "title": task.title,
            "metric": metric.title,
            "definition": metric.definition,
            "kind": task.domain,
            "modality": task.modality,
            "size": _size(task.num_samples),
        }
    for name, recipe in all_methods().items():
        texts[name] = {"title": recipe.title, **recipe.links}
    return texts


def known_versions() -> "Known":
    """Return the tasks and metrics that submitted scores may name.

    The result has the current version of each metric, and of the data of each task. The
    version of data is their fingerprint; "" if the task declares none.
    """
    from orca_ray.results.submissions import Known
    from orca_ray.tasks.metrics import all_metrics
    from orca_ray.tasks.registry import known_tasks

    metrics = all_metrics()
    metric_names: dict[str, tuple[str, ...]] = {}
    current: dict[tuple[str, str, str], tuple[int, str]] = {}
    for task in known_tasks().values():
        paper_metric = task.paper_metric or task.metric
        names = tuple(dict.fromkeys([task.metric, paper_metric]))
        metric_names[task.name] = names
        for metric, protocol in product(names, Protocol):
            current[task.name, metric, protocol.value] = (
                metrics[metric].version,
                task.expected(protocol) or "",
            )
    largest = {name: metric.largest for name, metric in metrics.items()}
    return Known(metric_names, largest, current)


def _size(num_samples: tuple[int, int, int] | None) -> str:
    """Return the range in which the declared number of training samples lies.

    The range is a decade such as "101 to 1000". It is "1 to 100" for fewer samples, and
    "" for an unknown number.
    """
    if not num_samples:
        return ""
    num_train = num_samples[0]
    num_digits = max(2, len(str(num_train - 1)))  # 2: the smallest decade ends at 100
    most = 10**num_digits
    least = most // 10 + 1 if most > 100 else 1
    return f"{least} to {most}"
