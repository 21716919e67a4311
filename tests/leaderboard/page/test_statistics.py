"""The page's numbers are Python's, of every choice of tasks and methods."""

import itertools
import math
import random
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest

from orca_ray.leaderboard.statistics import ScoreTable, all_statistics
from orca_ray.leaderboard.statistics.paired import LogScores
from orca_ray.leaderboard.statistics.questions import answers, gains
from orca_ray.leaderboard.statistics.scores import Over, pareto
from tests.leaderboard.page.conftest import Open

pytestmark = pytest.mark.slow
METHODS = (
    "fpt",
    "orca_guarded",
    "nft",
    "orca",
    "scratch",
    "Ωmega",
    "zz\U0001f600",
    "zz\uffee",
)


def board(seed: int) -> pd.DataFrame:
    """Return a score table with ties, zeros, missing cells and unequal numbers.

    The number of tasks, of methods and of seeds depends on ``seed``.
    """
    choose = np.random.default_rng(seed)
    num_tasks = [1, 2, 4, 5, 9, 30][seed % 6]
    num_methods = 2 + seed % 7
    share_missing = [0, 0.15][seed % 2]
    digits = 1 if seed % 4 == 0 else 12
    rows = []
    for t in range(num_tasks):
        for m, method in enumerate(METHODS[:num_methods]):
            if choose.random() < share_missing:
                continue
            num_seeds = choose.integers(1, 5) if seed % 3 else 2
            for s in range(num_seeds):
                score = round(float(choose.lognormal(0.1 * m + t, 0.3)), digits)
                rows.append((f"b/t{t}", method, s, score))
    return pd.DataFrame(rows, columns=["task", "method", "seed", "score"])


def searches(seed: int) -> pd.DataFrame:
    choose = np.random.default_rng(seed)
    tasks = [f"b/t{t}" for t in range(7)]
    names = list(itertools.product(tasks, ("nft", "orca"), range(3)))
    frame = pd.DataFrame(names, columns=["task", "method", "number"])
    return frame.assign(
        score=choose.lognormal(size=len(names)),
        hyperparameters=pd.Series([{}] * len(names)),
    )


def same(ours: Any, theirs: Any) -> bool:
    """Return whether two nested values are equal up to 1e-9.

    ``theirs`` may have more keys.
    """
    if isinstance(ours, Mapping):
        return all(
            key in theirs and same(value, theirs[key]) for key, value in ours.items()
        )
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, float):
        return bool(theirs == pytest.approx(ours, rel=1e-9, abs=1e-9, nan_ok=True))
    return bool(theirs == ours)


def expected(table: ScoreTable) -> dict[str, Any]:
    """Return what the page shall compute of a subset."""
    values: dict[str, Any] = {}
    for name in ("mean_rank", "wins", "improvement"):
        frame = all_statistics()[name].compute(table)
        values[name] = frame[["value", "low", "high"]].to_dict("index")
    verdicts = all_statistics()["verdict"].compute(table)
    verdicts = verdicts.drop(columns=["more_tasks", "more_seeds"])
    values["verdict"] = {}
    for method, other in itertools.permutations(table.methods, 2):
        (verdict,) = verdicts.loc[[(method, other)]].to_dict("records")
        values["verdict"].setdefault(method, {})[other] = verdict
    return values


def without_nan(values: list[float]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]


def in_page(page: Any, table: ScoreTable, program: str, *more: Any) -> Any:
    """Return the value of a JavaScript expression of ``table`` and ``more``.

    ``table`` is the page's score table.
    """
    scores = [
        [[score for score in cell if not math.isnan(score)] for cell in row]
        for row in table.scores_TMS.tolist()
    ]
    logs = LogScores.of(table)
    noise = {
        "prior": logs.prior,
        "most": logs.freedom_TM.sum(axis=1).tolist(),
        "variances": [without_nan(row) for row in logs.variances_TM.tolist()],
    }
    function = f"""([tasks, methods, scores, noise, floors, more]) => {{
        const {{ ScoreTable }} = orca.statistics;
        const table = new ScoreTable(tasks, methods, scores, noise, floors);
        return {program};
    }}"""
    floors = table.floors_T.tolist()
    arguments = [table.tasks, table.methods, scores, noise, floors, more]
    return page.evaluate(function, arguments)


def test_statistics_of_subsets_are_pythons(open_page: Open) -> None:
    page = open_page()
    for seed in range(18):
        scores = board(seed)
        choose = random.Random(seed)
        tasks = sorted(scores["task"].unique())
        methods = sorted(scores["method"].unique())
        if seed % 6:
            tasks = choose.sample(tasks, choose.randint(1, len(tasks)))
            methods = choose.sample(methods, choose.randint(1, len(methods)))
        is_chosen = scores["task"].isin(tasks) & scores["method"].isin(methods)
        table = ScoreTable.of(scores[is_chosen])
        theirs = in_page(
            page, table, "orca.statistics.analyse(table, { questions: [], gains: [] })"
        )
        assert same(expected(table), theirs), seed


def test_answers_are_pythons(open_page: Open) -> None:
    page = open_page()
    for seed in range(6, 12):
        table = ScoreTable.of(board(seed))
        trials = searches(seed)
        questions = []
        ours = []
        for answer in answers(table, trials):
            comparison = answer.comparison
            questions.append(
                {
                    "name": answer.name,
                    "subject": answer.subject,
                    "method": " ".join(comparison.levels.values()),
                    "reference": " ".join(comparison.reference.values()),
                }
            )
            if not comparison.pairs:
                continue
            ratio = comparison.ratio._asdict() | {"adjusted_p": answer.adjusted_p}
            tasks = {task: ratio._asdict() for task, ratio in comparison.tasks.items()}
            ours.append({"tasks": tasks, "pairs": comparison.pairs, "ratio": ratio})
        search_gains = gains(trials).to_dict("records")
        theirs = in_page(
            page,
            table,
            "orca.statistics.analyse(table, more[0]).answers",
            {"questions": questions, "gains": search_gains},
        )
        assert same(ours, theirs), seed


def test_scores_and_costs_are_pythons(open_page: Open) -> None:
    page = open_page()
    scores = board(3)
    table = ScoreTable.of(scores)
    names = scores[["task", "method"]].drop_duplicates()
    costs = names.assign(
        cost=np.random.default_rng(0).lognormal(size=len(names)).round(1)
    )
    program = """orca.statistics.scoresAndCosts(
        table,
        (task, method) => more[0].find(
            (each) => each.task === task && each.method === method
        )?.cost ?? NaN,
        more[1],
    )"""
    cost_rows = costs.to_dict("records")
    for over in get_args(Over):
        frame = pareto(table, costs, over_tasks=over)[["score", "cost"]]
        ours = frame.reset_index().to_dict("records")
        theirs = in_page(page, table, program, cost_rows, over)
        assert same(ours, theirs), over


def test_profiles_are_pythons(open_page: Open) -> None:
    table = ScoreTable.of(board(3))
    profile = all_statistics()["performance_profile"]
    steps = in_page(open_page(), table, "orca.statistics.profiles(table)")
    for method, points in steps.items():
        factors = sorted({1.0, *(point["x"] * (1 + 1e-11) for point in points)})
        shares = profile.compute(table, factors=factors)["value"][method]
        values = [point["value"] for point in points]
        assert values == pytest.approx(shares.tolist()[-len(points) :])
        assert points[0]["x"] == 1
        assert points[-1]["value"] == 1
