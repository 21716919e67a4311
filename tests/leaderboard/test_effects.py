"""Effects of the factors of a grid: ratios, intervals, and which records count."""

import itertools
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


def render_effects(effects: Effects, format: str = "table") -> str:
    return str(render(BoardReport(empty_board("pocket"), effects=effects), format))


def grid(*tasks: str, cells: Sequence[Cell] = CELLS) -> EffectGrid:
    return EffectGrid({(f"pocket/{task}", "orca"): cells for task in tasks}, SEEDS)


def cell(
    task: str, start: str, aligning: str, *scores: float | None, **changes: Any
) -> list[Run]:
    """Return one run per seed of `SEEDS`; None makes a failed one."""
    values = {NAMES["start"]: start, NAMES["aligning"]: aligning, "refine.epochs": 8}
    runs = []
    for seed, score in zip(SEEDS, scores, strict=False):
        run = {
            "task": f"pocket/{task}",
            "sweep": "study/full",
            "hyperparameters": json.dumps(values),
            "seed": seed,
            "test_score": score,
        }
        if score is None:
            run["status"] = Status.FAILED_OOM
        runs.append(run | changes)
    return runs


def effects(*cells: list[Run], of: EffectGrid) -> Effects:
    records = frame(*itertools.chain(*cells))
    return build_effects(records, of, benchmark="pocket", sweep="study/full")


ALIGNED = {"aligning": "l2"}
NOT_ALIGNED = {"aligning": "none"}


def compared(
    effects: Effects, levels: Levels = ALIGNED, reference: Levels = NOT_ALIGNED
) -> Comparison:
    """Return a comparison, by default that of aligned cells with others."""
    comparison = effects.find(levels, reference)
    assert comparison is not None
    return comparison


def square(
    task: str, none: float, l2: float, body: float, both: float, noise: float = 1.0
) -> list[Run]:
    """Return the runs of four cells whose mean scores over the two seeds are given."""
    runs: list[Run] = []
    for (levels, _), mean in zip(CELLS, (none, l2, body, both), strict=True):
        scores = (mean / noise, mean * (2 - 1 / noise))
        runs += cell(task, levels["start"], levels["aligning"], *scores)
    return runs


