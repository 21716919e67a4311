"""`fno`: it learns an operator, predicts fields only, and needs no body."""

from dataclasses import replace

import numpy as np
import pytest

from orca_ray.data.prepared import Split
from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.methods.hyperparameters import relevant, resolve
from orca_ray.methods.recipe import NO_BODY
from orca_ray.methods.registry import get_method
from orca_ray.testing.trials import CLASSES, TASK, make_data, make_task, run, start

FIELD = make_task(Target("dense", shape=(16,)), (1, 16))


def test_it_learns_the_derivative_of_smooth_fields() -> None:
    data, random = make_data(FIELD), np.random.default_rng(0)
    angles, frequencies = np.arange(16) * np.pi / 8, np.arange(1, 4)[:, None]

    def split(size: int) -> Split:
        amplitudes = random.normal(size=(2, size, 3))
        waves = np.sin(frequencies * angles), np.cos(frequencies * angles)
        x = amplitudes[0] @ waves[0] + amplitudes[1] @ waves[1]
        y = (amplitudes[0] * frequencies.T) @ waves[1] - (amplitudes[1] * frequencies.T) @ waves[0]
        return Split(x[:, None].astype(np.float32), y.astype(np.float32))

    learnable = replace(data, splits={"train": split(64), "validation": split(20), "test": split(20)})
    adaptation = start(NO_BODY, "fno", task=FIELD, data=learnable, hyperparameters={"refine.epochs": 15})
    run(adaptation)
    outcome = adaptation.result()
    assert outcome.test_score is not None
    assert outcome.test_score < 0.2  # relative error; a prediction of 0 has 1


def test_other_targets_than_fields_are_refused() -> None:
    with pytest.raises(UserError, match=r"fno cannot adapt to tiny/classes: it predicts fields.* not classes"):
        start(NO_BODY, "fno", task=make_task(CLASSES, (2, 16)))


def test_costs() -> None:
    operations, values = get_method("fno").operations, relevant(resolve("fno", {}), "fno")
    assert operations is not None
    line, plane = (
        operations(make_task(Target("dense", shape=shape), (1, *shape)), values) for shape in ((64,), (64, 64))
    )
    assert line is not None
    assert plane is not None
    assert 20 < plane / line < 100  # 64 times the points, 24 times the frequencies
    assert operations(replace(TASK, input_shape=None, input_kind="sequence"), values) is None
