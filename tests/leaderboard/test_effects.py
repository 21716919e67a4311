import json
import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from orca_ray.errors import UserError
from orca_ray.leaderboard import (
    BoardReport,
    EffectGrid,
    Effects,
    all_formats,
    build_effects,
    empty_board,
    render,
)
from orca_ray.leaderboard.statistics.paired import Comparison, Levels
from orca_ray.results.record import Status
from tests.leaderboard.test_leaderboard import Run, frame

SEEDS = [1, 2]
NAMES = {"start": "embedder.initialisation", "aligning": "align.distance"}
Cell = tuple[Mapping[str, str], Mapping[str, object]]
CELLS: list[Cell] = [
    (
        {"start": start, "aligning": aligning},
        {NAMES["start"]: start, NAMES["aligning"]: aligning},
    )
    for start, aligning in product(["random", "body"], ["none", "l2"])
]


def render_effects(found: Effects, format: str = "table") -> str:
    return str(render(BoardReport(empty_board("pocket"), effects=found), format))


def grid(*tasks: str, cells: Sequence[Cell] = CELLS) -> EffectGrid:
    return EffectGrid({(f"pocket/{task}", "orca"): cells for task in tasks}, SEEDS)


def cell(
    task: str, start: str, aligning: str, *scores: float | None, **changes: Any
) -> list[Run]:
    """Return one run per seed of `SEEDS`; None makes a failed one."""
    values = {NAMES["start"]: start, NAMES["aligning"]: aligning, "refine.epochs": 8}
    common = {
        "task": f"pocket/{task}",
        "sweep": "study/full",
        "hyperparameters": json.dumps(values),
        **changes,
    }
    return [
        {
            **common,
            "seed": seed,
            "test_score": score,
            **({"status": Status.FAILED_OOM} if score is None else {}),
        }
        for seed, score in zip(SEEDS, scores, strict=False)
    ]


def effects(*runs: list[Run], of: EffectGrid) -> Effects:
    records = frame(*(each for some in runs for each in some))
    return build_effects(records, of, benchmark="pocket", sweep="study/full")


ALIGNED = {"aligning": "l2"}
NOT_ALIGNED = {"aligning": "none"}


def compared(
    found: Effects, levels: Levels = ALIGNED, reference: Levels = NOT_ALIGNED
) -> Comparison:
    """Return a comparison, by default that of aligned cells with others."""
    comparison = found.find(levels, reference)
    assert comparison is not None
    return comparison


def square(
    task: str, none: float, l2: float, body: float, both: float, noise: float = 1.0
) -> list[Run]:
    """Return the runs of four cells whose mean scores over the two seeds are given."""
    found: list[Run] = []
    for (levels, _), mean in zip(CELLS, (none, l2, body, both), strict=True):
        found += cell(
            task,
            levels["start"],
            levels["aligning"],
            mean / noise,
            mean * (2 - 1 / noise),
        )
    return found


