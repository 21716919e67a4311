"""The content of a page as plain JSON."""

import itertools
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from operator import itemgetter
from typing import Any

import pandas as pd

from orca_ray.leaderboard.board import Board, BoardCell
from orca_ray.leaderboard.effects import Effects
from orca_ray.leaderboard.effects_text import effects_sections
from orca_ray.leaderboard.format import BoardReport
from orca_ray.leaderboard.published import OWN, Published, PublishedTable
from orca_ray.leaderboard.statistics import all_statistics, get_statistic, on_boards
from orca_ray.leaderboard.statistics.paired import LogScores, Ratio, answers, gains
from orca_ray.leaderboard.statistics.table import COLUMNS
from orca_ray.results.record import CurvePoint, Record, Status

MAX_RECORDS = 1500
"""Number of records up to which a page holds all.

If there are more, it holds the scored and the failed records.
"""
MAX_COMPARED = 40
"""Number of methods up to which the page compares all pairs.

page-src has the same number.
"""
MAX_EPOCHS = 100
"""Number of points up to which a learning curve is kept whole.

Of a longer one, every n-th point and the last are kept.
"""
_FAILED = [status.value for status in Status if status.failed]
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
_DIGITS = {"seconds": 4, "distance": 7, "memory": 5}
"""Significant digits of columns by a word in their name; all others are exact."""


def page_data(report: BoardReport) -> dict[str, Any]:
    """Return the content of a report's page as plain JSON.

    Equal reports give equal content in equal order.
    """
    board = report.board
    records = (
        report.read_records()
        if report.read_records
        else Record.SCHEMA.empty_table().to_pandas()
    )
    curves = (
        CurvePoint.SCHEMA.empty_table().to_pandas()
        if report.curves is None
        else report.curves
    )
    artefacts = report.read_artefacts() if report.read_artefacts else {}
    about = report.read_about() if report.read_about else {}
    methods = sorted(board.methods)
    rows, note = _chosen_records(board, records)
    tasks = {task: index for index, task in enumerate(board.tasks)}
    searches = _search_trials(report)
    finished = [
        time for cell in board.cells.values() if (time := cell.provenance.finished_at)
    ]
    scored = {key for cell in board.cells.values() for key in cell.trial_keys.values()}
    described = []
    for task, info in board.infos.items():
        texts = {f"{name}_text": text for name, text in about.get(task, {}).items()}
        described.append(
            {**asdict(info), "label": task.removeprefix(f"{board.benchmark}/"), **texts}
        )
    return {
        **{name: getattr(board, name) for name in ("benchmark", "sweep", "protocol")},
        "updated": _plain(max(finished, default=None)),
        "tasks": described,
        "methods": [
            {"name": method, **about.get(method.partition(" (")[0], {})}
            for method in methods
        ],
        "seeds": list(board.seeds),
        "scores": _scores(board, rows["trial_key"].tolist()),
        "statistics": _statistics(report),
        "noise": _noise(report),
        **_compared(report, searches),
        "cells": [
            [tasks[task], methods.index(method), *_cell(cell)]
            for (task, method), cell in board.cells.items()
        ],
        "importance": _importance(searches),
        "effects": report.effects and _effects(report.effects),
        "records": _records(board, rows),
        "records_note": note,
        "hyperparameters": _hyperparameters(rows["hyperparameters"]),
        "curves": _curves(curves[curves["trial_key"].isin(scored)]),
        "artefacts": {
            key: list(artefacts[key]) for key in rows["trial_key"] if key in artefacts
        },
        "published": report.published and _published(report.published, board.benchmark),
        "notes": list(board.notes),
        "warnings": list(board.warnings),
        "others": [other._asdict() for other in board.others],
        "reproduce": report.reproduce,
    }


def _scores(board: Board, keys: Sequence[str]) -> list[list[Any]]:
    """Return task, method, seed, score and record of each row of the score table.

    The record is the place of a record among ``keys``; -1 for none.
    """
    tasks = list(board.tasks)
    methods = sorted(board.methods)
    places = {key: index for index, key in enumerate(keys)}
    columns = (
        board.scores[name].tolist() for name in ("task", "method", "seed", "score")
    )
    found: list[list[Any]] = []
    for task, method, seed, score in zip(*columns, strict=True):
        cell = board.cells.get((task, method))
        place = places.get(cell.trial_keys.get(seed, ""), -1) if cell else -1
        found.append([tasks.index(task), methods.index(method), seed, score, place])
    return found


