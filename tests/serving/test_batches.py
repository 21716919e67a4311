import asyncio

import numpy as np
import pytest

from orca_ray.data.rows import Array
from orca_ray.serving.batches import MOST_REQUESTS, Batches
from orca_ray.serving.replica import Answer


def answer(request: Array) -> Answer:
    return Answer(request.sum(axis=1), None, len(request))


def test_requests_that_arrive_together_are_few_calls_and_get_their_own_answers() -> None:
    calls: list[int] = []

    async def predict(requests: list[Array]) -> list[Answer | str]:
        calls.append(len(requests))
        await asyncio.sleep(0.01)
        return [answer(each) if each.all() else "a zero" for each in requests]

    async def run() -> list[Answer | str]:
        batches = Batches(predict)
        first = await asyncio.gather(*(batches(np.full((1, 2), number, dtype=np.float32)) for number in range(40)))
        return [*first, await batches(np.ones((3, 2), dtype=np.float32))]

    found = asyncio.run(run())
    assert calls == [MOST_REQUESTS, 8, 1]
    assert found[0] == "a zero"
    assert [each.predictions[0] for each in found[1:40] if isinstance(each, Answer)] == [2.0 * n for n in range(1, 40)]
    assert isinstance(found[40], Answer)
    assert found[40].predictions.tolist() == [2.0] * 3


def test_an_error_of_a_call_is_that_of_its_requests_and_a_request_that_gave_up_is_left_out() -> None:
    calls: list[int] = []

    async def predict(requests: list[Array]) -> list[Answer | str]:
        calls.append(len(requests))
        if len(calls) == 1:
            raise RuntimeError("the replica is gone")
        return [answer(each) for each in requests]

    async def run() -> None:
        batches, one = Batches(predict), np.ones((1, 2), dtype=np.float32)
        given_up = asyncio.create_task(batches(one))
        await asyncio.sleep(0)
        given_up.cancel()
        with pytest.raises(RuntimeError, match="gone"):
            await batches(one)
        assert isinstance(await batches(one), Answer)

    asyncio.run(run())
    assert calls == [1, 1]