class TestRatios:
    def test_by_hand(self) -> None:
        found = effects(
            square("a", 0.4, 0.2, 0.1, 0.1),
            square("b", 0.3, 0.3, 0.3, 0.15),
            of=grid("a", "b"),
        )
        aligning = compared(found)
        values = [
            aligning.tasks["pocket/a"].value,
            aligning.tasks["pocket/b"].value,
            aligning.ratio.value,
        ]
        assert values == pytest.approx(
            [math.sqrt(0.5 * 1.0), math.sqrt(1.0 * 0.5), math.sqrt(0.5)]
        )
        assert (aligning.pairs, aligning.planned) == (8, 8)
        from_random = compared(
            found,
            {"aligning": "l2", "start": "random"},
            {"aligning": "none", "start": "random"},
        )
        assert from_random.ratio.value == pytest.approx(math.sqrt(0.5 * 1.0))
        assert (from_random.given, from_random.changed) == (
            {"start": "random"},
            {"aligning": "l2"},
        )
        both = compared(
            found,
            {"start": "body", "aligning": "l2"},
            {"start": "random", "aligning": "none"},
        )
        assert both.ratio.value == pytest.approx(math.sqrt(0.25 * 0.5))

    @pytest.mark.parametrize(
        ("none", "l2", "ratio"),
        [
            (
                (0.1, 0.3),
                (0.2, 0.1),
                0.15 / 0.2,
            ),  # the mean over seeds comes before the ratio
            (
                (0.08, 0.02),
                (0.0, 0.0),
                0.01 / 0.05,
            ),  # a mean of zero counts as half of the smallest score
            ((0.0, 0.0), (0.0, 0.0), 1.0),
            ((0.1, 0.3), (0.2, None), 0.2 / 0.1),  # only seeds of both are paired
        ],
    )
    def test_seeds(
        self, none: tuple[float, float], l2: tuple[float, float | None], ratio: float
    ) -> None:
        found = effects(
            cell("a", "random", "none", *none),
            cell("a", "random", "l2", *l2),
            of=grid("a", "b"),
        )
        aligning = compared(found)
        assert aligning.ratio.value == pytest.approx(ratio)
        assert list(aligning.tasks) == ["pocket/a"]
        num = 2 - l2.count(None)
        assert (aligning.pairs, aligning.planned) == (num, 8)
        cells = (("pocket/a", 1), ("pocket/a", 3), ("pocket/b", 0))
        assert [found.scores[each].n for each in cells] == [num, 0, 0]
        assert found.statuses[Status.FAILED_OOM] == 2 - num
        text = render_effects(found)
        assert f"scores: {2 + num} found, {14 - num} missing" in text
        assert f"{num}/8" in text

    def test_cells_that_share_their_trials_are_no_pair(self) -> None:
        shared: list[Cell] = [
            (levels, {**values, NAMES["aligning"]: None}) for levels, values in CELLS
        ]
        both = EffectGrid({**grid("a").cells, ("pocket/a", "nft"): shared}, SEEDS)
        nft = json.dumps({NAMES["start"]: "random"})
        runs = cell("a", "random", "none", 0.3, 0.3, method="nft", hyperparameters=nft)
        found = effects(square("a", 0.4, 0.2, 0.2, 0.1), runs, of=both)
        assert list(found.factors) == ["method", "start", "aligning"]
        aligning = compared(found)
        assert (aligning.pairs, aligning.planned) == (4, 4)
        method = compared(
            found,
            {"method": "nft", "aligning": "l2"},
            {"method": "orca", "aligning": "l2"},
        )
        assert method.ratio.value == pytest.approx(0.3 / 0.2)

    def test_factors_that_are_not_fully_crossed(self) -> None:
        found = effects(square("a", 0.4, 0.2, 0.1, 0.1), of=grid("a", cells=CELLS[:3]))
        aligning = compared(found)
        assert (aligning.ratio.value, aligning.planned) == pytest.approx((0.5, 2))
        assert (
            found.find(
                {"aligning": "l2", "start": "body"},
                {"aligning": "none", "start": "body"},
            )
            is None
        )
        assert found.notes == ["2 trial(s) that are not in the grid left out"]


