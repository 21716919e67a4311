"""Statistics by their registered names, against the contract in `Statistic`'s docstring."""

import pytest

from orca_ray.errors import UserError
from orca_ray.leaderboard.statistics.statistic import all_statistics, get_statistic
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
