"""The page's numbers are Python's, on random subsets of random boards."""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import pytest

from orca_ray.leaderboard.statistics import ScoreTable, all_statistics
from orca_ray.leaderboard.statistics import verdict as questions
from orca_ray.leaderboard.statistics.cost import Over, pareto
from orca_ray.leaderboard.statistics.verdict import answers
from tests.leaderboard.page.boards import data
from tests.leaderboard.page.conftest import Open
from tests.leaderboard.statistics.diagram import critical_differences

pytestmark = pytest.mark.slow
METHODS = ("fpt", "orca_guarded", "nft", "orca", "scratch", "Ωmega", "zz\U0001f600", "zz\uffee")
IN_PAGE = [name for name, each in all_statistics().items() if each.inputs == ("scores",)]


def board(seed: int) -> pd.DataFrame:
    """Return a score table with ties, zeros, missing cells and unequal numbers of seeds, from fewer tasks to more."""
    choose = np.random.default_rng(seed)
    rows = []
    for t in range([1, 2, 4, 5, 9, 30][seed % 6]):
        for m, method in enumerate(METHODS[: 2 + seed % 7]):
            if choose.random() < [0, 0.15][seed % 2]:
                continue
            for s in range(choose.integers(1, 5) if seed % 3 else 2):
                score = round(float(choose.lognormal(0.1 * m + t, 0.3)), 1 if seed % 4 == 0 else 12)
                rows.append((f"b/t{t}", method, s, score))
    return pd.DataFrame(rows, columns=["task", "method", "seed", "score"])


def subset(scores: pd.DataFrame, seed: int) -> pd.DataFrame:
    choose = random.Random(seed)
    tasks, methods = (sorted(scores[name].unique()) for name in ("task", "method"))
    kept = choose.sample(tasks, choose.randint(1, len(tasks))), choose.sample(methods, choose.randint(1, len(methods)))
    return scores[scores["task"].isin(kept[0]) & scores["method"].isin(kept[1])]


def nested(frame: pd.DataFrame) -> dict[Any, Any]:
    """Return a statistic as the page has it: by method, pair or cell; a curve as a list of points."""
    found: dict[Any, Any] = {}
    for key, row in zip(frame.index, frame.to_dict("records"), strict=True):
        *outer, last = key if isinstance(key, tuple) else (key,)
        if frame.index.names[-1] == "x":
            found.setdefault(outer[0], []).append({"x": last, **row})
            continue
        inner = found
        for each in outer:
            inner = inner.setdefault(each, {})
        inner[last] = row
    return found


def differences(ours: Any, theirs: Any, path: str = "") -> Iterator[str]:
    """Yield where two nested values differ by more than 1e-9."""
    if isinstance(ours, Mapping):
        if ours.keys() != theirs.keys():
            yield f"{path}: {sorted(map(str, ours))} and {sorted(map(str, theirs))}"
        for key in ours.keys() & theirs.keys():
            yield from differences(ours[key], theirs[key], f"{path}/{key}")
    elif isinstance(ours, Sequence) and not isinstance(ours, str):
        if len(ours) != len(theirs):
            yield f"{path}: {ours} and {theirs}"
        for index, (one, other) in enumerate(zip(ours, theirs, strict=False)):
            yield from differences(one, other, f"{path}/{index}")
    elif isinstance(ours, float | np.floating):
        if theirs != pytest.approx(ours, rel=1e-9, abs=1e-9, nan_ok=True):
            yield f"{path}: {ours!r} and {theirs!r}"
    elif ours != theirs:
        yield f"{path}: {ours!r} and {theirs!r}"


def in_page(page: Any, scores: pd.DataFrame, name: str, searches: pd.DataFrame | None = None) -> Any:
    rows = scores.to_dict("records")
    trials = [] if searches is None else searches.to_dict("records")
    program = "([rows, trials, name]) => orca.statistics.analyse(rows, trials)[name]"
    found = page.evaluate(program, [rows, trials, name])
    return {key: value for key, value in found.items() if value != {}} if isinstance(found, dict) else found


@pytest.mark.parametrize("seed", range(18))
def test_statistics_of_subsets_are_pythons(open_page: Open, seed: int) -> None:
    page = open_page()
    scores = subset(board(seed), seed) if seed % 6 else board(seed)
    for name in IN_PAGE:
        ours = nested(all_statistics()[name].compute(scores))
        assert list(differences(ours, in_page(page, scores, name), name)) == []