class TestIntervals:
    def test_tasks_beyond_noise(self) -> None:
        """All deviations over seeds are 0.01 in logarithms.

        A mean of two seeds then has half a variance of 1e-4.
        """
        scores = {"a": 0.7, "b": 1.0, "c": 1.5, "d": 0.97}
        runs = [
            cell(
                task,
                "random",
                aligning,
                *(mean * math.exp(sign * 0.01 / math.sqrt(2)) for sign in (-1, 1)),
            )
            for task, factor in scores.items()
            for aligning, mean in (("none", 0.2), ("l2", 0.2 * factor))
        ]
        found = compared(effects(*runs, of=grid(*scores, cells=CELLS[:2])))
        assert (found.better, found.worse) == (1, 1)
        # Two cells of two seeds have 2 degrees of freedom; over four tasks these are 8.
        width, over_all = (
            math.exp(0.01 * scipy.stats.t.ppf(0.975, num) / math.sqrt(num / 2))
            for num in (2, 8)
        )
        assert found.tasks["pocket/a"][:3] == pytest.approx(
            (0.7, 0.7 / width, 0.7 * width), rel=1e-5
        )
        mean = math.prod(scores.values()) ** (1 / 4)
        assert found.ratio[:3] == pytest.approx(
            (mean, mean / over_all, mean * over_all), rel=1e-5
        )

    def test_an_interval_over_tasks_needs_scores_on_five(self) -> None:
        begun = [square(task, 0.4, 0.2, 0.2, 0.1) for task in "abcd"]
        plan = grid(*"abcde")
        found = compared(effects(*begun, of=plan))
        assert found.ratio == pytest.approx(
            (0.5, math.nan, math.nan, math.nan), nan_ok=True
        )
        assert (found.better, found.worse) == (4, 0)
        whole = compared(
            effects(*begun, square("e", 0.4, 0.4, 0.2, 0.2), of=plan)
        ).ratio
        logs = np.log([0.5, 0.5, 0.5, 0.5, 1.0])
        ends = scipy.stats.ttest_1samp(logs, 0).confidence_interval()
        assert whole == pytest.approx(
            (0.5**0.8, *np.exp(ends), scipy.stats.ttest_1samp(logs, 0).pvalue)
        )


class TestWhichRecords:
    def test_other_sweeps_configurations_and_search_trials_do_not_count_and_more_seeds_do(
        self,
    ) -> None:
        runs = (
            square("a", 0.4, 0.2, 0.2, 0.1),
            cell("a", "random", "l2", 0.9, sweep="other/full"),
            cell("a", "random", "l2", 0.9, phase="search"),
            cell("a", "random", "mmd", 0.9, 0.9),
            [{**each, "seed": 7} for each in square("a", 0.4, 0.2, 0.2, 0.1)[::2]],
        )
        found = effects(*runs, of=grid("a"))
        assert found.scores["pocket/a", 1].mean == pytest.approx(0.2)
        assert found.notes == ["2 trial(s) that are not in the grid left out"]
        assert found.seeds == [1, 2, 7]
        assert found.scores["pocket/a", 0].n == 3

    def test_an_empty_source_stands_for_the_one_that_the_sweep_took(self) -> None:
        cells: list[Cell] = [
            ({"source": name}, {"align.source": value})
            for name, value in (("own", ""), ("b", "b"))
        ]
        runs = [
            {**run, "hyperparameters": json.dumps({"align.source": source})}
            for source, score in (("paper", 0.4), ("b", 0.2))
            for run in cell("a", "body", "l2", score, score)
        ]
        found = effects(runs, of=grid("a", cells=cells))
        assert found.notes == []
        assert [
            found.scores["pocket/a", index].mean for index in (0, 1)
        ] == pytest.approx([0.4, 0.2])
        source = compared(found, {"source": "b"}, {"source": "own"})
        assert (source.ratio.value, source.pairs) == pytest.approx((0.5, 2))

    def test_names_that_are_not_there(self) -> None:
        records = frame(*square("a", 0.4, 0.2, 0.2, 0.1))
        with pytest.raises(UserError, match="Did you mean 'study/full'"):
            build_effects(records, grid("a"), benchmark="pocket", sweep="study/fill")
        both = pd.concat([records, records.assign(protocol="paper")])
        with pytest.raises(UserError, match="give --protocol held-out or paper"):
            build_effects(both, grid("a"), benchmark="pocket", sweep="study/full")
        found = build_effects(
            both, grid("a"), benchmark="pocket", sweep="study/full", protocol="paper"
        )
        assert found.scores["pocket/a", 0].n == 2


@pytest.mark.parametrize(
    "format",
    [name for name, each in all_formats().items() if each.effects and name != "html"],
)
def test_a_study_that_has_only_begun(format: str) -> None:
    text = render_effects(
        effects(cell("a", "random", "none", None), of=grid("a", "b")), format
    )
    assert "nan" not in text.replace("failed_nan", "").lower()
    assert text == text.rstrip("\n")