def _statistics(report: BoardReport) -> list[dict[str, Any]]:
    """Return the description of each statistic, and its values for each method.

    If there are more than `MAX_COMPARED` methods, only the statistics that a board
    prints are computed.
    """
    few = len(report.scores.methods) <= MAX_COMPARED
    values = (
        report.statistics("method")
        if few
        else {name: report.statistic(name) for name in on_boards()}
    )
    found = []
    for name, each in all_statistics().items():
        about = {
            key: getattr(each, key) for key in ("name", "title", "definition", "better")
        }
        if name in values:
            rows = (
                values[name]
                .dropna(subset="value")[["value", "low", "high"]]
                .to_dict("index")
            )
            about["values"] = {
                method: {key: _plain(v) for key, v in row.items()}
                for method, row in rows.items()
            }
        found.append(about)
    return found


def _compared(report: BoardReport, searches: pd.DataFrame) -> dict[str, Any]:
    """Return questions, gains of searches, and advice on pairs of methods.

    There is advice only if there are at most `MAX_COMPARED` methods.
    """
    board = report.board
    methods = report.scores.methods
    pairs = (
        list(itertools.combinations(methods, 2)) if len(methods) <= MAX_COMPARED else []
    )
    verdicts = (
        report.verdicts[["more_tasks", "more_seeds"]].to_dict("index") if pairs else {}
    )
    asked = []
    for each in answers(report.scores, searches):
        texts = {
            name: getattr(each, name)
            for name in ("name", "question", "agent", "subject", "note")
        }
        sides = {
            "method": each.comparison.levels,
            "reference": each.comparison.reference,
        }
        asked.append(
            {
                **texts,
                **{name: " ".join(levels.values()) for name, levels in sides.items()},
            }
        )
    return {
        "questions": asked,
        "pairs": [
            {str(name): _plain(value) for name, value in verdicts[pair].items()}
            for pair in pairs
        ],
        "gains": [
            [
                board.tasks.index(task),
                sorted(board.methods).index(method),
                _plain(log, 10),
            ]
            for task, method, log in gains(searches).itertuples(index=False, name=None)
        ],
    }


def _noise(report: BoardReport) -> dict[str, Any]:
    """Return what `LogScores` has of the noise over seeds.

    There is a variance for each task and method of the board.
    """
    board = report.board
    logs = LogScores.of(report.scores)
    frame = pd.DataFrame(logs.variances_TM, logs.table.tasks, logs.table.methods)
    rows = frame.reindex(
        index=list(board.tasks), columns=sorted(board.methods)
    ).to_numpy()
    most = pd.Series(logs.freedom_TM.sum(axis=1), logs.table.tasks).reindex(
        list(board.tasks), fill_value=0.0
    )
    return {
        "prior": logs.prior,
        "most": most.tolist(),
        "variances": [[_plain(v) for v in row] for row in rows],
    }