class TestRatios:
    def test_by_hand(self) -> None:
        study = effects(
            square("a", 0.4, 0.2, 0.1, 0.1),
            square("b", 0.3, 0.3, 0.3, 0.15),
            of=grid("a", "b"),
        )
        aligning = compared(study)
        on_a = math.sqrt(0.5 * 1.0)
        on_b = math.sqrt(1.0 * 0.5)
        assert aligning.tasks["pocket/a"].value == pytest.approx(on_a)
        assert aligning.tasks["pocket/b"].value == pytest.approx(on_b)
        assert aligning.ratio.value == pytest.approx(math.sqrt(0.5))
        assert (aligning.pairs, aligning.planned) == (8, 8)

        from_random = compared(
            study,
            {"aligning": "l2", "start": "random"},
            {"aligning": "none", "start": "random"},
        )
        assert from_random.ratio.value == pytest.approx(math.sqrt(0.5 * 1.0))
        assert from_random.given == {"start": "random"}
        assert from_random.changed == {"aligning": "l2"}

        both_changed = compared(
            study,
            {"start": "body", "aligning": "l2"},
            {"start": "random", "aligning": "none"},
        )
        assert both_changed.ratio.value == pytest.approx(math.sqrt(0.25 * 0.5))

    @pytest.mark.parametrize(
        ("none", "l2", "ratio"),
        [
            # The mean over seeds comes before the ratio.
            ((0.1, 0.3), (0.2, 0.1), 0.15 / 0.2),
            # A mean of zero counts as half of the smallest score.
            ((0.08, 0.02), (0.0, 0.0), 0.01 / 0.05),
            ((0.0, 0.0), (0.0, 0.0), 1.0),
            # Only seeds of both are paired.
            ((0.1, 0.3), (0.2, None), 0.2 / 0.1),
        ],
    )
    def test_scores_are_means_over_the_seeds_of_both_cells(
        self, none: tuple[float, float], l2: tuple[float, float | None], ratio: float
    ) -> None:
        study = effects(
            cell("a", "random", "none", *none),
            cell("a", "random", "l2", *l2),
            of=grid("a", "b"),
        )
        aligning = compared(study)
        num_pairs = 2 - l2.count(None)
        assert aligning.ratio.value == pytest.approx(ratio)
        assert list(aligning.tasks) == ["pocket/a"]
        assert (aligning.pairs, aligning.planned) == (num_pairs, 8)
        assert study.scores["pocket/a", 1].n == num_pairs
        assert study.scores["pocket/a", 3].n == 0
        assert study.scores["pocket/b", 0].n == 0
        assert study.statuses[Status.FAILED_OOM] == 2 - num_pairs
        text = render_effects(study)
        assert f"scores: {2 + num_pairs} found, {14 - num_pairs} missing" in text
        assert f"{num_pairs}/8" in text

    def test_cells_that_share_their_trials_are_no_pair(self) -> None:
        shared: list[Cell] = [
            (levels, {**values, NAMES["aligning"]: None}) for levels, values in CELLS
        ]
        cells = {**grid("a").cells, ("pocket/a", "nft"): shared}
        nft = json.dumps({NAMES["start"]: "random"})
        runs = cell("a", "random", "none", 0.3, 0.3, method="nft", hyperparameters=nft)
        study = effects(
            square("a", 0.4, 0.2, 0.2, 0.1), runs, of=EffectGrid(cells, SEEDS)
        )
        assert list(study.factors) == ["method", "start", "aligning"]
        aligning = compared(study)
        assert (aligning.pairs, aligning.planned) == (4, 4)
        method = compared(
            study,
            {"method": "nft", "aligning": "l2"},
            {"method": "orca", "aligning": "l2"},
        )
        assert method.ratio.value == pytest.approx(0.3 / 0.2)

    def test_factors_that_are_not_fully_crossed(self) -> None:
        study = effects(square("a", 0.4, 0.2, 0.1, 0.1), of=grid("a", cells=CELLS[:3]))
        aligning = compared(study)
        assert aligning.ratio.value == pytest.approx(0.5)
        assert aligning.planned == 2
        levels = {"aligning": "l2", "start": "body"}
        reference = {"aligning": "none", "start": "body"}
        assert study.find(levels, reference) is None
        assert study.notes == ["2 trial(s) that are not in the grid left out"]


class TestIntervals:
    def test_tasks_beyond_noise(self) -> None:
        # All deviations over seeds are 0.01 in logarithms. A mean of two seeds then has
        # half a variance of 1e-4.
        factors = {"a": 0.7, "b": 1.0, "c": 1.5, "d": 0.97}
        noise = math.exp(0.01 / math.sqrt(2))
        cells = []
        for task, factor in factors.items():
            for aligning, mean in (("none", 0.2), ("l2", 0.2 * factor)):
                cells.append(cell(task, "random", aligning, mean / noise, mean * noise))
        aligning_effect = compared(effects(*cells, of=grid(*factors, cells=CELLS[:2])))
        assert (aligning_effect.better, aligning_effect.worse) == (1, 1)

        # Two cells of two seeds have 2 degrees of freedom; over four tasks these are 8.
        width = math.exp(0.01 * scipy.stats.t.ppf(0.975, 2))
        on_a = aligning_effect.tasks["pocket/a"]
        assert on_a[:3] == pytest.approx((0.7, 0.7 / width, 0.7 * width), rel=1e-5)
        width = math.exp(0.01 * scipy.stats.t.ppf(0.975, 8) / 2)
        mean = math.prod(factors.values()) ** (1 / 4)
        assert aligning_effect.ratio[:3] == pytest.approx(
            (mean, mean / width, mean * width), rel=1e-5
        )

    def test_an_interval_over_tasks_needs_scores_on_five(self) -> None:
        begun = [square(task, 0.4, 0.2, 0.2, 0.1) for task in "abcd"]
        plan = grid(*"abcde")
        on_four = compared(effects(*begun, of=plan))
        assert on_four.ratio == pytest.approx(
            (0.5, math.nan, math.nan, math.nan), nan_ok=True
        )
        assert (on_four.better, on_four.worse) == (4, 0)

        on_five = compared(effects(*begun, square("e", 0.4, 0.4, 0.2, 0.2), of=plan))
        test = scipy.stats.ttest_1samp(np.log([0.5, 0.5, 0.5, 0.5, 1.0]), 0)
        ends = np.exp(test.confidence_interval())
        assert on_five.ratio == pytest.approx((0.5**0.8, *ends, test.pvalue))