@pytest.mark.parametrize("seed", range(6, 12))
def test_critical_differences_and_answers_are_pythons(open_page: Open, seed: int) -> None:
    page = open_page()
    scores = board(seed)
    found = in_page(page, scores, "critical_differences")
    ours = asdict(critical_differences(scores))
    assert found["order"] == list(ours["mean_ranks"])
    assert list(differences(ours, {name: found[name] for name in ours})) == []

    choose = np.random.default_rng(seed)
    names = [(f"b/t{t}", method, number) for t in range(7) for method in ("nft", "orca") for number in range(3)]
    searches = pd.DataFrame(names, columns=["task", "method", "number"])
    searches["score"] = choose.lognormal(size=len(names))
    searches["hyperparameters"] = pd.Series([{} for _ in names], dtype=object)
    theirs = in_page(page, scores, "answers", searches)
    expected = answers(scores, searches)
    assert [(each["name"], each["subject"]) for each in theirs] == [(each.name, each.subject) for each in expected]
    for one, other in zip(expected, theirs, strict=True):
        ratios = {
            "ratio": one.comparison.ratio._asdict(),
            "tasks": {k: v._asdict() for k, v in one.comparison.tasks.items()},
        }
        assert list(differences(ratios, {name: other[name] for name in ratios})) == []


def test_the_questions_are_pythons(open_page: Open) -> None:
    names = sorted({name for _, _, *sides in questions.METHODS for name in sides})
    scores = pd.DataFrame([("b/t", name, 0, 1.0 + n) for n, name in enumerate(names)])
    scores.columns = pd.Index(["task", "method", "seed", "score"])
    theirs = in_page(open_page(), scores, "answers")
    found = [(each["name"], each["question"], each["method"], each["reference"]) for each in theirs]
    assert found == list(questions.METHODS)


@pytest.mark.parametrize("over", ["sum", "mean", "max"])
def test_the_pareto_front_is_pythons(open_page: Open, over: Over) -> None:
    scores = board(3)
    names = scores[["task", "method"]].drop_duplicates()
    costs = names.assign(cost=np.random.default_rng(0).lognormal(size=len(names)).round(1))
    ours = nested(pareto(ScoreTable.of(scores), costs, over_tasks=over).drop(columns=["low", "high"]))
    program = """([rows, costs, over]) => orca.statistics.analyse(rows).pareto(
        (task, method) => costs.find((each) => each.task === task && each.method === method)?.cost ?? NaN, over)"""
    theirs = open_page().evaluate(program, [scores.to_dict("records"), costs.to_dict("records"), over])
    assert list(differences(ours, theirs)) == []


def test_profiles_step_at_the_ratios_of_the_scores(open_page: Open) -> None:
    rows = [
        {"task": task, "method": method, "seed": 0, "score": score}
        for task, scores in {"a": (1.0, 1.002), "b": (3.0, 1.0)}.items()
        for method, score in zip(("x", "y"), scores, strict=True)
    ]
    found = open_page().evaluate("rows => orca.statistics.analyse(rows).profile()", rows)
    assert [(point["x"], point["value"]) for point in found["y"]] == [
        (1, 0.5), (pytest.approx(1.002), 1), (pytest.approx(3), 1),
    ]  # fmt: skip


def test_the_numbers_shown_are_those_of_the_subset(open_page: Open) -> None:
    content = data()
    names = [f"pocket/{task}" for task in ("burgers16", "digits", "mnist", "osuleaf", "wdbc")]
    place = "/table?methods=orca&methods=nft" + "".join(f"&tasks={name.replace('/', '%2F')}" for name in names)
    rows = [
        (content["tasks"][t]["name"], content["methods"][m]["name"], seed, score)
        for t, m, seed, score, _ in content["scores"]
    ]
    scores = pd.DataFrame(rows, columns=["task", "method", "seed", "score"])
    kept = scores[scores["task"].isin(names) & scores["method"].isin(["orca", "nft"])]
    ranks = all_statistics()["mean_rank"].compute(kept).sort_values("value")
    shown = open_page(place).locator("table.board").first.locator("tbody tr").all_inner_texts()
    for text, (method, row) in zip(shown, ranks.iterrows(), strict=True):
        assert text.split()[:5] == [method, f"{row['value']:.2f}", f"{row['low']:.2f}", "–", f"{row['high']:.2f}"]


@pytest.mark.parametrize(
    ("name", "python", "arguments"),
    [
        ("erfc", math.erfc, [(x / 7,) for x in range(-40, 60)]),
    ],
)
def test_distributions(open_page: Open, name: str, python: Any, arguments: list[tuple[float, ...]]) -> None:
    page = open_page()
    for given in arguments:
        found = page.evaluate(f"given => orca.statistics.{name}(...given)", list(given))
        assert found == pytest.approx(python(*given), rel=1e-13)
