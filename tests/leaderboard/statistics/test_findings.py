"""Findings: tests over tasks, and answers about known effects.

Also which tasks count, and how often answers are wrong.
"""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from benchmarks.findings import Study, answers
from benchmarks.findings_calibration import DESIGNS, NULLS, simulate
from benchmarks.findings_page import picture, text, text_of_bodies
from benchmarks.findings_reading import read, read_bodies
from benchmarks.planned import BASELINES, SIX_EPOCHS
from benchmarks.regression import estimate, mean, stratified_mean, unequal_means
from benchmarks.searches import (
    BEST_BASELINE,
    BEST_TRANSFORMER,
    TYPICAL_BASELINE,
    search_weights,
)
from orca_ray.leaderboard import BoardReport, build, subset
from orca_ray.leaderboard.page import page_data
from orca_ray.leaderboard.statistics import ScoreTable
from orca_ray.leaderboard.statistics.paired import LogScores
from orca_ray.results.artefacts import ArtefactRow
from orca_ray.results.record import Record
from orca_ray.results.store import ResultsStore
from tests.leaderboard.statistics.test_calibration import PAGE
from tests.leaderboard.test_leaderboard import Run, seeds
from tests.results.factories import make_record

TEXT = PAGE.with_name("six-epochs.md").read_text().replace("*", "")
METHODS = DESIGNS["six epochs"].methods
ROWS = [line.strip("| ").split(" | ") for line in TEXT.split("\n")]


def test_intervals_and_tests_are_those_of_scipy() -> None:
    logs = np.random.default_rng(0).normal(size=14)
    kinds = np.repeat(["a", "b"], [6, 8])
    one_sample = scipy.stats.ttest_1samp(logs[:6], 0)
    two_samples = scipy.stats.ttest_ind(logs[:6], logs[6:], equal_var=False)
    design = np.column_stack([kinds == "a", kinds == "b"]).astype(float)
    first = estimate(logs, design, np.array([1.0, 0.0]))
    assert first.ends == pytest.approx(one_sample.confidence_interval())
    assert first.p == pytest.approx(one_sample.pvalue)
    # Of two groups, the parametric bootstrap is nearly Welch's test.
    assert unequal_means(logs, kinds) == pytest.approx(two_samples.pvalue, rel=0.05)
    wide = 1 + 0.5 * logs
    inside = [
        scipy.stats.ttest_1samp(wide, 1.3, alternative="less").pvalue,
        scipy.stats.ttest_1samp(wide, -1.3, alternative="greater").pvalue,
    ]
    assert mean(wide).outside(1.3) == pytest.approx(max(inside))
    assert mean(np.zeros(9)).outside(0.05) == 0.0


def test_an_interval_of_tasks_drawn_by_kind_has_no_error_of_differences_of_kinds() -> (
    None
):
    kinds = np.repeat(["a", "b", "c"], [3, 5, 12])
    of_kind = np.repeat([1.0, 0.0, -0.25], [3, 5, 12])
    random = np.random.default_rng(0)
    estimates = [
        stratified_mean(of_kind + 0.2 * random.normal(size=20), kinds)
        for _ in range(1000)
    ]
    ends = np.array([estimate.ends for estimate in estimates])
    is_covered = (ends[:, 0] <= 0) & (ends[:, 1] >= 0)
    assert is_covered.mean() == pytest.approx(0.95, abs=0.03)
    logs = random.normal(size=9)
    alone = np.array(["a", "b", "b", "b", "b", *["c"] * 4])
    joined = np.array(["b", "b", "b", "b", "b", *["c"] * 4])
    assert stratified_mean(logs, alone) == stratified_mean(logs, joined)
    assert stratified_mean(logs, np.repeat("a", 9)) == mean(logs)


def test_weights_of_a_search_are_those_of_all_ways_to_draw_its_candidates() -> None:
    validation = np.array([[0.3, np.nan, 0.1, 0.2, 0.4]])
    logs = np.array([0.5, 7.0, -1.0, 2.0, 0.0])
    for size in (1, 2, 3, 4):
        kept = [
            logs[min(drawn, key=validation[0].__getitem__)]
            for drawn in combinations([0, 2, 3, 4], size)
        ]
        (weights,) = search_weights(validation, range(5), np.array([size]))
        assert weights @ logs == pytest.approx(np.mean(kept))
    assert np.isnan(search_weights(validation, range(5), np.array([5]))).all()


def test_a_fit_that_meets_a_task_exactly_has_no_error() -> None:
    design = np.column_stack(
        [[1.0] * 2 + [0.0] * 6, [0.0] * 2 + [1.0] * 6, [1.0, 2.0] + [3.0] * 6]
    )
    logs = np.random.default_rng(0).normal(size=8)
    assert np.isnan(estimate(logs, design, np.array([0.0, 0.0, 1.0])).p)


def test_known_effects_are_found_with_the_tasks_that_carry_them() -> None:
    effects = np.zeros(len(METHODS))
    effects[METHODS.index("scratch")] = 0.3
    effects[[METHODS.index(name) for name in BASELINES]] = -0.3
    study, _ = NULLS["equal"].study(np.random.default_rng(0), effects)
    all_answers = answers(study, SIX_EPOCHS.questions)
    assert [answer.verdict for answer in all_answers] == [
        *["Not clear"] * 2,
        "Yes",
        *["No, the reverse"] * 2,
        *["Not clear"] * 6,
    ]
    clear = all_answers[2]
    sentence = clear.sentence
    num_tasks = int(sentence.partition("without the ")[2].partition(" tasks")[0])
    logs = clear.data.logs
    kept = clear.data.part(logs >= np.sort(logs)[num_tasks])
    assert clear.question.fit(kept).p > clear.level


