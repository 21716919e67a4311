"""The content of a page as plain JSON."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, NamedTuple

import pandas as pd

from orca_ray.leaderboard.board import Board, BoardCell, TaskInfo
from orca_ray.leaderboard.effects import Effects
from orca_ray.leaderboard.effects_text import effects_sections
from orca_ray.leaderboard.format import BoardReport
from orca_ray.leaderboard.published import OWN, Published, PublishedTable
from orca_ray.leaderboard.statistics import all_statistics, get_statistic, on_boards
from orca_ray.leaderboard.statistics.paired import LogScores
from orca_ray.leaderboard.statistics.questions import answers, gains
from orca_ray.leaderboard.statistics.table import COLUMNS
from orca_ray.leaderboard.training import convergence_lines, schedule_line
from orca_ray.results.record import CurvePoint, Record, Status

MAX_RECORDS = 1500
"""Largest number of records of which a page holds all.

Of more records, it holds those with a score on the board and those that failed.
"""
MAX_COMPARED = 40
"""Largest number of methods of which the page compares all pairs.

The page's program in page-src has the same number.
"""
MAX_EPOCHS = 100
"""Largest number of points of a learning curve that is kept whole.

Of a longer one, every n-th point and the last are kept.
"""
_FAILED = [status.value for status in Status if status.failed]
"""Statuses of trials without a usable score."""
_COLUMNS = (
    "phase",
    "body",
    "seed",
    "status",
    "metric",
    "metric_version",
    "best_epoch",
    "epochs",
    "distance_before",
    "distance_after",
    "num_parameters",
    "num_trainable",
    "wall_seconds",
    "align_seconds",
    "refine_seconds",
    "evaluate_seconds",
    "peak_memory_mib",
    "device",
    "processor",
    "started_at",
    "finished_at",
    "attempts",
    "error",
    "notes",
    "version",
    "torch_version",
    "precision",
    "deterministic",
    "data_fingerprint",
    "align_chosen",
    "align_reused",
)
"""Columns of records that a page shows.

