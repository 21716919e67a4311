"""Leaderboards, computed from the records in a results store; imports neither torch nor ray."""

from orca_ray.leaderboard.effects import Effects, Grid, build_effects
from orca_ray.leaderboard.leaderboard import STATISTICS, Leaderboard, Other, Score, Statistic, build, statistic
from orca_ray.leaderboard.render import FORMATS, render
from orca_ray.leaderboard.render_effects import EFFECT_FORMATS, render_effects

__all__ = [
    "EFFECT_FORMATS",
    "FORMATS",
    "STATISTICS",
    "Effects",
    "Grid",
    "Leaderboard",
    "Other",
    "Score",
    "Statistic",
    "build",
    "build_effects",
    "render",
    "render_effects",
    "statistic",
]