def _chosen_records(board: Board, records: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    rows = records
    num = len(records)
    note = f"All {num} trials of the sweep."
    if num > MAX_RECORDS:
        scored = {
            key for cell in board.cells.values() for key in cell.trial_keys.values()
        }
        rows = rows[rows["trial_key"].isin(scored) | rows["status"].isin(_FAILED)]
        note = (
            f"{len(rows)} of {num} trials of the sweep: those with a score on the"
            " board, and those that failed."
        )
    rows = rows.sort_values(
        ["task", "method", "phase", "seed", "trial_key"], kind="stable"
    )
    return rows.reset_index(drop=True), note


def _records(board: Board, rows: pd.DataFrame) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {
        "key": rows["trial_key"].tolist(),
        "task": rows["task"].tolist(),
        "method": board.labels(rows).tolist(),
        "test": [_plain(value) for value in rows["test_score"]],
        "validation": [_plain(value) for value in rows["validation_score"]],
    }
    for name in _COLUMNS:
        if name in rows:
            digits = next(
                (digits for word, digits in _DIGITS.items() if word in name), None
            )
            columns[name] = [_plain(value, digits) for value in rows[name]]
    return columns


def _search_trials(report: BoardReport) -> pd.DataFrame:
    """Return the search trials with the columns that statistics take as ``searches``.

    The frame is empty if there are too many trials.
    """
    rows = (
        pd.DataFrame(columns=COLUMNS["searches"])
        if report.searches is None
        else report.searches
    )
    parsed = rows["hyperparameters"].map(
        lambda text: json.loads(text, parse_constant=str)
    )
    rows = rows.assign(
        hyperparameters=parsed.astype(object), score=rows["score"].astype("float64")
    )
    return rows.sort_values(["task", "method", "number"], kind="stable").reset_index(
        drop=True
    )


def _importance(searches: pd.DataFrame) -> list[dict[str, Any]]:
    scored = searches[searches["score"].notna()]
    found = (
        get_statistic("importance").compute(scored).reset_index()
        if len(scored)
        else pd.DataFrame()
    )
    rows = [
        {str(name): _plain(value) for name, value in row.items()}
        for row in found.to_dict("records")
    ]
    return sorted(
        rows, key=lambda row: (row["method"], -row["value"], row["hyperparameter"])
    )


def _effects(effects: Effects) -> dict[str, Any]:
    def ratio(found: Ratio) -> dict[str, float | None]:
        return {name: _plain(value) for name, value in found._asdict().items()}

    main: dict[str, Any] = {}
    for each in effects.comparisons:
        if not each.given and len(each.changed) == 1:
            ((factor, level),) = each.changed.items()
            found = main.setdefault(
                factor, {"baseline": effects.factors[factor][0], "comparisons": []}
            )
            tasks = {task: ratio(on_task) for task, on_task in each.tasks.items()}
            found["comparisons"].append(
                {"level": level, "ratio": ratio(each.ratio), "tasks": tasks}
            )
    tables = [
        {"title": name, "rows": rows}
        for name, rows, _ in effects_sections(effects, full=True)
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
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return value if digits is None else float(f"{value:.{digits}g}")
    return value


def _hyperparameters(texts: Iterable[str]) -> dict[str, Any]:
    """Return the hyper-parameters of all records, the common ones apart."""
    distinct = list(dict.fromkeys(texts := list(texts)))
    values = [json.loads(text, parse_constant=str) for text in distinct]
    names = sorted({name for each in values for name in each})
    same = [
        name
        for name in names
        if all(name in each and each[name] == values[0][name] for each in values)
    ]
    common = {name: values[0][name] for name in same}
    places = {text: index for index, text in enumerate(distinct)}
    return {
        "common": common,
        "sets": [
            {name: each[name] for name in names if name in each and name not in common}
            for each in values
        ],
        "of": [places[text] for text in texts],
    }


def _curves(rows: pd.DataFrame) -> dict[str, dict[str, dict[str, list[Any]]]]:
    found: dict[str, dict[str, dict[str, list[Any]]]] = {}
    names = ("epoch", "loss", "distance", "validation")
    ordered = rows.sort_values(["trial_key", "stage", "epoch"], kind="stable")
    columns = [
        ordered[name].tolist()
        for name in ("epoch", "loss", "distance", "validation_score")
    ]
    trials = zip(ordered["trial_key"].tolist(), ordered["stage"].tolist(), strict=True)
    points = zip(trials, zip(*columns, strict=True), strict=True)
    for (key, stage), group in itertools.groupby(points, key=itemgetter(0)):
        own = [point for _, point in group]
        step = -(-len(own) // MAX_EPOCHS)
        kept = [
            own[place] for place in sorted({*range(0, len(own), step), len(own) - 1})
        ]
        series = {
            name: [_plain(value, 6) for value in values]
            for name, values in zip(names, zip(*kept, strict=True), strict=True)
        }
        present = {
            name: values
            for name, values in series.items()
            if any(value is not None for value in values)
        }
        found.setdefault(str(key), {})[str(stage)] = present
    return found


def _cell(cell: BoardCell) -> tuple[dict[str, float], dict[str, Any]]:
    provenance = cell.provenance
    return {
        name: value
        for name, value in asdict(cell.cost).items()
        if not math.isnan(value)
    }, {
        "statuses": {
            status.value: count
            for status, count in provenance.statuses.items()
            if count
        },
        "attempts": provenance.attempts,
        "device_hours": {
            device: float(f"{hours:.4g}")
            for device, hours in provenance.device_hours.items()
        },
    }


def _published(published: Published, benchmark: str) -> dict[str, Any]:
    return {
        "beside": published.beside and _published_table(published.beside, benchmark),
        "tables": [_published_table(table, benchmark) for table in published.tables],
        "reasons": dict(published.reasons),
        "notes": list(published.notes),
        "sources": published.sources,
    }


def _published_table(table: PublishedTable, benchmark: str) -> dict[str, Any]:
    shown = ("text", "score", "std", "kind", "flag", "source", "note", "direction")
    methods = []
    for each in table.to_dict()["methods"]:
        published = {
            task: cell for task, cell in each["cells"].items() if cell["kind"] != OWN
        }
        cells = {
            task: {name: cell[name] for name in shown}
            for task, cell in published.items()
        }
        methods.append(
            {"name": each["name"], "rank": each["mean_rank"], "cells": cells}
        )
    columns = [
        asdict(column)
        | {
            "label": column.task.removeprefix(f"{benchmark}/"),
            "best": table.best(column),
        }
        for column in table.columns
    ]
    return {"title": table.title, "columns": columns, "methods": methods}
