"""The page of the study that is trained to the end: ratios of ratios, missing parts."""

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.findings import Data, Study, answers, joined_name
from benchmarks.findings_calibration import DESIGNS, NULLS, simulate
from benchmarks.findings_page import page, text
from benchmarks.findings_reading import read
from benchmarks.planned import SIX_EPOCHS, TRAINED
from benchmarks.searches import BEST_BASELINE, BEST_TRANSFORMER
from orca_ray.leaderboard.statistics import ScoreTable
from orca_ray.results.record import CurvePoint, Record
from orca_ray.results.store import ResultsStore
from tests.leaderboard.test_leaderboard import Run
from tests.results.factories import make_record

ROOT = Path(__file__).parents[3]
SERIES = ("acsf1", "arrow_head", "basic_motions", "covid", "gun_point", "libras")
"""Tasks of the cabinet that all of `METHODS` can adapt to."""
METHODS = (
    "nft",
    "orca",
    "scratch",
    "cnn",
    "linear",
    "nearest",
    "forest",
    "gradient_boosting",
    "minirocket",
    "hydra",
)
SHORT = ("nft", "orca", "scratch")
"""Methods of the sweeps of fewer steps."""


def run(task: str, method: str, score: float, budget: str = "trained") -> Run:
    return {
        "benchmark": "cabinet",
        "task": f"cabinet/{task}",
        "method": method,
        "sweep": f"cabinet/{budget}",
        "seed": 1,
        "test_score": score,
        "validation_score": score,
    }


def new_store(path: Path, runs: list[Run], *scores: float) -> ResultsStore:
    """Return a store of runs, of which all have the validation ``scores`` of epochs."""
    records = [
        make_record(f"k{index}", minutes=index, **changes)
        for index, changes in enumerate(runs)
    ]
    curves = [
        point(record, epoch, score)
        for record in records
        for epoch, score in enumerate(scores, 1)
    ]
    store = ResultsStore(path, create=True)
    store.append(records, curves=curves)
    return store


def point(record: Record, epoch: int, score: float) -> CurvePoint:
    return CurvePoint(
        sweep=record.sweep,
        trial_key=record.trial_key,
        stage="refine",
        epoch=epoch,
        loss=score,
        distance=None,
        validation_score=score,
        learning_rate=0.1 / epoch,
        seconds=1.0,
        attempt=record.attempts,
    )


def study_of(scores: dict[str, list[float]]) -> Study:
    """Return a study of series with the scores of each method."""
    methods = tuple(sorted(scores))
    columns = np.column_stack([scores[method] for method in methods])
    num = len(columns)
    unknown = np.full(num, np.nan)
    properties = Data(
        logs=np.zeros(num),
        kinds=np.repeat("series", num),
        images=np.zeros(num, dtype=bool),
        samples=np.full(num, 100.0),
        distances=unknown,
        centroids=unknown,
        distributions=unknown,
    )
    tasks = tuple(f"cabinet/{name}" for name in SERIES[:num])
    return Study(ScoreTable(tasks, methods, columns[:, :, None]), properties)


def test_a_ratio_of_ratios_is_the_one_computed_by_hand() -> None:
    scores = {
        "nft": [0.1, 0.1, 0.3, 0.2, 0.4, 0.5],
        "scratch": [0.2, 0.2, 0.4, 0.3, 0.6, 0.5],
        "nft (150 steps)": [0.3, 0.2, 0.4, 0.4, 0.5, 0.6],
        "scratch (150 steps)": [0.9, 0.8, 0.9, 1.2, 1.4, np.nan],
    }
    study = study_of(scores)
    nft, scratch, nft_before, scratch_before = (np.array(x) for x in scores.values())
    by_hand = ((nft / scratch) / (nft_before / scratch_before))[:5]
    sides = TRAINED.questions[4].sides
    assert np.exp(study.data(*sides).logs) == pytest.approx(by_hand)
    answer = answers(study, TRAINED.questions)[4]
    mean = np.exp(np.log(by_hand).mean())
    assert np.exp(answer.estimate.value) == pytest.approx(mean)
    assert answer.verdict == "Yes"
    assert f"{mean:.2f} [" in answer.sentence
    assert "after 2,400 steps as after 150 steps, over 5 tasks" in answer.sentence


def test_an_incomplete_store_is_reported_as_such(tmp_path: Path) -> None:
    runs = [run("acsf1", method, 0.1 + 0.01 * i) for i, method in enumerate(METHODS)]
    runs += [run("acsf1", method, 0.3, "steps150") for method in SHORT]
    runs += [run("libras", method, 0.2) for method in METHODS if method != "hydra"]
    store = new_store(tmp_path / "store", runs)
    content = text(read("cabinet", store, TRAINED))
    assert "all scores of 1 of 41 tasks" in content
    assert "count where both sides of a ratio do: libras." in content
    assert "cabinet/steps600, protocol held-out: not run yet" in content
    assert "1. **Does aligning help? Unknown**: 2 tasks do not suffice." in content
    assert "4. **Does fine-tuning beat a typical baseline? Unknown**: 1 t" in content
    assert "nan" not in content
    for folder, budget in (("store", "price"), ("none", "trained")):
        arguments = ["--results", str(tmp_path / folder), "--budget", budget]
        content, pictures = page(["cabinet", *arguments])
        assert f"cabinet/{budget}, protocol held-out: not run yet" in content
        assert not pictures


