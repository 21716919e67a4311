"""One JSON document, in full precision."""

import json
from dataclasses import asdict
from typing import Any

import pandas as pd

from orca_ray.leaderboard.board import BoardCell, TaskInfo
from orca_ray.leaderboard.effects import Effects
from orca_ray.leaderboard.format import KIND, VERSION, BoardReport, Format, score_rows
from orca_ray.leaderboard.statistics import get_statistic, on_boards
from orca_ray.leaderboard.statistics.paired import Comparison
from orca_ray.leaderboard.statistics.questions import QuestionAnswer
from orca_ray.results.record import Status


def _render(report: BoardReport) -> str:
    """Return the JSON document of a board, with all that a board holds."""
    board = report.board
    statistics = report.statistics("method", "pair") | report.curve_statistics
    cells = [
        _cell(cell) | dict(report.read_facts(cell)) for cell in board.cells.values()
    ]
    document = {
        "kind": KIND,
        "version": VERSION,
        "benchmark": board.benchmark,
        "sweep": board.sweep,
        "protocol": board.protocol,
        "seeds": board.seeds,
        "tasks": [_task(report, info) for info in board.infos.values()],
        "methods": [_method(report, method) for method in report.methods],
        "statistics": {
            name: _statistic(name, values) for name, values in statistics.items()
        },
        "trainings": [asdict(training) for training in report.trainings],
        "answers": [_answer(answer) for answer in report.answers],
        "common_tasks": report.common_tasks,
        "left_out": report.left_out,
        "notes": board.notes,
        "warnings": board.warnings,
        "others": [other._asdict() for other in board.others],
        "cells": cells,
        "scores": score_rows(board),
        "published": report.published.to_dict() if report.published else None,
    }
    return _dump(document)


def _task(report: BoardReport, info: TaskInfo) -> dict[str, Any]:
    """Return a task with its best methods, those tied with them, and all scores."""
    board = report.board
    tied = [method for method in report.methods if (info.name, method) in report.tied]
    scores = {
        method: board.score(info.name, method)._asdict() for method in report.methods
    }
    return {
        **asdict(info),
        "best": board.best(info.name),
        "tied": tied,
        "scores": scores,
    }


def _method(report: BoardReport, method: str) -> dict[str, Any]:
    """Return a method with the statistics of `on_boards` and its trials by status."""
    statistics = {
        name: report.statistic(name).loc[method].to_dict() for name in on_boards()
    }
    statuses = {status.value: report.board.count(method, status) for status in Status}
    return {
        "name": method,
        **statistics,
        "tied_with_first": method in report.tied_first,
        "statuses": statuses,
    }


def _statistic(name: str, values: pd.DataFrame) -> dict[str, Any]:
    statistic = get_statistic(name)
    return {
        "title": statistic.title,
        "shape": statistic.shape,
        "better": statistic.better,
        "values": values.reset_index().to_dict("records"),
    }


def _answer(answer: QuestionAnswer) -> dict[str, Any]:
    """Return an answer with its ratio, whose numbers have ten digits."""
    ratio = answer.comparison.ratio._asdict()
    return {
        "name": answer.name,
        "question": answer.question,
        "subject": answer.subject,
        "answer": answer.answer,
        "sentence": answer.sentence,
        "ratio": {name: float(f"{value:.10g}") for name, value in ratio.items()},
    }


def _cell(cell: BoardCell) -> dict[str, Any]:
    """Return a cell without its score as JSON types: times and statuses become text."""
    provenance = asdict(cell.provenance)
    for name in ("started_at", "finished_at"):
        if provenance[name] is not None:
            provenance[name] = provenance[name].isoformat()
    provenance["statuses"] = {
        status.value: count for status, count in cell.provenance.statuses.items()
    }
    return {
        "task": cell.task,
        "method": cell.method,
        "trial_keys": dict(cell.trial_keys),
        "cost": asdict(cell.cost),
        "provenance": provenance,
    }


def _render_effects(effects: Effects) -> str:
    """Return the JSON document of the effects of a grid's factors."""
    document = {
        "benchmark": effects.benchmark,
        "sweep": effects.sweep,
        "protocol": effects.protocol,
        "seeds": effects.seeds,
        "factors": effects.factors,
        "metrics": effects.metrics,
        "effects": [_comparison(comparison) for comparison in effects.comparisons],
        "cells": [_effects_cell(effects, index) for index in range(len(effects.cells))],
        "statuses": {status.value: count for status, count in effects.statuses.items()},
        "notes": effects.notes,
    }
    return _dump(document)


def _comparison(comparison: Comparison) -> dict[str, object]:
    """Return the comparison of levels with a reference as JSON types."""
    return {
        "levels": comparison.levels,
        "reference": comparison.reference,
        "ratio": comparison.ratio._asdict(),
        "better": comparison.better,
        "worse": comparison.worse,
        "pairs": comparison.pairs,
        "planned": comparison.planned,
        "tasks": {task: ratio._asdict() for task, ratio in comparison.tasks.items()},
    }


def _effects_cell(effects: Effects, index: int) -> dict[str, object]:
    scores = {task: effects.scores[task, index]._asdict() for task in effects.metrics}
    return {"levels": effects.cells[index], "scores": scores}


def _dump(document: object) -> str:
    """Return a document as JSON text, with null for NaN and infinity."""
    finite = json.loads(json.dumps(document), parse_constant=lambda _: None)
    return json.dumps(finite, indent=2, ensure_ascii=False, allow_nan=False)


FORMAT = Format("json", ".json", _render, _render_effects)
