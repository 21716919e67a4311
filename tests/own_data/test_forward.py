"""Folds and outer test of later samples of unseen groups."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from orca_ray.data.prepared import num_folds, with_fold
from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from orca_ray.own_data import Notes, Options, UserData
from orca_ray.own_data.folds import draw_folds
from orca_ray.own_data.forward import LEAST_TRAINED, ForwardRule
from orca_ray.own_data.infer_task import Inferred, infer
from orca_ray.own_data.registration import register
from orca_ray.own_data.splits import draw_splits
from tests.own_data.test_infer_task import found

RNG = np.random.default_rng(0)


def make_data(times: Any, groups: Any = None, **properties: Any) -> UserData:
    num_samples = len(times)
    return UserData(
        x=RNG.normal(size=(num_samples, 3)),
        y=np.arange(num_samples) % 2,
        source="my.npz",
        times=np.asarray(times),
        groups=None if groups is None else np.asarray(groups),
        **properties,
    )


def assert_forward(
    trained: Array, judged: Array, times: Array, groups: Array | None, gap: float
) -> None:
    assert len(trained) >= LEAST_TRAINED
    assert len(judged)
    assert times[trained].max() + gap < times[judged].min()
    if groups is not None:
        assert not set(groups[trained]) & set(groups[judged])


@settings(max_examples=60, deadline=None)
@given(
    num_samples=st.integers(40, 200),
    num_times=st.integers(3, 200),
    num_groups=st.integers(0, 30),
    gap=st.sampled_from([0.0, 1.0, 2.5, 10.0]),
    drift=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_what_trains_is_earlier_and_of_other_groups(
    num_samples: int,
    num_times: int,
    num_groups: int,
    gap: float,
    drift: float,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    times = rng.integers(0, num_times, num_samples).astype(np.float64)
    groups = None
    if num_groups:
        # with drift 1, later samples are of other groups; with 0, all times have all
        mixed = rng.integers(0, num_groups, num_samples)
        ordered = (times * num_groups / num_times).astype(int)
        groups = np.where(rng.random(num_samples) < drift, ordered, mixed)
    options = Options(gap=gap, holdout=True)
    data = make_data(times, groups)
    rows = np.arange(num_samples)
    classes = data.y
    notes = Notes()
    try:
        splits = draw_splits(data, rows, classes, options, notes)
        known = np.concatenate([splits["train"], splits["validation"]])
        folds = draw_folds(data, known, classes, rows, options, notes)
    except UserError:  # too few groups or times
        reject()
    assert folds is not None
    assert_forward(known, splits["test"], times, groups, gap)
    rule = ForwardRule.of_data(data, options, notes)
    assert rule is not None
    training = rule.training_of_folds(known, splits["validation"], folds)
    assert len(training) == 1 + folds.max() >= 3
    assert_forward(known[training[0]], splits["validation"], times, groups, gap)
    for fold in range(1, folds.max() + 1):
        judged = known[folds[0] == fold]
        assert_forward(known[training[fold]], judged, times, groups, gap)
        if fold > 1:  # fold 1 is the latest
            assert times[judged].max() < times[known[folds[0] == fold - 1]].min()


def test_groups_that_follow_each_other_lose_no_sample() -> None:
    groups = np.arange(240) // 8
    data = make_data(np.arange(240), groups)
    splits = draw_splits(data, np.arange(240), data.y, Options(), Notes())
    assert sum(map(len, splits.values())) == 240
    assert abs(len(splits["test"]) - 36) <= 8


def test_the_test_is_held_out_by_default_only_if_few_samples_are_left_out() -> None:
    panel = make_data(np.arange(240) // 10, np.arange(240) % 10)
    result = infer(panel)
    assert "test" not in result.splits
    assert sum(map(len, result.splits.values())) == 240
    why = next(each.why for each in result.findings if each.what == "holdout")
    assert "would leave out" in why
    held_out = infer(panel, Options(holdout=True))
    assert "of 240 samples are left out" in " ".join(held_out.warnings)


def test_no_warning_says_that_groups_are_divided() -> None:
    data = make_data(np.arange(240) // 10, np.arange(240) % 10)
    for holdout in (True, False):
        warnings = " ".join(infer(data, Options(holdout=holdout)).warnings)
        assert "values of the groups are in several splits" not in warnings


def test_trials_train_on_earlier_samples_of_other_groups(tmp_path: Any) -> None:
    times = np.arange(240) // 10
    groups = np.arange(240) % 10
    data = make_data(times, groups)
    # the inputs say which sample it is
    data = UserData(
        x=np.stack([times, groups], axis=1).astype(np.float32),
        y=data.y,
        times=times,
        groups=groups,
    )
    result = infer(data, Options(gap=1))
    encoder: Any = result.preprocessing.encoder
    task = register(result, data)
    prepared = task.prepared()
    assert prepared is not None
    assert num_folds(prepared) == 5
    sizes = set()
    for fold in range(6):
        parts = with_fold(prepared, fold)
        trained, judged = (
            np.round(np.asarray(part.x)[:, 0] * encoder.std + encoder.mean)
            for part in (parts.train, parts.validation)
        )
        assert trained[:, 0].max() + 1 < judged[:, 0].min()
        assert not set(trained[:, 1]) & set(judged[:, 1])
        sizes.add(len(trained))
    assert len(sizes) > 2
    assert len(with_fold(prepared, -2).train) == 240


def test_a_gap_in_days_for_dates() -> None:
    days = np.datetime64("2024-01-01") + np.arange(100)
    data = make_data(days.astype("datetime64[us]"))
    splits = draw_splits(data, np.arange(100), data.y, Options(gap=7), Notes())
    latest = days[np.concatenate([splits["train"], splits["validation"]])].max()
    assert days[splits["test"]].min() - latest == np.timedelta64(8, "D")


def test_a_gap_of_zero_has_folds_of_later_samples() -> None:
    result = infer(make_data(np.arange(120)), Options(gap=0))
    assert found(result, "folds") == "5 folds"
    assert result.fold_training is not None
    # without a gap and groups, folds are blocks, and later blocks train, too
    assert infer(make_data(np.arange(120))).fold_training is None


def test_a_declared_test_split_is_kept() -> None:
    times = np.arange(120)
    declared = np.where(times < 100, "train", "test")
    groups = np.arange(120) // 4
    result = infer(make_data(times, groups, splits=declared))
    assert result.splits["test"].tolist() == list(range(100, 120))
    assert result.fold_training is not None
    assert result.fold_training.sum(axis=1).min() >= LEAST_TRAINED


def test_folds_are_fewer_where_early_samples_have_one_class() -> None:
    data = make_data(np.arange(200))
    y = np.where(np.arange(200) < 60, 0, np.arange(200) % 2)
    late = UserData(x=data.x, y=y, times=data.times, source="my.npz")
    result = infer(late, Options(gap=0, holdout=False))
    assert found(result, "folds") == "2 folds"
    assert "2 folds instead of 5" in " ".join(result.warnings)


def refused(data: UserData, options: Options) -> str:
    def refuse() -> Inferred:
        return infer(data, options)

    with pytest.raises(UserError) as caught:
        refuse()
    return str(caught.value)


@pytest.mark.parametrize(
    ("data", "gap", "expected"),
    [
        (make_data(np.arange(60), np.zeros(60)), 0, "60 different times and 1 groups"),
        (make_data(np.zeros(60), np.arange(60)), 0, "1 different times"),
        (make_data(np.arange(60)), 100, "a smaller --gap"),
        (
            UserData(x=np.eye(60), y=np.arange(60) % 2),
            3,
            "name their column with --time",
        ),
        (
            make_data(np.arange(60), splits=np.array(["train", "test"] * 30)),
            3,
            "leave out --gap or --split",
        ),
    ],
)
def test_what_cannot_be_divided_is_refused(
    data: UserData, gap: float, expected: str
) -> None:
    assert expected in refused(data, Options(gap=gap))
