"""Statistics by their registered names, against the contract in `Statistic`'s docstring."""

import pytest

from orca_ray.errors import UserError
from orca_ray.leaderboard.statistics.statistic import Statistic, all_statistics, get_statistic
from orca_ray.testing import StatisticSuite

SAMPLE = ("bradley_terry", "mean_rank", "verdict")


class TestSomeStatistics(StatisticSuite):
    names = SAMPLE


@pytest.mark.exhaustive
class TestEveryStatistic(StatisticSuite):
    names = sorted({*all_statistics()} - {*SAMPLE})


def test_names() -> None:
    assert {"mean_rank", "win_rate", "wins"} <= set(all_statistics())
    with pytest.raises(UserError, match="Did you mean 'mean_rank'"):
        get_statistic("mean_rang")


def test_a_name_is_taken_once() -> None:
    from orca_ray.discovery import declared
    from orca_ray.leaderboard.statistics import mean_rank, wins

    with pytest.raises(ValueError, match="two modules declare the statistic 'wins'"):
        declared(Statistic, "STATISTIC", [mean_rank, wins, wins])
