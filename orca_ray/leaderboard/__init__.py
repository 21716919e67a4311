"""Leaderboards, computed from the records in a results store.

Neither torch nor ray is imported.
"""

from orca_ray.leaderboard.board import (
    Board,
    BoardCell,
    Other,
    Provenance,
    Score,
    TaskInfo,
    TrialCost,
    empty_board,
)
from orca_ray.leaderboard.effects import EffectGrid, Effects, build_effects
from orca_ray.leaderboard.format import BoardReport, Format, all_formats, render, subset
from orca_ray.leaderboard.selection import build
from orca_ray.leaderboard.statistics import Statistic, all_statistics, get_statistic

__all__ = [
    "Board",
    "BoardCell",
    "BoardReport",
    "EffectGrid",
    "Effects",
    "Format",
    "Other",
    "Provenance",
    "Score",
    "Statistic",
    "TaskInfo",
    "TrialCost",
    "all_formats",
    "all_statistics",
    "build",
    "build_effects",
    "empty_board",
    "get_statistic",
    "render",
    "subset",
]
