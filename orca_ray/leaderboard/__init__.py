"""Leaderboards, computed from the records in a results store; imports neither torch nor ray."""

from orca_ray.leaderboard.board import Board, Cell, Cost, Other, Provenance, Score, TaskInfo, empty_board
from orca_ray.leaderboard.effects import Effects, Grid, build_effects
from orca_ray.leaderboard.leaderboard import STATISTICS, Statistic, statistic
from orca_ray.leaderboard.render import FORMATS, render
from orca_ray.leaderboard.render_effects import EFFECT_FORMATS, render_effects
from orca_ray.leaderboard.selection import build

__all__ = [
    "EFFECT_FORMATS",
    "FORMATS",
    "STATISTICS",
    "Board",
    "Cell",
    "Cost",
    "Effects",
    "Grid",
    "Other",
    "Provenance",
    "Score",
    "Statistic",
    "TaskInfo",
    "build",
    "build_effects",
    "empty_board",
    "render",
    "render_effects",
    "statistic",
]