Key, task, method, scores and hyper-parameters are shown, too.
"""
RECORD_COLUMNS = (
    "trial_key",
    "task",
    "method",
    "test_score",
    "validation_score",
    "hyperparameters",
    *_COLUMNS,
)
"""Columns of records that a page is made of."""
_DIGITS = {"seconds": 4, "distance": 7, "memory": 5}
"""Significant digits of columns by a word in their name; all others are exact."""


def page_data(report: BoardReport) -> dict[str, Any]:
    """Return the content of a report's page as plain JSON.

    Equal reports give equal content in equal order.
    """
    board = report.board
    if report.read_records:
        records = report.read_records()
    else:
        records = Record.SCHEMA.empty_table().to_pandas()
    shown = _chosen_records(board, records)
    keys = shown.records["trial_key"].tolist()
    artefacts = report.read_artefacts() if report.read_artefacts else {}
    about = report.read_about() if report.read_about else {}
    searches = _search_trials(report)
    return {
        "benchmark": board.benchmark,
        "sweep": board.sweep,
        "protocol": board.protocol,
        "updated": _plain(_last_finish(board)),
        "tasks": [_task(board, info, about) for info in board.infos.values()],
        "methods": [
            {"name": method, **about.get(method.partition(" (")[0], {})}
            for method in sorted(board.methods)
        ],
        "seeds": list(board.seeds),
        "scores": _scores(board, keys),
        "statistics": _statistics(report),
        "noise": _noise(report),
        "questions": _questions(report, searches),
        "pairs": _pairs(report),
        "gains": _gains(board, searches),
        "cells": _cells(board),
        "importance": _importance(searches),
        "effects": _effects(report.effects) if report.effects else None,
        "records": _records(board, shown.records),
        "records_note": shown.note,
        "hyperparameters": _hyperparameters(shown.records["hyperparameters"].tolist()),
        "curves": _curves(board, report.curves),
        "artefacts": {key: list(artefacts[key]) for key in keys if key in artefacts},
        "published": (
            _published(report.published, board.benchmark) if report.published else None
        ),
        "notes": [*board.notes, *_training_notes(report)],
        "warnings": list(board.warnings),
        "others": [other._asdict() for other in board.others],
        "reproduce": report.reproduce,
    }


def _last_finish(board: Board) -> datetime | None:
    """Return the end of the last scored trial."""
    times = [cell.provenance.finished_at for cell in board.cells.values()]
    return max((time for time in times if time is not None), default=None)


def _scored_keys(board: Board) -> set[str]:
    """Return the keys of the trials that scores are averaged over."""
    return {key for cell in board.cells.values() for key in cell.trial_keys.values()}


def _task(
    board: Board, info: TaskInfo, about: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """Return a task with its label, and its texts in ``about`` as ``NAME_text``."""
    texts = about.get(info.name, {})
    floors = dict(zip(board.table.tasks, board.table.floors_T.tolist(), strict=True))
    return {
        **asdict(info),
        "label": info.name.removeprefix(f"{board.benchmark}/"),
        "floor": floors.get(info.name, 1.0),
        **{f"{name}_text": text for name, text in texts.items()},
    }


def _training_notes(report: BoardReport) -> list[str]:
    """Return sentences about how long methods trained, if any has a learning curve."""
    trainings = report.trainings
    if not trainings:
        return []
    return [schedule_line(trainings), *convergence_lines(trainings)]


def _scores(board: Board, keys: Sequence[str]) -> list[list[Any]]:
    """Return task, method, seed, score and record of each row of the score table.

    Task and method are indices into the lists of the page. The record is the index of
    its key in ``keys``, the trial keys of the records on the page; -1 for none.
    """
    tasks = list(board.tasks)
    methods = sorted(board.methods)
    places = {key: index for index, key in enumerate(keys)}
    columns = (
        board.scores[name].tolist() for name in ("task", "method", "seed", "score")
    )
    rows: list[list[Any]] = []
    for task, method, seed, score in zip(*columns, strict=True):
        cell = board.cells.get((task, method))
        key = cell.trial_keys.get(seed, "") if cell else ""
        place = places.get(key, -1)
        rows.append([tasks.index(task), methods.index(method), seed, score, place])
    return rows


def _statistics(report: BoardReport) -> list[dict[str, Any]]:
    """Return the description of each statistic, and its values for each method.

    If there are more than `MAX_COMPARED` methods, only the statistics that a board
    prints are computed.
    """
    if len(report.scores.methods) <= MAX_COMPARED:
        frames = report.statistics("method")
    else:
        frames = {name: report.statistic(name) for name in on_boards()}
    frames |= report.curve_statistics
    descriptions = []
    for name, statistic in all_statistics().items():
        description: dict[str, Any] = {
            "name": name,
            "title": statistic.title,
            "definition": statistic.definition,
            "better": statistic.better,
        }
        if name in frames:
            defined = frames[name].dropna(subset="value")
            rows = defined[["value", "low", "high"]].to_dict("index")
            description["values"] = {
                method: _plain_values(row) for method, row in rows.items()
            }
        descriptions.append(description)
    return descriptions


def _questions(report: BoardReport, searches: pd.DataFrame) -> list[dict[str, str]]:
    """Return the questions of `answers`, each with the two sides that are compared."""
    return [
        {
            "name": answer.name,
            "question": answer.question,
            "agent": answer.agent,
            "subject": answer.subject,
            "note": answer.note,
            "method": " ".join(answer.comparison.levels.values()),
            "reference": " ".join(answer.comparison.reference.values()),
        }
        for answer in answers(report.scores, searches)
    ]


def _pairs(report: BoardReport) -> list[dict[str, Any]]:
    """Return how many more tasks or seeds would separate each pair of methods.

    The list is empty if there are more than `MAX_COMPARED` methods.
    """
    methods = report.scores.methods
    pairs = list(itertools.combinations(methods, 2))
    if not pairs or len(methods) > MAX_COMPARED:
        return []
    verdicts = report.verdicts[["more_tasks", "more_seeds"]].to_dict("index")
    return [_plain_values(verdicts[pair]) for pair in pairs]


def _gains(board: Board, searches: pd.DataFrame) -> list[list[Any]]:
    """Return task, method and log ratio of each row of `gains`."""
    methods = sorted(board.methods)
    rows = gains(searches).itertuples(index=False, name=None)
    return [
        [board.tasks.index(task), methods.index(method), _plain(log, digits=10)]
        for task, method, log in rows
    ]


def _noise(report: BoardReport) -> dict[str, Any]:
    """Return the variances over seeds of `LogScores`, and their degrees of freedom.

    There is a variance for each task and method of the board.
    """
    tasks = list(report.board.tasks)
    logs = LogScores.of(report.scores)
    variances = pd.DataFrame(logs.variances_TM, logs.table.tasks, logs.table.methods)
    rows = variances.reindex(index=tasks, columns=sorted(report.board.methods))
    # A variance has at most the degrees of freedom of all scores of its task.
    most_freedom = pd.Series(logs.freedom_TM.sum(axis=1), logs.table.tasks)
    return {
        "prior": logs.prior,
        "most": most_freedom.reindex(tasks, fill_value=0.0).tolist(),
        "variances": [[_plain(value) for value in row] for row in rows.to_numpy()],
    }


class _ShownRecords(NamedTuple):
    """The records that a page holds."""

    records: pd.DataFrame
    note: str
    """A sentence that says which records these are."""


def _chosen_records(board: Board, records: pd.DataFrame) -> _ShownRecords:
    """Return the records that a page holds; see `MAX_RECORDS`.

    ``records`` may lack those that the page does not hold.
    """
    num_trials = sum(cell.provenance.trials for cell in board.cells.values())
    num_records = max(len(records), num_trials)
    if num_records <= MAX_RECORDS:
        note = f"All {num_records} trials of the sweep."
    else:
        records = records[is_kept(board, records)]
        note = (
            f"{len(records)} of {num_records} trials of the sweep: those with a score"
            " on the board, and those that failed."
        )
    order = ["task", "method", "phase", "seed", "trial_key"]
    records = records.sort_values(order, kind="stable")
    return _ShownRecords(records.reset_index(drop=True), note)


def is_kept(board: Board, records: pd.DataFrame) -> "pd.Series[bool]":
    """Return a mask of the records that a page of many records holds.

    ``records`` have the columns ``trial_key`` and ``status``.
    """
    is_scored = records["trial_key"].isin(_scored_keys(board))
    return is_scored | records["status"].isin(_FAILED)


def _records(board: Board, rows: pd.DataFrame) -> dict[str, list[Any]]:
    """Return the columns of the shown records as lists of JSON values, by name."""
    columns: dict[str, list[Any]] = {
        "key": rows["trial_key"].tolist(),
        "task": rows["task"].tolist(),
        "method": board.labels(rows).tolist(),
        "test": [_plain(value) for value in rows["test_score"]],
        "validation": [_plain(value) for value in rows["validation_score"]],
    }
    for name in _COLUMNS:
        if name in rows:
            columns[name] = [_plain(value, _digits(name)) for value in rows[name]]
    return columns


def _digits(column: str) -> int | None:
    """Return the number of significant digits of a column; None: it is exact."""
    for word, digits in _DIGITS.items():
        if word in column:
            return digits
    return None


def _search_trials(report: BoardReport) -> pd.DataFrame:
    """Return the search trials with the columns that statistics take as ``searches``.

    The frame is empty if there are too many trials.
    """
    rows = report.searches
    if rows is None:
        rows = pd.DataFrame(columns=COLUMNS["searches"])
    values = [json.loads(text, parse_constant=str) for text in rows["hyperparameters"]]
    rows = rows.assign(
        hyperparameters=pd.Series(values, index=rows.index, dtype=object),
        score=rows["score"].astype("float64"),
    )
    rows = rows.sort_values(["task", "method", "number"], kind="stable")
    return rows.reset_index(drop=True)


def _importance(searches: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the statistic ``importance`` by method, the most important rows first."""
    scored = searches[searches["score"].notna()]
    if scored.empty:
        return []
    frame = get_statistic("importance").compute(scored).reset_index()
    rows = [_plain_values(row) for row in frame.to_dict("records")]
    return sorted(
        rows, key=lambda row: (row["method"], -row["value"], row["hyperparameter"])
    )


