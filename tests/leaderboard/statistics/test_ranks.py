import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from orca_ray.leaderboard.statistics import ScoreTable, get_statistic
from orca_ray.testing.tables import random_table, table

BY_HAND = table(
    {
        "a": {"x": [0.1, 0.3], "y": [0.3, 0.3], "z": [0.4, 0.4]},
        "b": {"x": [0.5, 0.5], "y": [0.2, 0.2], "z": [0.5, 0.5]},
        "c": {"x": [0.1, 0.1], "y": [0.1, 0.1], "z": [0.2, 0.2]},
        "d": {"x": [0.1, 0.1], "y": [0.0, 0.0]},
    }
)


def values(name: str, scores: pd.DataFrame) -> dict[object, float]:
    return get_statistic(name).compute(scores)["value"].to_dict()


def test_by_hand() -> None:
    """Ranks are 1, 2, 3 on a, 2.5, 1, 2.5 on b and 1.5, 1.5, 3 on c; d has no score of z."""
    assert values("mean_rank", BY_HAND) == pytest.approx({"x": 5 / 3, "y": 4.5 / 3, "z": 8.5 / 3})
    assert values("wins", BY_HAND) == pytest.approx({"x": 1.5, "y": 1.5, "z": 0})
    rates = {("x", "y"): 0.5, ("x", "z"): 2.5 / 3, ("y", "z"): 1.0}
    assert values("win_rate", BY_HAND) == pytest.approx(rates | {(b, a): 1 - rate for (a, b), rate in rates.items()})
    for name in ("mean_rank", "wins", "win_rate"):
        assert set(get_statistic(name).compute(BY_HAND)["num_tasks"]) == {3}
    assert get_statistic("wins").compute(BY_HAND)["ties"].to_dict() == {"x": 1, "y": 1, "z": 0}


def test_mean_rank_against_scipy() -> None:
    scores = random_table(20, 6, 2)
    scores["score"] = scores["score"].round(1)
    means = scores.groupby(["task", "method"])["score"].mean().unstack()
    expected = scipy.stats.rankdata(means, axis=1).mean(axis=0)
    np.testing.assert_allclose(get_statistic("mean_rank").compute(scores)["value"], expected)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.floats(0, 1, width=16), min_size=3, max_size=3), min_size=1, max_size=6))
def test_identities(scores: list[list[float]]) -> None:
    rows = table({f"t{number}": dict(zip("abc", row, strict=True)) for number, row in enumerate(scores)})
    assert sum(values("wins", rows).values()) == pytest.approx(len(scores))
    assert sum(values("mean_rank", rows).values()) == pytest.approx(6.0)


def test_scores_are_packed_in_the_order_of_seeds() -> None:
    rows = pd.DataFrame([("t", "b", 7, 0.5), ("t", "a", 9, 0.2), ("t", "a", 3, 0.1)])
    found = ScoreTable.of(rows.set_axis(["task", "method", "seed", "score"], axis=1))
    assert found.methods == ("a", "b")
    np.testing.assert_array_equal(found.scores_TMS, [[[0.1, 0.2], [0.5, np.nan]]])
    assert found.num_seeds_TM.tolist() == [[2, 1]]
    with pytest.raises(ValueError, match="one score for each task, method and seed"):
        ScoreTable.of(pd.concat([BY_HAND, BY_HAND[:1]]))
    with pytest.raises(ValueError, match="finite"):
        ScoreTable.of(BY_HAND.assign(score=np.inf))
