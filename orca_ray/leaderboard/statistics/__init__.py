"""Statistics of a leaderboard, each a pure function of plain tables; one module declares one ``STATISTIC``."""

from orca_ray.leaderboard.statistics.statistic import Statistic, all_statistics, compute_all, get_statistic
from orca_ray.leaderboard.statistics.table import ScoreTable

__all__ = ["ScoreTable", "Statistic", "all_statistics", "compute_all", "get_statistic"]