def _effects(effects: Effects) -> dict[str, Any]:
    """Return the main effect of each factor, and all tables of effects as text.

    A main effect compares levels of one factor over all cells of the grid.
    """
    main: dict[str, Any] = {}
    for comparison in effects.comparisons:
        if comparison.given or len(comparison.changed) != 1:
            continue
        ((factor, level),) = comparison.changed.items()
        baseline = effects.factors[factor][0]
        entry = main.setdefault(factor, {"baseline": baseline, "comparisons": []})
        tasks = {
            task: _plain_values(ratio._asdict())
            for task, ratio in comparison.tasks.items()
        }
        ratio = _plain_values(comparison.ratio._asdict())
        entry["comparisons"].append({"level": level, "ratio": ratio, "tasks": tasks})
    tables = [
        {"title": section.title, "rows": section.grid}
        for section in effects_sections(effects, full=True)
    ]
    return {"main": main, "tables": tables}


def _plain(value: Any, digits: int | None = None) -> Any:
    """Return a value of a data frame as a JSON value: None if missing or not finite."""
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    if hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return None
    if digits is None:
        return value
    return float(f"{value:.{digits}g}")


def _plain_values(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the values of a row as JSON values, by name."""
    return {str(name): _plain(value) for name, value in row.items()}


def _hyperparameters(texts: Sequence[str]) -> dict[str, Any]:
    """Return the hyper-parameters of all records without repetitions.

    ``common`` are the hyper-parameters that are equal in all records, and ``sets`` the
    distinct sets of the other ones. ``of`` is the index in ``sets`` for each record.
    """
    distinct_texts = list(dict.fromkeys(texts))
    places = {text: index for index, text in enumerate(distinct_texts)}
    all_values = [json.loads(text, parse_constant=str) for text in distinct_texts]
    names = sorted({name for values in all_values for name in values})
    common = {
        name: all_values[0][name] for name in names if _is_common(name, all_values)
    }
    sets = [
        {name: values[name] for name in sorted(values) if name not in common}
        for values in all_values
    ]
    return {"common": common, "sets": sets, "of": [places[text] for text in texts]}


def _is_common(name: str, all_values: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a hyper-parameter has the same value everywhere."""
    first = all_values[0]
    return all(
        name in first and name in values and values[name] == first[name]
        for values in all_values
    )


Curves = dict[str, dict[str, dict[str, list[Any]]]]
"""Learning curves: values of each epoch by trial key, stage and name of the column."""


def _curves(board: Board, rows: pd.DataFrame | None) -> Curves:
    """Return the learning curves of the scored trials."""
    if rows is None:
        rows = CurvePoint.SCHEMA.empty_table().to_pandas()
    rows = rows[rows["trial_key"].isin(_scored_keys(board))]
    rows = rows.rename(columns={"validation_score": "validation"})
    ordered = rows.sort_values(["trial_key", "stage", "epoch"], kind="stable")
    columns = {
        name: ordered[name].tolist()
        for name in ("epoch", "loss", "distance", "validation")
    }
    places_of_curves = ordered.groupby(["trial_key", "stage"]).indices
    curves: Curves = {}
    for (key, stage), places in sorted(places_of_curves.items()):
        curve = _thinned_curve(columns, places.tolist())
        curves.setdefault(str(key), {})[str(stage)] = curve
    return curves


def _thinned_curve(
    columns: Mapping[str, list[Any]], places: list[int]
) -> dict[str, list[Any]]:
    """Return about `MAX_EPOCHS` points of a curve; columns without values are left out.

    ``places`` are the places of the points in ``columns``.
    """
    step = math.ceil(len(places) / MAX_EPOCHS)
    kept_places = sorted({*places[::step], places[-1]})
    curve = {}
    for name, column in columns.items():
        values = [_plain(column[place], digits=6) for place in kept_places]
        if any(value is not None for value in values):
            curve[name] = values
    return curve


def _cells(board: Board) -> list[list[Any]]:
    """Return task, method, costs and counts of trials of each cell."""
    tasks = list(board.tasks)
    methods = sorted(board.methods)
    return [
        [
            tasks.index(cell.task),
            methods.index(cell.method),
            _known_costs(cell),
            _trial_counts(cell),
        ]
        for cell in board.cells.values()
    ]


def _known_costs(cell: BoardCell) -> dict[str, float]:
    costs = asdict(cell.cost)
    return {name: value for name, value in costs.items() if not math.isnan(value)}


def _trial_counts(cell: BoardCell) -> dict[str, Any]:
    """Return the statuses, starts and hours of all trials of a cell; see `Provenance`.

    Statuses without a trial are left out.
    """
    provenance = cell.provenance
    statuses = {
        status.value: count for status, count in provenance.statuses.items() if count
    }
    hours = {
        device: float(f"{total:.4g}")
        for device, total in provenance.device_hours.items()
    }
    return {
        "statuses": statuses,
        "attempts": provenance.attempts,
        "device_hours": hours,
    }


def _published(published: Published, benchmark: str) -> dict[str, Any]:
    """Return the published results as plain JSON; see the fields of `Published`."""
    beside = None
    if published.beside:
        beside = _published_table(published.beside, benchmark)
    return {
        "beside": beside,
        "tables": [_published_table(table, benchmark) for table in published.tables],
        "reasons": dict(published.reasons),
        "notes": list(published.notes),
        "sources": published.sources,
    }


def _published_table(table: PublishedTable, benchmark: str) -> dict[str, Any]:
    """Return a table of published results as plain JSON: columns, then methods."""
    columns = [
        {
            **asdict(column),
            "label": column.task.removeprefix(f"{benchmark}/"),
            "best": table.best(column),
        }
        for column in table.columns
    ]
    methods = [
        {
            "name": method["name"],
            "rank": method["mean_rank"],
            "cells": _published_cells(method["cells"]),
        }
        for method in table.to_dict()["methods"]
    ]
    return {"title": table.title, "columns": columns, "methods": methods}


def _published_cells(cells: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a page shows of published scores, by task.

    Cells of the kind `OWN`, which are scores of the store's own records, are left out.
    """
    names = ("text", "score", "std", "kind", "flag", "source", "note", "direction")
    return {
        task: {name: cell[name] for name in names}
        for task, cell in cells.items()
        if cell["kind"] != OWN
    }
