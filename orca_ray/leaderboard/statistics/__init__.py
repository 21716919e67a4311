"""Statistics of a leaderboard: pure functions of plain tables.

Modules declare them as ``STATISTIC`` or ``STATISTICS``. Rules that all of them keep:

- Scores are lower for better methods. Tasks have different units, so that only ranks,
  wins and ratios of scores are averaged over tasks; ratios are averaged geometrically.
- A missing score is never filled in or averaged over. A statistic of all methods uses
  the tasks on which every method has a score, one of a pair the tasks on which both
  have one; ``num_tasks`` says how many these were. A board ranks the methods with
  scores on at least half of the tasks, so that others take no task away from them.
- Intervals are 95 % intervals; `intervals` computes them. With fewer than five tasks
  they come from the noise over seeds, and hold for these tasks only.
"""

from orca_ray.leaderboard.statistics.table import (
    ScoreTable,
    Statistic,
    all_statistics,
    get_statistic,
    on_boards,
)

__all__ = ["ScoreTable", "Statistic", "all_statistics", "get_statistic", "on_boards"]