class TestWhichRecords:
    def test_other_sweeps_configurations_and_search_trials_do_not_count(self) -> None:
        study = effects(
            square("a", 0.4, 0.2, 0.2, 0.1),
            cell("a", "random", "l2", 0.9, sweep="other/full"),
            cell("a", "random", "l2", 0.9, phase="search"),
            cell("a", "random", "mmd", 0.9, 0.9),
            of=grid("a"),
        )
        assert study.scores["pocket/a", 1].mean == pytest.approx(0.2)
        assert study.notes == ["2 trial(s) that are not in the grid left out"]

    def test_more_seeds_than_planned_count(self) -> None:
        planned = square("a", 0.4, 0.2, 0.2, 0.1)
        more = [{**run, "seed": 7} for run in planned[::2]]
        study = effects(planned, more, of=grid("a"))
        assert study.seeds == [1, 2, 7]
        assert study.scores["pocket/a", 0].n == 3

    def test_an_empty_source_stands_for_the_one_that_the_sweep_took(self) -> None:
        cells: list[Cell] = [
            ({"source": "own"}, {"align.source": ""}),
            ({"source": "b"}, {"align.source": "b"}),
        ]
        from_paper = json.dumps({"align.source": "paper"})
        from_b = json.dumps({"align.source": "b"})
        study = effects(
            cell("a", "body", "l2", 0.4, 0.4, hyperparameters=from_paper),
            cell("a", "body", "l2", 0.2, 0.2, hyperparameters=from_b),
            of=grid("a", cells=cells),
        )
        assert study.notes == []
        assert study.scores["pocket/a", 0].mean == pytest.approx(0.4)
        assert study.scores["pocket/a", 1].mean == pytest.approx(0.2)
        source = compared(study, {"source": "b"}, {"source": "own"})
        assert source.ratio.value == pytest.approx(0.5)
        assert source.pairs == 2

    def test_unknown_names_and_two_protocols_are_refused(self) -> None:
        records = frame(*square("a", 0.4, 0.2, 0.2, 0.1))
        with pytest.raises(UserError, match="Did you mean 'study/full'"):
            build_effects(records, grid("a"), benchmark="pocket", sweep="study/fill")
        of_two_protocols = pd.concat([records, records.assign(protocol="paper")])
        with pytest.raises(UserError, match="give --protocol held-out or paper"):
            build_effects(
                of_two_protocols, grid("a"), benchmark="pocket", sweep="study/full"
            )
        study = build_effects(
            of_two_protocols,
            grid("a"),
            benchmark="pocket",
            sweep="study/full",
            protocol="paper",
        )
        assert study.scores["pocket/a", 0].n == 2


@pytest.mark.parametrize(
    "format",
    [
        name
        for name, format in all_formats().items()
        if format.effects and name != "html"
    ],
)
def test_a_study_that_has_only_begun_is_shown_without_nan(format: str) -> None:
    study = effects(cell("a", "random", "none", None), of=grid("a", "b"))
    text = render_effects(study, format)
    assert "nan" not in text.replace("failed_nan", "").lower()
    assert text == text.rstrip("\n")
