"""One JSON document, in full precision."""

import json
from dataclasses import asdict
from typing import Any

import pandas as pd

from orca_ray.leaderboard.board import BoardCell
from orca_ray.leaderboard.effects import Effects
from orca_ray.leaderboard.format import KIND, VERSION, BoardReport, Format, score_rows
from orca_ray.leaderboard.statistics import get_statistic, on_boards
from orca_ray.leaderboard.statistics.paired import Comparison, QuestionAnswer
from orca_ray.results.record import Status


def _render(report: BoardReport) -> str:
    board = report.board
    tasks = []
    methods = []
    for task, info in board.infos.items():
        scores = {
            method: board.score(task, method)._asdict() for method in report.methods
        }
        tied = [method for method in report.methods if (task, method) in report.tied]
        tasks.append(
            {**asdict(info), "best": board.best(task), "tied": tied, "scores": scores}
        )
    for method in report.methods:
        values = {
            name: report.statistic(name).loc[method].to_dict() for name in on_boards()
        }
        statuses = {status.value: board.count(method, status) for status in Status}
        methods.append(
            {
                "name": method,
                **values,
                "tied_with_first": method in report.tied_first,
                "statuses": statuses,
            }
        )
    document = {
        "kind": KIND,
        "version": VERSION,
        **{
            key: getattr(board, key)
            for key in ("benchmark", "sweep", "protocol", "seeds")
        },
        "tasks": tasks,
        "methods": methods,
        "statistics": {
            name: _statistic(name, values)
            for name, values in report.statistics("method", "pair").items()
        },
        "answers": [_answer(each) for each in report.answers],
        "common_tasks": report.common_tasks,
        "left_out": report.left_out,
        **{key: getattr(board, key) for key in ("notes", "warnings")},
        "others": [other._asdict() for other in board.others],
        "cells": [
            _cell(cell) | dict(report.read_facts(cell)) for cell in board.cells.values()
        ],
        "scores": score_rows(board),
        "published": report.published and report.published.to_dict(),
    }
    return _dump(document)


def _statistic(name: str, values: pd.DataFrame) -> dict[str, Any]:
    entry = get_statistic(name)
    about = {key: getattr(entry, key) for key in ("title", "shape", "better")}
    return {**about, "values": values.reset_index().to_dict("records")}


def _answer(answer: QuestionAnswer) -> dict[str, Any]:
    named = {
        key: getattr(answer, key)
        for key in ("name", "question", "subject", "answer", "sentence")
    }
    ratio = {
        key: float(f"{value:.10g}")
        for key, value in answer.comparison.ratio._asdict().items()
    }
    return {**named, "ratio": ratio}


def _cell(cell: BoardCell) -> dict[str, Any]:
    provenance = asdict(cell.provenance)
    times = {
        name: provenance[name] and provenance[name].isoformat()
        for name in ("started_at", "finished_at")
    }
    statuses = {
        status.value: count for status, count in cell.provenance.statuses.items()
    }
    named = {
        "task": cell.task,
        "method": cell.method,
        "trial_keys": dict(cell.trial_keys),
    }
    return {
        **named,
        "cost": asdict(cell.cost),
        "provenance": {**provenance, **times, "statuses": statuses},
    }


def _json_effects(effects: Effects) -> str:
    def compared(each: Comparison) -> dict[str, object]:
        tasks = {task: ratio._asdict() for task, ratio in each.tasks.items()}
        numbers = {
            "better": each.better,
            "worse": each.worse,
            "pairs": each.pairs,
            "planned": each.planned,
        }
        sides = {"levels": each.levels, "reference": each.reference}
        return {**sides, "ratio": each.ratio._asdict(), **numbers, "tasks": tasks}

    cells = [
        {
            "levels": cell,
            "scores": {
                task: effects.scores[task, index]._asdict() for task in effects.metrics
            },
        }
        for index, cell in enumerate(effects.cells)
    ]
    document = {
        **{
            key: getattr(effects, key)
            for key in ("benchmark", "sweep", "protocol", "seeds", "factors", "metrics")
        },
        "effects": [compared(each) for each in effects.comparisons],
        "cells": cells,
        "statuses": {status.value: count for status, count in effects.statuses.items()},
        "notes": effects.notes,
    }
    return _dump(document)


def _dump(document: object) -> str:
    """Return a document as JSON, which has no NaN: those become null."""
    finite = json.loads(json.dumps(document), parse_constant=lambda _: None)
    return json.dumps(finite, indent=2, ensure_ascii=False, allow_nan=False)


FORMAT = Format("json", ".json", _render, _json_effects)
