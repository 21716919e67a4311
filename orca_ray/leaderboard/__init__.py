"""Leaderboards from the records of a results store; needs neither torch nor ray."""

from orca_ray.leaderboard.board import Board, Other, Score, build
from orca_ray.leaderboard.render import FORMATS, render
from orca_ray.leaderboard.statistics import STATISTICS, Statistic, statistic

__all__ = ["FORMATS", "STATISTICS", "Board", "Other", "Score", "Statistic", "build", "render", "statistic"]
