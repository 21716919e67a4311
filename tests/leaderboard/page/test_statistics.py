"""The page's numbers are Python's, of every choice of tasks and methods."""

import itertools
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
    """Return a score table with ties, zeros, missing cells and unequal numbers of seeds.

    The number of tasks, of methods and of seeds depends on ``seed``.
    """
    choose = np.random.default_rng(seed)
    rows = []
    for t in range([1, 2, 4, 5, 9, 30][seed % 6]):
        for m, method in enumerate(METHODS[: 2 + seed % 7]):
            if choose.random() < [0, 0.15][seed % 2]:
                continue
            for s in range(choose.integers(1, 5) if seed % 3 else 2):
                score = round(
                    float(choose.lognormal(0.1 * m + t, 0.3)),
                    1 if seed % 4 == 0 else 12,
                )
                rows.append((f"b/t{t}", method, s, score))
    return pd.DataFrame(rows, columns=["task", "method", "seed", "score"])


def searches(seed: int) -> pd.DataFrame:
    choose = np.random.default_rng(seed)
    names = [
        (f"b/t{t}", method, number)
        for t in range(7)
        for method in ("nft", "orca")
        for number in range(3)
    ]
    found = pd.DataFrame(names, columns=["task", "method", "number"])
    return found.assign(
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
    return bool(
        theirs
        == (
            pytest.approx(ours, rel=1e-9, abs=1e-9, nan_ok=True)
            if isinstance(ours, float)
            else ours
        )
    )


def expected(table: ScoreTable) -> dict[str, Any]:
    """Return what the page shall compute of a subset."""
    computed = {
        name: all_statistics()[name].compute(table)
        for name in ("mean_rank", "wins", "improvement")
    }
    found: dict[str, Any] = {
        name: each[["value", "low", "high"]].to_dict("index")
        for name, each in computed.items()
    }
    verdicts = (
        all_statistics()["verdict"]
        .compute(table)
        .drop(columns=["more_tasks", "more_seeds"])
    )
    found["verdict"] = {}
    for method, other in itertools.permutations(table.methods, 2):
        found["verdict"].setdefault(method, {})[other] = verdicts.loc[
            [(method, other)]
        ].to_dict("records")[0]
    return found


def in_page(page: Any, table: ScoreTable, program: str, *more: Any) -> Any:
    """Return the value of a JavaScript expression of ``table`` and ``more``.

    ``table`` is the page's score table.
    """
    scores_TMS = [
        [[s for s in cell if s == s] for cell in row]
        for row in table.scores_TMS.tolist()
    ]
    logs = LogScores.of(table)
    variances = [
        [each if each == each else None for each in row]
        for row in logs.variances_TM.tolist()
    ]
    noise = {
        "prior": logs.prior,
        "most": logs.freedom_TM.sum(axis=1).tolist(),
        "variances": variances,
    }
    make = "([tasks, methods, scores, noise, more]) => {"
    make += (
        " const table = new orca.statistics.ScoreTable(tasks, methods, scores, noise);"
    )
    return page.evaluate(
        f"{make} return {program}; }}",
        [table.tasks, table.methods, scores_TMS, noise, more],
    )


def test_statistics_of_subsets_are_pythons(open_page: Open) -> None:
    page = open_page()
    for seed in range(18):
        scores = board(seed)
        choose = random.Random(seed)
        tasks, methods = (sorted(scores[name].unique()) for name in ("task", "method"))
        if seed % 6:
            tasks, methods = (
                choose.sample(each, choose.randint(1, len(each)))
                for each in (tasks, methods)
            )
        table = ScoreTable.of(
            scores[scores["task"].isin(tasks) & scores["method"].isin(methods)]
        )
        found = in_page(
            page, table, "orca.statistics.analyse(table, { questions: [], gains: [] })"
        )
        assert same(expected(table), found), seed


def test_answers_are_pythons(open_page: Open) -> None:
    page = open_page()
    for seed in range(6, 12):
        table = ScoreTable.of(board(seed))
        trials = searches(seed)
        asked = []
        ours = []
        for each in answers(table, trials):
            compared = each.comparison
            method, reference = (
                " ".join(side.values())
                for side in (compared.levels, compared.reference)
            )
            asked.append(
                {
                    "name": each.name,
                    "subject": each.subject,
                    "method": method,
                    "reference": reference,
                }
            )
            ratio = compared.ratio._asdict() | {"adjusted_p": each.adjusted_p}
            on_tasks = {task: found._asdict() for task, found in compared.tasks.items()}
            ours += (
                [{"tasks": on_tasks, "pairs": compared.pairs, "ratio": ratio}]
                if compared.pairs
                else []
            )
        given = {"questions": asked, "gains": gains(trials).to_dict("records")}
        theirs = in_page(
            page, table, "orca.statistics.analyse(table, more[0]).answers", given
        )
        assert same(ours, theirs), seed


def test_scores_and_costs_and_profiles_are_pythons(open_page: Open) -> None:
    page = open_page()
    scores = board(3)
    table = ScoreTable.of(scores)
    names = scores[["task", "method"]].drop_duplicates()
    costs = names.assign(
        cost=np.random.default_rng(0).lognormal(size=len(names)).round(1)
    )
    program = """orca.statistics.scoresAndCosts(table, (task, method) =>
        more[0].find((each) => each.task === task && each.method === method)?.cost ?? NaN, more[1])"""
    for over in get_args(Over):
        ours = (
            pareto(table, costs, over_tasks=over)[["score", "cost"]]
            .reset_index()
            .to_dict("records")
        )
        assert same(
            ours, in_page(page, table, program, costs.to_dict("records"), over)
        ), over
    steps = in_page(page, table, "orca.statistics.profiles(table)")
    for method, points in steps.items():
        factors = sorted({1.0, *(point["x"] * (1 + 1e-11) for point in points)})
        shares = all_statistics()["performance_profile"].compute(
            table, factors=factors
        )["value"][method]
        assert [point["value"] for point in points] == pytest.approx(
            shares.tolist()[-len(points) :]
        )
        assert points[0]["x"] == 1
        assert points[-1]["value"] == 1