def test_the_best_transformer_of_a_part_is_chosen_by_validation_of_that_part(
    tmp_path: Path,
) -> None:
    runs = [run(task, method, 0.2) for task in SERIES for method in METHODS]
    short = {"nft": (0.3, 0.9), "orca": (0.4, 0.5), "scratch": (0.8, 0.6)}
    runs += [
        run(task, method, score, "steps150") | {"validation_score": validation}
        for task in SERIES[:5]
        for method, (score, validation) in short.items()
    ]
    study = read("cabinet", new_store(tmp_path / "store", runs), TRAINED).study
    side = joined_name(BEST_TRANSFORMER, "150 steps")
    ratios = study.ratios(side, BEST_BASELINE)
    assert ratios.tasks == [f"cabinet/{task}" for task in SERIES[:5]]
    assert np.exp(ratios.logs) == pytest.approx(0.4 / 0.2)


@pytest.mark.parametrize(
    ("scores", "num_falling"),
    [([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], 12), ([1.0, *[0.4] * 40], 0)],
    ids=["six epochs", "converged"],
)
def test_trials_that_still_improve_stand_beside_the_answer(
    tmp_path: Path, scores: list[float], num_falling: int
) -> None:
    runs = [run(task, method, 0.2) for task in SERIES for method in SHORT]
    store = new_store(tmp_path / "store", runs, *scores)
    first, *_ = (
        line
        for line in text(read("cabinet", store, TRAINED)).split("\n")
        if line.startswith("1. ")
    )
    share = f"{100 * num_falling / 12:.0f} % of the 12 trials with epochs"
    assert share in first
    assert ("may not have converged" in first) == (num_falling > 0)


def test_the_page_of_six_epochs_says_that_its_answers_may_not_have_converged() -> None:
    lines = (ROOT / "docs/six-epochs.md").read_text().split("\n")
    all_answers = [line for line in lines if re.match(r"\d+\. \*\*", line)]
    of_study = all_answers[: len(SIX_EPOCHS.questions)]
    assert all("It may not have converged: " in line for line in of_study)


def test_an_answer_that_has_changed_stands_beside_the_one_before(
    tmp_path: Path,
) -> None:
    random = np.random.default_rng(0)
    runs = [
        run(task, method, score * random.uniform(0.9, 1.1))
        for task in SERIES
        for method, score in (("nft", 0.2), ("scratch", 0.4), ("orca", 0.2))
    ]
    noisy = {
        method: list(np.exp(random.normal(size=6)))
        for method in ("nft", "scratch", "orca")
    }
    before = answers(study_of(noisy), SIX_EPOCHS.questions)
    store = new_store(tmp_path / "store", runs)
    lines = text(read("cabinet", store, TRAINED), before).split("\n")
    aligning, pretraining, search, *_ = (
        line for line in lines if line.startswith(("1. ", "2. ", "3. "))
    )
    assert "Changed" not in aligning + search
    assert "help? Yes**" in pretraining
    was = f"**Changed**: was Not clear, {before[2].numbers} after 6 to 30 epochs."
    assert was in pretraining


@pytest.mark.slow
def test_protocols_have_tables_of_their_own(tmp_path: Path) -> None:
    runs = [run(task, "nft", 0.2, "price") for task in SERIES]
    runs += [run(task, "nft", 0.1, "price") | {"protocol": "paper"} for task in SERIES]
    path = tmp_path / "store"
    new_store(path, runs)
    arguments = ["cabinet", "--results", str(path), "--budget", "price"]
    content = page(arguments).text
    assert "ratio of `nft` (paper) to `nft` is 0.50 [0.50, 0.50]" in content
    by_held_out, by_paper = content.partition("| error by `paper`")[::2]
    assert "| acsf1 | 0.2000 |" in by_held_out
    assert "| acsf1 | 0.1000 |" in by_paper


@pytest.mark.slow
@pytest.mark.parametrize("null", NULLS)
def test_other_studies_agree_with_the_page_within_four_standard_errors(
    null: str,
) -> None:
    lines = (ROOT / "docs/trained.md").read_text().split("\n")
    rows = [line.strip("| ").split(" | ") for line in lines]
    column = 1 + list(NULLS).index(null)
    shares = {cells[0]: cells[column] for cells in rows if len(cells) > column}
    simulated = simulate(null, 40, seed=1, design=DESIGNS["trained"])
    for name, simulated_share in simulated.items():
        share = float(shares[name]) / 100
        error = (max(share * (1 - share), 0.01) / 40) ** 0.5
        assert simulated_share == pytest.approx(share, abs=4 * error), name
