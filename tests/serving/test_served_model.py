"""A model that predicts in batches in a thread of its own."""

import asyncio
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from orca_ray.serving.application import (
    MOST_REQUESTS,
    ServedModel,
)


class FakeModel:
    """Sums up its inputs when it may go."""

    task = SimpleNamespace(input_shape=(2,))

    def __init__(self) -> None:
        self.calls = list[int]()
        self.go = threading.Event()
        self.go.set()

    def outputs_of(self, x: Array) -> Array:
        self.go.wait(30)
        self.calls.append(len(x))
        if np.isnan(x).any():
            raise UserError("not finite")
        return np.asarray(x.sum(axis=1))


def test_requests_that_arrive_together_are_one_batch_and_get_their_own_answers() -> (
    None
):
    model = FakeModel()
    served = ServedModel(model, 30)  # type: ignore[arg-type]
    futures = [
        served.outputs(np.full((1 + number % 2, 2), number, np.float32))
        for number in range(40)
    ]
    for number, future in enumerate(futures):
        outputs, batch = future.result(30)
        assert outputs.tolist() == [2.0 * number] * (1 + number % 2)
        assert batch == (48 if number < MOST_REQUESTS else 12)
    cancelled, bad, good = (
        served.outputs(np.full((1, 2), value, np.float32)) for value in (0, np.nan, 3)
    )
    cancelled.cancel()
    with pytest.raises(UserError, match="not finite"):
        bad.result(30)
    assert good.result(30)[0].tolist() == [6.0]
    assert model.calls == [48, 12, 2, 1, 1]


def test_the_first_requests_of_all_clients_come_before_the_second_ones() -> None:
    model = FakeModel()
    served = ServedModel(model, 30)  # type: ignore[arg-type]
    model.go.clear()
    served.outputs(np.zeros((1, 2), np.float32))
    time.sleep(0.1)  # the model predicts the first batch
    sizes = [2] * MOST_REQUESTS
    for num_before, size in enumerate(sizes):
        served.outputs(np.zeros((size, 2), np.float32), num_before)
    other = served.outputs(np.zeros((7, 2), np.float32))
    model.go.set()
    assert other.result(30).batch_samples == 7 + 2 * (MOST_REQUESTS - 1)


def test_a_model_that_hangs_is_not_ready() -> None:
    model = FakeModel()
    served = ServedModel(model, 0.2)  # type: ignore[arg-type]
    assert asyncio.run(served.ready())
    assert asyncio.run(served.ready())
    assert model.calls == [1], "tried once"
    model.go.clear()
    hangs = served.outputs(np.ones((1, 2), np.float32))
    time.sleep(0.4)
    assert not asyncio.run(served.ready())
    model.go.set()
    hangs.result(30)
    assert asyncio.run(served.ready())
