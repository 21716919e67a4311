"""Leaderboards, computed from the records in a results store; imports neither torch nor ray."""

from orca_ray.leaderboard.effects import Effects, Grid, build_effects
from orca_ray.leaderboard.format import Format, all_formats, render, render_effects
from orca_ray.leaderboard.leaderboard import STATISTICS, Leaderboard, Other, Score, Statistic, build, statistic

__all__ = [
    "STATISTICS",
    "Effects",
    "Format",
    "Grid",
    "Leaderboard",
    "Other",
    "Score",
    "Statistic",
    "all_formats",
    "build",
    "build_effects",
    "render",
    "render_effects",
    "statistic",
]
