"""One JSON document, in full precision."""

from orca_ray.leaderboard.effects import Comparison, Effects
from orca_ray.leaderboard.format import Format
from orca_ray.leaderboard.leaderboard import STATISTICS, Leaderboard
from orca_ray.leaderboard.text import dump_json
from orca_ray.results.record import Status


def _render(board: Leaderboard) -> str:
    tasks = [
        {
            "name": task,
            "metric": board.metrics[task],
            "best": board.best(task),
            "scores": {method: board.score(task, method)._asdict() for method in board.methods},
        }
        for task in board.tasks
    ]
    methods = [
        {
            "name": method,
            **{name: board.statistic(method, name) for name in STATISTICS},
            "statuses": {status.value: board.count(method, status) for status in Status},
        }
        for method in board.methods
    ]
    document = {
        **{key: getattr(board, key) for key in ("benchmark", "sweep", "protocol", "seeds")},
        "tasks": tasks,
        "methods": methods,
        **{key: getattr(board, key) for key in ("common_tasks", "notes")},
        "others": [other._asdict() for other in board.others],
    }
    return dump_json(document)


def _json_effects(effects: Effects) -> str:
    def compared(each: Comparison) -> dict[str, object]:
        tasks = {task: ratio._asdict() for task, ratio in each.tasks.items()}
        numbers = {"better": each.better, "worse": each.worse, "pairs": each.pairs, "planned": each.planned}
        sides = {"levels": each.levels, "reference": each.reference}
        return {**sides, "ratio": each.ratio._asdict(), **numbers, "tasks": tasks}

    cells = [
        {"levels": cell, "scores": {task: effects.scores[task, index]._asdict() for task in effects.metrics}}
        for index, cell in enumerate(effects.cells)
    ]
    document = {
        **{key: getattr(effects, key) for key in ("benchmark", "sweep", "protocol", "seeds", "factors", "metrics")},
        "effects": [compared(each) for each in effects.comparisons],
        "cells": cells,
        "statuses": {status.value: count for status, count in effects.statuses.items()},
        "notes": effects.notes,
    }
    return dump_json(document)


FORMAT = Format("json", ".json", _render, _json_effects)