@pytest.mark.parametrize(
    ("effect", "verdict"),
    [
        (0.005, "No difference larger than 5 %"),
        (0.06, "No, the reverse"),
        (0.03, "No, the reverse"),
    ],
)
def test_methods_are_called_equal_within_the_margin_if_they_do_not_differ(
    effect: float, verdict: str
) -> None:
    random = np.random.default_rng(0)
    whole, _ = NULLS["equal"].study(random)
    logs = [np.zeros(41), effect + 0.03 * random.normal(size=41)]
    table = ScoreTable(
        whole.table.tasks, ("nft", "orca"), np.exp(np.column_stack(logs))[:, :, None]
    )
    (aligning, *_) = answers(Study(table, whole.properties), SIX_EPOCHS.questions)
    assert aligning.verdict == verdict
    assert verdict in aligning.sentence
    assert (aligning.outside_p < 0.05) == (effect < 0.05)


GAP = {
    "series": [
        {"title": "centroid gap", "values": [3.0, 0.5]},
        {"title": "distribution gap", "values": [0, 0]},
    ]
}
"""Payload of an artefact with the distances of a task from its source."""


def runs(name: str, test: float, validation: float) -> list[Run]:
    """Return the runs of four seeds with equal scores."""
    return seeds(
        "digits",
        name,
        *[test] * 4,
        validation_score=validation,
        sweep="pocket/full",
    )


@pytest.fixture
def records() -> list[Record]:
    """Records of four methods on one task; the last seed of ``orca`` is missing."""
    all_runs = [
        *runs("nft", 0.4, 0.1),
        *runs("cnn", 0.1, 0.3),
        *runs("linear", 0.3, 0.2),
        *runs("orca", 0.2, 0.1)[:-1],
    ]
    return [
        make_record(f"k{index}", **({"minutes": index} | run))
        for index, run in enumerate(all_runs)
    ]


@pytest.fixture
def store(tmp_path: Path, records: list[Record]) -> ResultsStore:
    store = ResultsStore(tmp_path / "whole", create=True)
    key = records[-1].trial_key
    gap = ArtefactRow("pocket/full", key, "features", "gap", json.dumps(GAP))
    store.append(records, artefacts=[gap])
    return store


def test_a_task_has_one_floor_on_page_board_and_findings(tmp_path: Path) -> None:
    all_runs = [*runs("nft", 0.3, 0.1), *runs("scratch", 0.0, 0.1)]
    # Findings do not compare the method with the smallest positive score.
    all_runs += runs("lora", 0.01, 0.1)
    store = ResultsStore(tmp_path / "zeros", create=True)
    store.append([make_record(f"k{i}", **run) for i, run in enumerate(all_runs)])
    board = build(store, benchmark="pocket")
    shown, _ = subset(board, None, ["nft", "scratch"])
    (task,) = page_data(BoardReport(shown))["tasks"]
    assert task["floor"] == 0.01 / 2
    for table in (board.table, shown.table, read("pocket", store).study.table):
        ratios = LogScores.of(table).paired("nft", "scratch")
        assert np.exp(ratios.logs) == pytest.approx([0.3 / task["floor"]])


def test_validation_chooses_the_baseline_of_a_task(store: ResultsStore) -> None:
    findings = read("pocket", store)
    assert findings.study.properties.centroids == pytest.approx([3.0])
    assert findings.study.properties.distributions == pytest.approx([0.0])
    logs = findings.study.data("nft", TYPICAL_BASELINE).logs
    assert np.exp(logs) == pytest.approx([0.4 / (0.1 * 0.3) ** 0.5])
    page = text(findings)
    assert "| digits | images | 200 | `linear` |" in page
    assert "nan" not in page + picture(findings)


def test_a_task_counts_with_every_seed_of_both_sides(
    tmp_path: Path, records: list[Record]
) -> None:
    partial = ResultsStore(tmp_path / "partial", create=True)
    partial.append(records[:11])
    study = read("pocket", partial).study
    assert not len(study.data("nft", TYPICAL_BASELINE).logs)
    assert not len(study.data(BEST_TRANSFORMER, BEST_BASELINE).logs)


def test_bodies_are_crossed_with_kinds_of_data(
    store: ResultsStore, records: list[Record]
) -> None:
    for method, prefix, body in (
        ("cnn", "t", "rxnfp:layers=4"),
        ("linear", "u", "vit-s14:layers=4"),
    ):
        store.append(
            [
                replace(
                    record,
                    trial_key=f"{prefix}{record.trial_key}",
                    method="nft",
                    sweep="transfer/full",
                    body=body,
                )
                for record in records
                if record.method == method
            ]
        )
    crossed = read_bodies(read("pocket", store), store)
    text_to_reactions = crossed.data("text", "reactions")
    assert np.exp(text_to_reactions.logs) == pytest.approx([0.4 / 0.1])
    images_to_reactions = crossed.data("images", "reactions")
    assert np.exp(images_to_reactions.logs) == pytest.approx([0.3 / 0.1])
    assert "All 3 scores of 1 of 1 tasks" in text_of_bodies(crossed)


@pytest.mark.slow
@pytest.mark.parametrize("null", NULLS)
def test_other_studies_agree_with_the_page_within_four_standard_errors(
    null: str,
) -> None:
    column = 1 + list(NULLS).index(null)
    shares = {cells[0]: cells[column] for cells in ROWS if len(cells) > column}
    for name, simulated_share in simulate(null, 40, seed=1).items():
        share = float(shares[name]) / 100
        error = (max(share * (1 - share), 0.01) / 40) ** 0.5
        assert simulated_share == pytest.approx(share, abs=4 * error), name
