"""Verdicts of docs/paper.md on scores that are made up, and the list of claims."""

from pathlib import Path

import pandas as pd
import pytest
import yaml

from benchmarks.paper_claims import (
    AGREES,
    DIFFERS,
    OPEN,
    Claim,
    Measured,
    claims,
    measure,
    missing,
    published_text,
    source_text,
)
from benchmarks.paper_claims import SCORE_RULES as RULES
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.plan.loading import load_spec
from orca_ray.tasks.registry import known_tasks
from tests.results.factories import make_record

BY_TEXT = {claim.text: claim for claim in claims()}
GAIN = BY_TEXT["ORCA has a higher mean AUROC than XGBoost on 30 tables"]
LOSS = BY_TEXT["LightGBM has a lower mean AUROC than XGBoost on 30 tables"]
BEST = BY_TEXT["ORCA is the best method on more than half of 30 tables"]
LIFT = BY_TEXT["ORCA has a higher accuracy than LIFT on most of 14 tables"]
ORDER = BY_TEXT["ORCA has a lower 1 − F1 than XGBoost on ECG"]
REVERSE = BY_TEXT["ORCA has a larger error than FNO on 2-D diffusion–reaction"]
LEVEL = BY_TEXT["ORCA is level with FNO on diffusion–sorption"]


def _rows(claim: Claim, **scores: float | list[float]) -> pd.DataFrame:
    """Return scores of methods on the tasks of a claim, the same or one for each."""
    rows = []
    for name, given in scores.items():
        method = "XGBoost, defaults" if name == "xgboost" else name
        body = "minilm-l6" if method == "orca" else "none"
        values = given if isinstance(given, list) else [given] * len(claim.tasks)
        rows += [
            ("paper/x", "paper", body, task, method, value)
            for task, value in zip(claim.tasks, values, strict=False)
        ]
    columns = ["sweep", "protocol", "body", "task", "method", "score"]
    return pd.DataFrame(rows, columns=columns)


def _measure(claim: Claim, **scores: float | list[float]) -> list[Measured]:
    return list(RULES[claim.rule](claim, _rows(claim, **scores)))


def _spread(center: float) -> list[float]:
    """Return 30 scores around ``center``."""
    return [center + 0.001 * ((i % 5) - 2) for i in range(30)]


@pytest.mark.parametrize(
    ("claim", "ours", "verdict"),
    [(GAIN, 0.09, AGREES), (GAIN, 0.11, DIFFERS), (GAIN, 0.1, OPEN)],
)
def test_a_mean_over_tables_is_compared_with_zero(
    claim: Claim, ours: float, verdict: str
) -> None:
    (measured,) = _measure(claim, orca=_spread(ours), xgboost=0.1)
    assert measured.verdict == verdict
    assert "30 of 30 tables, `minilm-l6`" in measured.text
    assert f"{0.1 - ours:+.4f} [" in measured.text


def test_a_loss_that_is_published_agrees_with_a_loss() -> None:
    (measured,) = _measure(LOSS, gradient_boosting=_spread(0.11), xgboost=0.1)
    assert measured.verdict == AGREES


def test_missing_tables_leave_a_claim_open() -> None:
    (measured,) = _measure(GAIN, orca=_spread(0.09)[:12], xgboost=0.1)
    assert measured.verdict.startswith(OPEN)
    assert "12 of 30" in measured.text
    assert _measure(GAIN, xgboost=0.1) == []


@pytest.mark.parametrize(
    ("num_best", "verdict"), [(16, AGREES), (0, DIFFERS), (30, DIFFERS), (11, OPEN)]
)
def test_a_number_of_tables_is_compared_with_the_published_share(
    num_best: int, verdict: str
) -> None:
    ours = [0.05] * num_best + [0.2] * (30 - num_best)
    others = dict.fromkeys(("gradient_boosting", "forest", "linear", "xgboost"), 0.1)
    (measured,) = _measure(BEST, orca=ours, **others)
    assert measured.text.startswith(f"{num_best} of 30")
    assert measured.verdict == verdict


def test_published_accuracies_are_compared_by_table() -> None:
    (measured,) = _measure(LIFT, orca=0.0)  # a tie where LIFT has no error, too
    assert measured.text.startswith("11 of 11")
    (measured,) = _measure(LIFT, orca=1.0)
    assert measured.text.startswith("0 of 11")
    assert measured.verdict == DIFFERS


@pytest.mark.parametrize(
    ("claim", "ours", "verdict"),
    [
        (ORDER, 0.3, AGREES),
        (ORDER, 0.5, DIFFERS),
        (ORDER, 0.41, OPEN),
        (REVERSE, 0.5, AGREES),
        (LEVEL, 0.41, AGREES),
        (LEVEL, 0.5, DIFFERS),
    ],
)
def test_an_order_on_one_task_needs_a_difference(
    claim: Claim, ours: float, verdict: str
) -> None:
    (measured,) = _measure(claim, orca=ours, **{claim.rival: 0.4})
    assert measured.verdict == verdict
    assert f"{ours:.3g} to 0.4" in measured.text


@pytest.mark.parametrize("claim", claims(), ids=lambda claim: claim.text)
def test_every_claim_has_a_source_and_tasks(claim: Claim, tmp_path: Path) -> None:
    assert published_text(claim)
    assert source_text(claim)
    assert all(task in known_tasks() for task in claim.tasks if task)
    assert measure(claim, tmp_path, "paper") == []


def test_the_tables_of_the_claims_are_those_of_the_sweep() -> None:
    """Tables 23 and 54 are in both comparisons, and scored as in the first."""
    assert len(GAIN.tasks) == 30
    assert len(LIFT.tasks) == 11
    assert set(load_spec("paper_tables").tasks) == {*GAIN.tasks, *LIFT.tasks}


def test_scores_of_a_missing_study_are_those_of_its_sweep_body_and_tables(
    tmp_path: Path,
) -> None:
    studies = {study.text: study for study in missing()}
    held_out = studies["the 30 tables, protocol `held-out`"]
    lift = studies["LIFT's other 11 tables"]
    large = studies["tables with `mpnet-base`"]
    store = ResultsStore(tmp_path / "openml", create=True)
    rows = [
        (GAIN.tasks[0], "minilm-l6", "held-out"),
        (GAIN.tasks[1], "mpnet-base", "paper"),
        (LIFT.tasks[0], "minilm-l6", "paper"),
        (LIFT.tasks[1], "minilm-l6", "paper"),
    ]
    store.append(
        [
            make_record(
                f"k{index}",
                sweep="paper_tables/tables",
                benchmark="openml",
                task=task,
                body=body,
                protocol=protocol,
            )
            for index, (task, body, protocol) in enumerate(rows)
        ]
    )
    numbers = [study.num_scores(tmp_path) for study in (held_out, large, lift)]
    assert numbers == [1, 1, 2]


def test_missing_studies_name_sweeps_that_exist() -> None:
    for study in missing():
        name, _, budget = study.sweep.partition("/")
        if name:
            path = Path(__file__).parents[3] / "sweeps" / f"{name}.yaml"
            budgets = yaml.safe_load(path.read_text())["budgets"]
            assert not budget or budget in budgets
