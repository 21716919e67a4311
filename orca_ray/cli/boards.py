"""Builds the board of a command line from a store, with everything that its formats show."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from orca_ray.cli.options import ResultsOption, existing_store, is_path, no_results, results_uri, split_names
from orca_ray.cli.output import note
from orca_ray.errors import UserError, unknown_name
from orca_ray.paths import public_uri
from orca_ray.protocol import Protocol

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from orca_ray.leaderboard import Board, BoardReport, Effects
    from orca_ray.results.scan import StoreSnapshot
    from orca_ray.results.store import ResultsStore
    from orca_ray.results.submissions import SubmittedScore
    from orca_ray.sweep.plan.spec import SweepSpec


@dataclass(frozen=True, kw_only=True)
class BoardOptions:
    """Options that select a board of a store, and a part of it."""

    sweep: Annotated[
        str | None, Option(help="Sweep to show, e.g. pocket/full. Default: the one with the most scores.")
    ] = None
    budget: Annotated[str | None, Option(help="Short for --sweep NAME/BUDGET.")] = None
    protocol: Annotated[Protocol | None, Option(help="Which splits selection read. Default: the sweep's.")] = None
    tasks: Annotated[
        list[str] | None, Option(help="Only these tasks; comma-separated or repeated. All statistics are recomputed.")
    ] = None
    methods: Annotated[
        list[str] | None, Option(help="Only these methods; comma-separated or repeated. All statistics are recomputed.")
    ] = None
    hide: Annotated[
        list[str] | None, Option(help="Kinds of published scores to leave out, e.g. digitised,secondary.")
    ] = None
    results: ResultsOption = None


def load_board(name: str, options: BoardOptions) -> "BoardReport":
    """Return the board of a benchmark, or of a sweep with a grid and the effects of its factors.

    A benchmark without stored records has an empty board if results of it are published. Raises UserError otherwise.
    """
    from orca_ray.leaderboard import BoardReport, build, empty_board
    from orca_ray.leaderboard.published import published_for

    uri = results_uri(options.results)
    store = existing_store(uri)
    scan = None if store is None else store.scan()
    stored = scan is not None and name in scan.values("benchmark")
    if scan is not None and not stored and (spec := _sweep_with_grid(name, options)):
        effects = _effects(scan, spec, options)
        return BoardReport(empty_board(effects.benchmark), effects=effects)
    if not stored and not options.sweep and not options.budget:
        nothing = empty_board(name, scan.warnings if scan else ())
        if published_for(nothing, imported=_imported(store)[0]) is not None:
            note(f"no results of {name} at {public_uri(uri)!r}")
            return _report(nothing, options, store)
    if scan is None:
        command = "run" if is_path(name) else "benchmark"
        raise no_results(uri, f"run `orca-sweep {command} {name}` first, or give --results URI")
    sweep = f"{name}/{options.budget}" if options.sweep is None and options.budget else options.sweep
    protocol = options.protocol and options.protocol.value
    try:
        board = build(scan, benchmark=name, sweep=sweep, protocol=protocol, known_tasks=_known_tasks(name))
    except UserError:
        for warning in scan.warnings:  # what is left out may be all that there is
            note(f"warning: {warning}")
        raise
    return _report(board, options, store, scan)


def _known_tasks(benchmark: str) -> list[str] | None:
    """Return the tasks of a benchmark that this installation declares; None for another benchmark."""
    from orca_ray.tasks.registry import known_tasks

    return [name for name, task in known_tasks().items() if task.benchmark == benchmark] or None


def _report(
    board: "Board", options: BoardOptions, store: "ResultsStore | None", scan: "StoreSnapshot | None" = None
) -> "BoardReport":
    from orca_ray.leaderboard import BoardReport, subset
    from orca_ray.leaderboard.published import KINDS, published_for
    from orca_ray.leaderboard.trials import read_searches

    hide = split_names("--hide", options.hide) or []
    if unknown := [each for each in hide if each not in KINDS]:
        raise unknown_name("kind of published score", unknown[0], KINDS)
    imported, warnings = _imported(store)
    tasks, methods = split_names("--tasks", options.tasks), split_names("--methods", options.methods)
    if methods and not board.tasks:
        raise UserError(f"--methods {','.join(methods)}: nothing of {board.benchmark} ran here; leave the option out")
    shown, left_out = subset(board, tasks, methods) if board.tasks else (board, ())
    named = None if tasks is None else {*tasks, *(f"{board.benchmark}/{task}" for task in tasks)}
    keys = [key for cell in shown.cells.values() for key in cell.trial_keys.values()]
    # No path of this machine, so that a page of an equal store has equal bytes.
    where = "" if results_uri(options.results) == "results" else " --results DIR"
    return BoardReport(
        replace(shown, warnings=(*shown.warnings, *warnings)),
        published=published_for(shown, imported=imported, hide=hide, tasks=named),
        read_curves=None if store is None or not keys else lambda: store.curves(board.sweep, keys),
        read_records=None if scan is None else lambda: _records(scan, shown),
        read_searches=None if scan is None else lambda: read_searches(scan, shown),
        read_artefacts=None if store is None or not keys else lambda: _pictures(store, shown),
        read_about=lambda: _about(shown),
        reproduce=f"orca-sweep reproduce KEY{where}",
        left_out=left_out,
    )


def _records(scan: "StoreSnapshot", board: "Board") -> "pd.DataFrame":
    """Return the records of the board's sweep, tasks and methods."""
    from orca_ray.results.tables import RECORDS, to_frame

    wanted = {"benchmark": [board.benchmark], "sweep": [board.sweep], "protocol": [board.protocol], "task": board.tasks}
    records = to_frame(scan.take(_positions(scan, wanted), RECORDS.schema.names))
    return records[board.labels(records).isin(board.methods)]


