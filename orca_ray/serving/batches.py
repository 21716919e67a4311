"""Joins requests that arrive together to one call of the replica."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from orca_ray.data.rows import Array
from orca_ray.serving.replica import Answer

MOST_REQUESTS = 32
"""Requests in a batch."""
WAIT_SECONDS = 0.005
"""How long the first request of a batch waits for others. While a batch is computed, the next one collects anyway."""


class Batches:
    """Calls ``predict`` with the requests that have arrived since its last call; it belongs to one event loop.

    Batches are made on this side of the call, because a call of a Ray Serve replica takes milliseconds on both sides,
    whatever it carries.
    """

    def __init__(self, predict: Callable[[list[Array]], Awaitable[Sequence[Answer | str]]]) -> None:
        """Use ``predict``, which returns an answer, or the message of an error, for each request."""
        self._predict = predict
        self._waiting: deque[tuple[Array, asyncio.Future[Answer | str]]] = deque()
        self._running: asyncio.Task[None] | None = None

    async def __call__(self, encoded: Array) -> Answer | str:
        """Return the answer to one request, float32 [n, *input_shape]; raises what ``predict`` raises."""
        future: asyncio.Future[Answer | str] = asyncio.get_running_loop().create_future()
        self._waiting.append((encoded, future))
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        await asyncio.sleep(WAIT_SECONDS)
        while self._waiting:
            taken = [self._waiting.popleft() for _ in range(min(MOST_REQUESTS, len(self._waiting)))]
            taken = [(encoded, future) for encoded, future in taken if not future.done()]  # others ran out of time
            if not taken:
                continue
            try:
                answers = await self._predict([encoded for encoded, _ in taken])
            except Exception as error:
                for _, future in taken:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), answer in zip(taken, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
