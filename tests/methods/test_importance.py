"""Permutation importance: which features are found, and what bounds its time."""

import time

import numpy as np
import pytest

from orca_ray.data.rows import Array
from orca_ray.methods import importance
from orca_ray.methods.importance import (
    Evaluated,
    Feature,
    find_features,
    measure_importance,
    samples_in_time,
)
from orca_ray.own_data import Options
from orca_ray.own_data.array_inputs import ArrayInputs
from orca_ray.own_data.infer_task import Preprocessing
from orca_ray.own_data.tables import Column, TableInputs
from orca_ray.own_data.targets import TargetCoding


def rmse(predictions: Array, y: Array) -> float:
    return float(np.sqrt(np.mean((predictions - y) ** 2)))


def make_parts(num_parts: int = 2, size: int = 100) -> list[Evaluated]:
    """Return series of three channels and eight steps.

    Step 5 of channel 1 is the target, which the model of each part knows.
    """
    random = np.random.default_rng(0)
    parts = list[Evaluated]()
    for number in range(num_parts):
        x = random.normal(size=(size, 3, 8)) + 10 * number
        parts.append(Evaluated(x, x[:, 1, 5], lambda x: x[:, 1, 5]))
    return parts


def test_the_one_informative_channel_and_window_are_found() -> None:
    features = find_features(None, (3, 8))
    found = measure_importance(make_parts(), rmse, features)
    important = [feature for feature in found if feature.importance > 0]
    assert {feature.feature for feature in important} == {"channel 1", "steps 5 to 5"}
    for feature in important:
        # Values are shuffled within a part: those of other parts are far away.
        assert feature.importance == pytest.approx(np.sqrt(2), rel=0.2)
        assert feature.num_repeats == importance.REPEATS
        assert feature.standard_error is not None
        assert 0 < feature.standard_error < 0.1
    assert {feature.importance for feature in found[2:]} == {0}


def test_inputs_are_not_changed() -> None:
    parts = make_parts()
    before = parts[0].x.copy()
    measure_importance(parts, rmse, find_features(None, (3, 8)), repeats=1)
    np.testing.assert_array_equal(parts[0].x, before)


def test_the_same_seed_gives_the_same_importance() -> None:
    features = find_features(None, (3, 8))

    def measure(seed: int) -> list[importance.FeatureImportance]:
        return measure_importance(make_parts(), rmse, features, seed=seed)

    assert measure(1) == measure(1)
    assert measure(1) != measure(2)


def test_all_places_of_a_column_are_shuffled_together() -> None:
    columns = (
        Column(name="when", kind="date", part="day"),
        Column(name="size", kind="number"),
        Column(name="when", kind="date", part="month"),
    )
    preprocessing = Preprocessing(
        reading=Options(),
        encoder=TableInputs(columns=columns),
        target=TargetCoding(kind="scalar"),
    )
    places = {
        feature.name: feature.place for feature in find_features(preprocessing, (1, 3))
    }
    assert places == {"when": (slice(None), [0, 2]), "size": (slice(None), [1])}


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ((1, 3), ["steps 0 to 0", "steps 1 to 1", "steps 2 to 2"]),
        ((3, 8, 8), []),
    ],
)
def test_series_have_windows_and_images_nothing(
    shape: tuple[int, ...], names: list[str]
) -> None:
    assert [feature.name for feature in find_features(None, shape)] == names


def test_windows_divide_all_steps() -> None:
    windows = find_features(None, (1, 123))
    steps = np.concatenate([np.arange(123)[window.place[1]] for window in windows])
    assert steps.tolist() == list(range(123))


def test_positions_of_a_vector_are_features_and_a_mask_is_no_channel() -> None:
    def names(encoder: ArrayInputs) -> list[str]:
        preprocessing = Preprocessing(
            reading=Options(), encoder=encoder, target=TargetCoding(kind="scalar")
        )
        found = find_features(preprocessing, encoder.shape)
        return [feature.name for feature in found]

    vector = ArrayInputs(
        axes="F",
        given=(2,),
        shape=(1, 2),
        per_feature=True,
        mean=(0, 0),
        std=(1, 1),
        largest=1,
    )
    assert names(vector) == ["feature 0", "feature 1"]
    masked = ArrayInputs(
        axes="CL",
        given=None,
        shape=(3, 20),
        mask=True,
        mean=(0, 0),
        std=(1, 1),
        largest=1,
    )
    assert names(masked)[:3] == ["channel 0", "channel 1", "steps 0 to 1"]


def test_time_bounds_repeats_and_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def predict(x: Array) -> Array:
        clock[0] += 0.01 * len(x)
        return x[:, 0]

    x = np.random.default_rng(0).normal(size=(1000, 4))
    parts = [Evaluated(x, x[:, 0], predict)] * 2
    features = [Feature(f"{number}", ([number],)) for number in range(4)]
    [first, second] = samples_in_time(parts, len(features), seconds=10)
    assert len(first.x) == len(second.x) == 100
    np.testing.assert_array_equal(first.y, first.x[:, 0])
    few = samples_in_time(parts, len(features), seconds=0)
    assert sum(len(part.x) for part in few) == importance.LEAST_SAMPLES
    begin = clock[0]
    # One prediction of 200 samples takes 2 s: one before, and ten of permuted samples.
    found = measure_importance([first, second], rmse, features, seconds=21)
    assert clock[0] - begin == pytest.approx(22)
    assert sorted(feature.num_repeats for feature in found) == [2, 2, 3, 3]
    assert measure_importance([first, second], rmse, features, seconds=1) == []


def test_one_repeat_has_no_standard_error() -> None:
    [found] = measure_importance(
        make_parts(), rmse, find_features(None, (3, 8))[1:2], repeats=1
    )
    assert found.standard_error is None