def _positions(scan: "StoreSnapshot", wanted: "Mapping[str, Collection[str]]") -> "NDArray[np.int64]":
    """Return the sorted positions of the records that have ``wanted`` values."""
    import numpy as np

    return np.sort(np.concatenate([np.empty(0, np.int64), *(at for at, _ in scan.batches(["benchmark"], wanted))]))


def _imported(store: "ResultsStore | None") -> "tuple[list[SubmittedScore], list[str]]":
    """Return the scores of other people in a store, and warnings about those that cannot be read."""
    from orca_ray.results.submissions import imported_scores

    return ([], []) if store is None else imported_scores(store.uri)


def _effects(scan: "StoreSnapshot", spec: "SweepSpec", options: BoardOptions) -> "Effects":
    from orca_ray.leaderboard import EffectGrid, build_effects
    from orca_ray.leaderboard.effects import COLUMNS
    from orca_ray.results.scan import invalid_rows_text
    from orca_ray.results.tables import RECORDS, invalid_rows, to_frame
    from orca_ray.sweep.plan.grid import grid_cells

    for option, given in (("--tasks", options.tasks), ("--methods", options.methods), ("--hide", options.hide)):
        if given:
            raise UserError(f"{option} is for the leaderboard of a benchmark; the effects of a grid have no subset")
    cells = {(task, method): grid_cells(spec, task, method) for task in spec.tasks for method in spec.methods}
    sweep, protocol = options.sweep or spec.sweep_id, options.protocol and options.protocol.value
    grid, benchmark = EffectGrid(cells, spec.confirm_seeds), spec.file.benchmark
    found = scan.take(_positions(scan, {"benchmark": [benchmark]}), COLUMNS)
    records, warnings = to_frame(found), list(scan.warnings)
    for name, _, value, allowed, wrong in invalid_rows(found.select(["hyperparameters"]), RECORDS):
        records = records[~(mask := wrong.to_numpy())]
        warnings.append(invalid_rows_text(int(mask.sum()), "the store", name, value, allowed))
    effects = build_effects(records, grid, benchmark=benchmark, sweep=sweep, protocol=protocol)
    return replace(effects, notes=[*effects.notes, *warnings])


def _sweep_with_grid(name: str, options: BoardOptions) -> "SweepSpec | None":
    """Return the shipped sweep or the sweep file ``name`` if it has a grid; None if it has none, or is a benchmark.

    The budget is the option's, else that in the name of the sweep (``aligning/quick-deterministic``), else the default.
    """
    from orca_ray.sweep.plan.loading import load_spec, shipped_sweeps

    if not is_path(name) and name not in shipped_sweeps():
        return None
    file = load_spec(name).file
    if not file.grid:
        if is_path(name):
            raise UserError(f"{name} has no grid: give its benchmark, {file.benchmark}, and --sweep {file.name}/BUDGET")
        return None
    named = (each for each in file.budgets if f"{options.sweep}-".startswith(f"{file.name}/{each}-"))
    return load_spec(name, budget=options.budget or max(named, key=len, default=None))


def _pictures(store: "ResultsStore", board: "Board") -> "Mapping[str, Sequence[Mapping[str, Any]]]":
    """Return the artefacts that the page shows; no others are read."""
    from orca_ray.leaderboard.page import chosen_pictures, picture_keys

    return chosen_pictures(board, store.artefacts(board.sweep, picture_keys(board)))


def _about(board: "Board") -> Mapping[str, Mapping[str, str]]:
    """Return the title, metric and definition of each task, and the title of each method, declared here."""
    from orca_ray.methods.registry import all_methods
    from orca_ray.tasks.metrics import get_metric
    from orca_ray.tasks.registry import known_tasks

    declared = {name: task for name, task in known_tasks().items() if name in board.tasks}
    metrics = {name: get_metric(task.metric) for name, task in declared.items()}
    tasks = {
        name: {"title": task.title, "metric": metrics[name].title, "definition": metrics[name].definition}
        for name, task in declared.items()
    }
    return {**tasks, **{name: {"title": recipe.title} for name, recipe in all_methods().items()}}
