"""Findings: tests over tasks, answers about known effects, which tasks count, and how
often answers are wrong.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from benchmarks.findings import BEST, answers
from benchmarks.findings_calibration import METHODS, NULLS, simulate
from benchmarks.findings_page import picture, read, read_bodies, text, text_of_bodies
from benchmarks.regression import estimate, mean, unequal_means
from orca_ray.results.artefacts import ArtefactRow
from orca_ray.results.store import ResultsStore
from tests.leaderboard.statistics.test_calibration import PAGE
from tests.leaderboard.test_leaderboard import seeds
from tests.results.factories import make_record

TEXT = PAGE.with_name("findings.md").read_text().replace("*", "")
ROWS = [line.strip("| ").split(" | ") for line in TEXT.split("\n")]


def test_intervals_and_tests_are_those_of_scipy() -> None:
    logs = np.random.default_rng(0).normal(size=14)
    kinds = np.repeat(["a", "b"], [6, 8])
    whole = scipy.stats.ttest_1samp(logs[:6], 0)
    two = scipy.stats.ttest_ind(logs[:6], logs[6:], equal_var=False)
    first = estimate(
        logs,
        np.column_stack([kinds == "a", kinds == "b"]).astype(float),
        np.array([1.0, 0.0]),
    )
    assert (*first.ends, first.p) == pytest.approx(
        (*whole.confidence_interval(), whole.pvalue)
    )
    assert unequal_means(logs, kinds) == pytest.approx(two.pvalue)


def test_a_fit_that_meets_a_task_exactly_has_no_error() -> None:
    design = np.column_stack(
        [[1.0] * 2 + [0.0] * 6, [0.0] * 2 + [1.0] * 6, [1.0, 2.0] + [3.0] * 6]
    )
    logs = np.random.default_rng(0).normal(size=8)
    assert np.isnan(estimate(logs, design, np.array([0.0, 0.0, 1.0])).p)


def test_known_effects_are_found_with_the_tasks_that_carry_them() -> None:
    effects = np.array(
        [{"scratch": 0.3, BEST: -0.3}.get(name, 0.0) for name in METHODS]
    )
    study, _ = NULLS["equal"].study(np.random.default_rng(0), effects)
    found = answers(study)
    assert [each.verdict for each in found] == [
        *["Not clear"] * 2,
        "Yes",
        "No, the reverse",
        *["Not clear"] * 6,
    ]
    logs = np.sort(study.data("nft", "scratch").logs)
    fewest = next(
        number for number in range(41) if mean(logs[number:]).p > found[2].level
    )
    assert (
        f"not clear without the {fewest} tasks that speak most for it"
        in found[2].sentence
    )


def test_a_task_counts_with_every_seed_of_both_sides_and_validation_chooses_the_baseline(
    tmp_path: Path,
) -> None:
    nft, cnn, linear, orca = (
        seeds(
            "digits",
            name,
            *[test] * 4,
            validation_score=validation,
            sweep="pocket/full",
        )
        for name, test, validation in (
            ("nft", 0.4, 0.1),
            ("cnn", 0.1, 0.3),
            ("linear", 0.3, 0.2),
            ("orca", 0.2, 0.1),
        )
    )
    gap = {
        "series": [
            {"title": "centroid gap", "values": [3.0, 0.5]},
            {"title": "distribution gap", "values": [0, 0]},
        ]
    }
    whole, partial = (
        ResultsStore(tmp_path / name, create=True) for name in ("whole", "partial")
    )
    runs = [*nft, *cnn, *linear, *orca[:-1]]
    records = [
        make_record(f"k{index}", **({"minutes": index} | run))
        for index, run in enumerate(runs)
    ]
    whole.append(
        records,
        artefacts=[
            ArtefactRow(
                "pocket/full", records[-1].trial_key, "features", "gap", json.dumps(gap)
            )
        ],
    )
    partial.append(records[:11])
    found = read("pocket", whole)
    assert found.study.properties.centroids == pytest.approx([3.0])
    assert found.study.properties.distributions == pytest.approx([0.0])
    assert np.exp(found.study.data("nft", BEST).logs) == pytest.approx([0.4 / 0.3])
    assert "nan" not in text(found) + picture(found)
    assert read("pocket", partial).baselines == {}
    for name, key, body in (
        ("cnn", "t", "rxnfp:layers=4"),
        ("linear", "u", "vit-s14:layers=4"),
    ):
        given = [
            replace(each, trial_key=f"{key}{each.trial_key}")
            for each in records
            if each.method == name
        ]
        whole.append(
            [
                replace(each, method="nft", sweep="transfer/full", body=body)
                for each in given
            ]
        )
    crossed = read_bodies(found, whole)
    for sides, ratio in (
        (("text", "reactions"), 0.4 / 0.1),
        (("images", "reactions"), 0.3 / 0.1),
    ):
        assert np.exp(crossed.data(*sides).logs) == pytest.approx([ratio])
    assert "All 3 scores of 1 of 1 tasks" in text_of_bodies(crossed)


@pytest.mark.slow
@pytest.mark.parametrize("null", NULLS)
def test_other_studies_agree_with_the_page_within_four_standard_errors(
    null: str,
) -> None:
    for name, found in simulate(null, 40, seed=1).items():
        share = next(
            float(cells[1 + list(NULLS).index(null)]) / 100
            for cells in ROWS
            if cells[0] == name
        )
        assert found == pytest.approx(
            share, abs=4 * (max(share * (1 - share), 0.01) / 40) ** 0.5
        ), name
