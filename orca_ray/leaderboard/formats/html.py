"""The page: one HTML file that opens without a network."""

from dataclasses import replace

from orca_ray.leaderboard.board import TaskInfo, empty_board
from orca_ray.leaderboard.effects import Effects
from orca_ray.leaderboard.format import BoardReport, Format
from orca_ray.leaderboard.page import page_data, render


def _render(report: BoardReport) -> str:
    return render(page_data(report), refresh_seconds=report.refresh_seconds)


def _render_effects(effects: Effects) -> str:
    """Return a page that shows the effects of a grid first, and no methods."""
    # The page of effects shows no versions of metrics and no fingerprints of data.
    infos = {
        task: TaskInfo(task, metric, metric_version=1, data_fingerprint="")
        for task, metric in effects.metrics.items()
    }
    board = replace(
        empty_board(effects.benchmark),
        sweep=effects.sweep,
        protocol=effects.protocol,
        infos=infos,
        notes=tuple(effects.notes),
    )
    return _render(BoardReport(board, effects=effects))


FORMAT = Format("html", ".html", _render, _render_effects)
