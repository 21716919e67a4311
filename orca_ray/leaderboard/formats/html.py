"""The page: one HTML file that opens without a network."""

from dataclasses import replace

import pandas as pd

from orca_ray.leaderboard.board import TaskInfo, empty_board
from orca_ray.leaderboard.effects import Effects
from orca_ray.leaderboard.format import Format
from orca_ray.leaderboard.page import page_data, render
from orca_ray.leaderboard.report import Report
from orca_ray.results.record import CurvePoint, Record


def _render(report: Report) -> str:
    data = page_data(
        report.board,
        report.read_records() if report.read_records else _empty(Record),
        _empty(CurvePoint) if report.curves is None else report.curves,
        published=report.published,
        artefacts=report.read_artefacts and report.read_artefacts(),
        about=report.read_about and report.read_about(),
        reproduce=report.reproduce,
    )
    return render(data, refresh_seconds=report.refresh_seconds)


def _render_effects(effects: Effects) -> str:
    """Return a page without methods, whose first view is that of the effects."""
    infos = {task: TaskInfo(task, metric, 1, "") for task, metric in effects.metrics.items()}
    board = replace(
        empty_board(effects.benchmark),
        sweep=effects.sweep,
        protocol=effects.protocol,
        infos=infos,
        notes=tuple(effects.notes),
    )
    return render(page_data(board, _empty(Record), _empty(CurvePoint), effects=effects))


def _empty(kind: type[Record] | type[CurvePoint]) -> pd.DataFrame:
    return kind.SCHEMA.empty_table().to_pandas()  # type: ignore[no-any-return]


FORMAT = Format("html", ".html", _render, _render_effects)
