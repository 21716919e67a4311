"""Conformal intervals and sets: how often they hold, and which files are refused."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy.special import softmax

from orca_ray.data.rows import Array, Target
from orca_ray.errors import UserError
from orca_ray.methods.conformal import MOST_RANKS, MOST_VALUES, Conformal, sets_of
from orca_ray.methods.model_config import TaskSummary
from orca_ray.testing.trials import CLASSES, make_task

NUM_DRAWS = 4000
NUMBER = Target("scalar")


def make_record(scores: Array) -> Conformal:
    """Return the record of scores, which must be stored."""
    record = Conformal.of(scores)
    assert record is not None
    return record


def summary(target: Target) -> TaskSummary:
    """Return the summary of a small task."""
    return TaskSummary.of(make_task(target), "full", "0" * 16)


def assert_binomial(num_held: int, level: float) -> None:
    """Assert that a count of `NUM_DRAWS` is within four standard deviations."""
    deviation = math.sqrt(NUM_DRAWS * level * (1 - level))
    assert abs(num_held - NUM_DRAWS * level) < 4 * deviation


@pytest.mark.parametrize(("num_samples", "level"), [(19, 0.9), (99, 0.9), (99, 0.5)])
def test_intervals_hold_a_new_number_as_often_as_they_say(
    num_samples: int, level: float
) -> None:
    random = np.random.default_rng(0)
    residuals = np.abs(random.standard_cauchy((NUM_DRAWS, num_samples + 1)))
    held = [draw[-1] <= make_record(draw[:-1]).quantile(level) for draw in residuals]
    assert_binomial(sum(map(int, held)), level)


def test_sets_hold_a_new_class_as_often_as_they_say() -> None:
    random = np.random.default_rng(1)
    num_samples = 99
    shape = (NUM_DRAWS, num_samples + 1, 4)
    true_chances = softmax(2 * random.normal(size=shape), axis=2)
    thresholds = random.random((*shape[:2], 1))
    classes = (true_chances.cumsum(axis=2) < thresholds).sum(axis=2).clip(max=3)
    # The model is far too certain, which the calibration must make up for.
    chances = softmax(3 * np.log(true_chances), axis=2)
    num_held = 0
    for draw, labels in zip(chances, classes, strict=True):
        scores = 1 - draw[np.arange(num_samples), labels[:-1]]
        members = sets_of(draw[-1:], float(make_record(scores).quantile(0.9)))
        assert members.any()
        num_held += int(members[0, labels[-1]])
    assert_binomial(num_held, 0.9)


def test_each_value_of_a_field_has_its_own_interval() -> None:
    random = np.random.default_rng(2)
    deviations = np.array([[0.1, 1.0], [10.0, 100.0]])
    record = make_record(np.abs(random.normal(size=(999, 2, 2)) * deviations))
    np.testing.assert_allclose(record.quantile(0.9), 1.645 * deviations, rtol=0.15)


@pytest.mark.parametrize("level", [0.01, 0.5, 0.9, 0.9003, 0.99])
def test_ranks_that_are_left_out_make_intervals_wider(level: float) -> None:
    scores = np.random.default_rng(3).random(7 * MOST_RANKS)
    record = make_record(scores)
    rank = math.ceil((len(scores) + 1) * level)
    exact = np.sort(scores)[rank - 1]
    next_stored = np.sort(scores)[rank - 1 + 7]
    assert len(record.ranks) == MOST_RANKS
    assert exact <= record.quantile(level) <= next_stored


def test_a_large_field_has_few_ranks_or_none() -> None:
    field = np.zeros((40, MOST_VALUES // 30), np.float32)
    assert len(make_record(field).ranks) == 30
    assert Conformal.of(np.zeros((40, MOST_VALUES // 10), np.float32)) is None
    assert Conformal.of(np.zeros(0)) is None


@pytest.mark.parametrize(
    ("level", "message"),
    [
        (0.0, "give a level above 0 and below 1"),
        (1.0, "give a level above 0 and below 1"),
        (math.nan, "give a level above 0 and below 1"),
        (0.95, r"calibrated on 9 samples, which allow at most 0\.9"),
    ],
)
def test_a_level_that_the_samples_do_not_allow_is_refused(
    level: float, message: str
) -> None:
    record = make_record(np.arange(9.0))
    assert record.quantile(0.9) == pytest.approx(8)
    with pytest.raises(UserError, match=message):
        record.quantile(level)


@pytest.mark.parametrize("target", [CLASSES, NUMBER, Target("dense", shape=(3, 4))])
def test_a_file_gives_the_same_quantiles(target: Target, tmp_path: Path) -> None:
    shape = () if target.kind == "classes" else target.output_shape
    record = make_record(np.random.default_rng(4).random((50, *shape)))
    record.save(tmp_path / "scores")
    read = Conformal.read(tmp_path / "scores", summary(target))
    np.testing.assert_array_equal(read.quantile(0.8), record.quantile(0.8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("ranks"), "ranks"),
        (lambda a: a.update(ranks=a["ranks"][::-1].copy()), "the ranks must increase"),
        (lambda a: a.update(ranks=a["ranks"] - 1), "the ranks must increase"),
        (lambda a: a.update(ranks=a["ranks"].astype(np.float64)), "be integers"),
        (lambda a: a.update(num_samples=np.array([10**15])), "the ranks must increase"),
        (lambda a: a.update(num_samples=np.array([math.inf])), "infinity"),
        (lambda a: a.update(num_samples=np.array([1, 2])), "reshape"),
        (lambda a: a.update(scores=a["scores"][1:].copy()), "a float32 score for each"),
        (lambda a: a.update(scores=a["scores"][::-1].copy()), "finite and sorted"),
        (lambda a: a.update(scores=a["scores"] * np.float32(np.nan)), "finite and"),
        (lambda a: a.update(scores=a["scores"] - np.float32(9)), "not be negative"),
        (lambda a: a.update(scores=a["scores"][:, None].copy()), "have shape"),
        (lambda a: a.update(scores=a["scores"].astype(np.float64)), "float32"),
    ],
)
def test_a_forged_file_is_refused(
    change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path
) -> None:
    record = make_record(np.linspace(0, 1, 20))
    arrays = {
        "num_samples": np.array([20]),
        "ranks": record.ranks,
        "scores": record.scores,
    }
    change(arrays)
    save_file(arrays, tmp_path / "scores")
    with pytest.raises(UserError, match=message):
        Conformal.read(tmp_path / "scores", summary(NUMBER))


def test_a_damaged_or_huge_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scores").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="scores: "):
        Conformal.read(tmp_path / "scores", summary(NUMBER))
    with (tmp_path / "scores").open("wb") as file:
        file.truncate(10**10)
    with pytest.raises(UserError, match="expected at most"):
        Conformal.read(tmp_path / "scores", summary(NUMBER))
