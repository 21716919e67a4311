"""The ASGI application that answers requests for predictions of one model.

A thread predicts in batches. Before a request reaches it, the application checks its
route and its limits, and counts it. `orca_ray.serving.decoding` decodes bodies.
"""

import asyncio
import hmac
import ipaddress
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from orca_ray.predictor import Predictor
from orca_ray.serving.formats import Formats
from orca_ray.serving.reading import ARROW, JSON

PREDICT = "/v1/predict"
"""Path of predictions."""
OPEN = ("/healthz", "/readyz")
"""Paths that are answered without a token."""
PATHS = (PREDICT, *OPEN, "/metrics", "/openapi.json")
"""All paths."""
MOST_REQUESTS = 32
"""Largest number of requests in a batch."""
WAIT_SECONDS = 0.005
"""Seconds that the first request of a batch waits for others, if none is waiting."""
IN_PROGRESS = 64
"""Largest number of requests for predictions at a time."""
HELD_BODIES = 8
"""Number of bodies of the largest size that may be in memory at a time."""
CLIENT_SHARE = 0.75
"""Share of the requests and bodies at a time that one client may have."""
MOST_CLIENTS = 1000
"""Number of clients from which on those without a request are forgotten."""
SLOW_SECONDS = 1.0
"""Seconds after which an incomplete request ends if another one needs its place."""
_LATENCY_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
"""Upper bounds in seconds of the histogram of latencies."""
_SIZE_BUCKETS = tuple(4**power for power in range(8))
"""Upper bounds of the histograms of numbers of samples."""

logger = logging.getLogger(__name__)


class Outputs(NamedTuple):
    """Outputs for the samples of one request."""

    values: Array
    """Outputs [n, *output_shape], float32."""
    batch_samples: int
    """Number of samples in the batch in which the outputs were computed."""


_Job = tuple[Array, "Future[Outputs]"]
"""Samples [n, *input_shape] of a request, and the future of their outputs."""
_Read = Callable[[str, bytes], tuple[Array, list[str]]]
"""Function that returns the samples in a body of a media type, and warnings."""


class Limits(NamedTuple):
    """Largest sizes, rates and times of requests that the server accepts."""

    body_bytes: int = 16 * 2**20
    samples: int = 10_000
    """Samples in a request."""
    rate: float = 500.0
    """Requests for predictions a second of one client; as many may come at once."""
    seconds: float = 30.0
    """Seconds from the first byte of a request to its answer."""


@dataclass(eq=False)
class Client:
    """The requests of one address: their number, bytes and turns."""

    arrival_time: float = 0.0
    """Time at which the last accepted request would have come at the full rate."""
    in_progress: int = 0
    held_bytes: int = 0
    predicting: int = 0
    """Number of requests whose samples wait for the model, or are predicted."""
    decoding: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Lock that is held while a body is decoded, so that clients take turns."""


class ServedModel:
    """Model that predicts in one daemon thread.

    A `Predictor` is not thread-safe, and a call may never return.
    """

    def __init__(self, model: Predictor, seconds: float) -> None:
        """Start the thread.

        A batch that takes more than ``seconds`` makes the model unready.
        """
        self._model = model
        self._seconds = seconds
        self._batch_begin = float("inf")
        self._works = False
        self._jobs: queue.PriorityQueue[tuple[int, int, _Job]] = queue.PriorityQueue()
        self._numbers = itertools.count()
        threading.Thread(target=self._work, name="model", daemon=True).start()

    def outputs(self, x: Array, num_before: int = 0) -> "Future[Outputs]":
        """Return a future of the outputs for samples [n, *input_shape].

        ``num_before`` is the number of requests of the same client that wait: the first
        requests of all clients come before the second ones.
        """
        future = Future[Outputs]()
        self._jobs.put((num_before, next(self._numbers), (x, future)))
        return future

    async def ready(self) -> bool:
        """Return whether the model can predict.

        If it never did, or failed last, it predicts a sample of zeros first.
        """
        if not self._works:
            zeros = np.zeros((1, *self._model.task.input_shape), np.float32)
            answer = asyncio.wait_for(
                asyncio.wrap_future(self.outputs(zeros)), self._seconds
            )
            await asyncio.gather(answer, return_exceptions=True)
        return self._works and time.monotonic() - self._batch_begin < self._seconds

    def _work(self) -> None:
        """Predict batches of waiting requests, for ever.

        A batch has at most `MOST_REQUESTS` requests.
        """
        while True:
            jobs = [self._jobs.get()]
            time.sleep(WAIT_SECONDS if self._jobs.empty() else 0)
            while len(jobs) < MOST_REQUESTS and not self._jobs.empty():
                jobs.append(self._jobs.get())
            self._batch_begin = time.monotonic()
            # Requests that have ended meanwhile have cancelled their futures.
            batch = [
                (x, future)
                for _, _, (x, future) in jobs
                if future.set_running_or_notify_cancel()
            ]
            if batch:
                self._predict(batch)
            self._batch_begin = float("inf")  # no batch is being predicted

    def _predict(self, batch: list[_Job]) -> None:
        """Set the outputs of all jobs; if the batch fails, predict each job alone."""
        inputs = [x for x, _ in batch]
        try:
            outputs = self._model.outputs_of(np.concatenate(inputs))
        except Exception as error:
            # A UserError is about the inputs, not about the model.
            self._works = isinstance(error, UserError)
            if len(batch) == 1:
                _, future = batch[0]
                future.set_exception(error)
                return
            # The inputs of one request are at fault, or all need too much memory.
            for job in batch:
                self._predict([job])
            return
        self._works = True
        begin = 0
        for x, future in batch:
            end = begin + len(x)
            future.set_result(Outputs(outputs[begin:end], len(outputs)))
            begin = end


@dataclass
class _Place:
    """The place of a request in progress: its client and its body so far."""

    begin: float
    """Time at which the request began."""
    client: Client
    body: bytearray = field(default_factory=bytearray)
    """Body so far."""
    is_free: bool = False
    """Whether the request has ended."""


class Metrics:
    """Counters and histograms of requests, in the format of Prometheus."""

    def __init__(self, num_in_progress: Callable[[], int]) -> None:
        """Register the metrics; ``num_in_progress`` counts running predictions."""
        self._registry = CollectorRegistry()
        common: dict[str, Any] = {"registry": self._registry, "namespace": "orca_ray"}
        self._requests = Counter(
            "requests", "Answered requests.", ["path", "status"], **common
        )
        self._errors = Counter(
            "request_errors",
            "Requests answered with a status from 400 on.",
            ["status"],
            **common,
        )
        self._latency = Histogram(
            "request_seconds",
            "Time from head to answer.",
            ["path"],
            buckets=_LATENCY_BUCKETS,
            **common,
        )
        self._samples = Histogram(
            "request_samples", "Samples in a request.", buckets=_SIZE_BUCKETS, **common
        )
        self._batch_samples = Histogram(
            "batch_samples",
            "Samples in the batch of a request.",
            buckets=_SIZE_BUCKETS,
            **common,
        )
        in_progress = Gauge(
            "requests_in_progress", "Requests for predictions in progress.", **common
        )
        in_progress.set_function(num_in_progress)

    def count_answer(self, path: str, status: int, seconds: float) -> None:
        """Count an answered request; paths without a route share one name."""
        name = path if path in PATHS else "other"
        self._requests.labels(name, status).inc()
        self._latency.labels(name).observe(seconds)
        if status >= 400:
            self._errors.labels(status).inc()

    def count_prediction(self, num_samples: int, batch_samples: int) -> None:
        """Count the samples of a request and of the batch in which it was computed."""
        self._samples.observe(num_samples)
        self._batch_samples.observe(batch_samples)

    def text(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self._registry)


def client_key(host: str) -> str:
    """Return the name under which all requests of a client's address ``host`` count.

    Of an IPv6 address, it is the network (/64), of which one client has all addresses.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version == 4:
        return host
    return str(ipaddress.ip_network((address.packed[:8] + bytes(8), 64)))


def _is_local(host: str) -> bool:
    """Return whether a Host header names this machine.

    Other names are refused, as another site's DNS may bind its name to 127.0.0.1.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _as_refusal(error: Exception) -> HTTPException:
    """Return the answer to a request that raised ``error``."""
    if isinstance(error, HTTPException):
        return error
    if isinstance(error, ClientDisconnect):
        return HTTPException(400, "the client has gone")
    if isinstance(error, UserError):
        return HTTPException(422, str(error))
    logger.error("a request failed", exc_info=error)
    return HTTPException(
        500, "the server or its model failed; the log of the server has the error"
    )


def _media_type(request: Request) -> str:
    """Return the media type of a request's body.

    Raises HTTPException if it is neither `JSON` nor `ARROW`, or if the body is
    compressed.
    """
    content_type = request.headers.get("content-type", "")
    media = content_type.partition(";")[0].strip().lower()
    encoding = request.headers.get("content-encoding", "identity").lower()
    if media not in (JSON, ARROW) or encoding != "identity":
        raise HTTPException(415, f"send {JSON} or {ARROW}, without compression")
    return media


class Application:
    """ASGI application that answers requests for predictions of one model.

    Exceptions become answers, too.
    """

    def __init__(
        self,
        model: Predictor,
        limits: Limits,
        token: str | None,
        read: _Read | None = None,
    ) -> None:
        """Start the thread of the model.

        Requests must send ``token``; None: they need none. ``read`` decodes bodies, one
        at a time; None: this process does, and answers nothing else meanwhile.
        """
        self._limits = limits
        self._token = token
        self._formats = Formats(model, limits.samples)
        self._served = ServedModel(model, limits.seconds)
        self._read = read or self._formats.reader.read
        # one worker each, so that the memory that they need does not add up
        self._reader = ThreadPoolExecutor(1)
        self._writer = ThreadPoolExecutor(1)
        self._clients: dict[str, Client] = {}
        self._held_bytes = 0
        self._in_progress = 0
        self._arriving: dict[asyncio.Timeout, _Place] = {}
        """Requests whose body is incomplete, by their time limit, oldest first."""
        self._metrics = Metrics(lambda: self._in_progress)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        begin = time.perf_counter()
        try:
            response = await self._answer(Request(scope, receive))
        except Exception as error:
            refusal = _as_refusal(error)
            response = JSONResponse(
                {"error": refusal.detail}, refusal.status_code, refusal.headers
            )
        self._metrics.count_answer(
            scope["path"], response.status_code, time.perf_counter() - begin
        )
        await response(scope, receive, send)

    def _check_access(self, request: Request) -> None:
        """Raise HTTPException if the client of a request may not use this server.

        If the server has a token, the request must send it, except for a path in
        `OPEN`. Without a token, the request's host must be this machine.
        """
        if self._token is None:
            if not _is_local(request.headers.get("host", "localhost")):
                raise HTTPException(
                    421,
                    "without a token, this server answers to localhost and 127.0.0.1"
                    " alone: set one",
                )
            return
        if request.scope["path"] in OPEN:
            return
        expected = f"Bearer {self._token}".encode()
        values = request.headers.getlist("authorization")
        if len(values) != 1 or not hmac.compare_digest(
            values[0].encode("latin-1"), expected
        ):
            raise HTTPException(
                401,
                "send the token: Authorization: Bearer TOKEN",
                {"WWW-Authenticate": "Bearer"},
            )

    async def _answer(self, request: Request) -> Response:
        """Return the answer of the route of a request; HTTPException if none fits."""
        self._check_access(request)
        path = request.scope["path"]
        match request.method, path:
            case "POST", "/v1/predict":
                return await self._predict(request)
            case "GET", "/healthz":
                return JSONResponse({"status": "ok"})
            case "GET", "/readyz":
                if not await self._served.ready():
                    raise HTTPException(503, "the model is not ready; ask again")
                return JSONResponse({"status": "ready"})
            case "GET", "/metrics":
                return Response(
                    self._metrics.text(), media_type="text/plain; version=0.0.4"
                )
            case "GET", "/openapi.json":
                return JSONResponse(
                    self._formats.description(token=self._token is not None)
                )
        raise HTTPException(
            405 if path in PATHS else 404,
            f"use POST {PREDICT} or GET {', '.join(PATHS[1:])}",
            {"Allow": "POST" if path == PREDICT else "GET"},
        )

    async def _predict(self, request: Request) -> Response:
        """Read the body of a request, and answer with predictions.

        Raises HTTPException if the body is too large, or the request too slow or one of
        too many.
        """
        media = _media_type(request)
        # The HTTP server has checked that these are digits. The first 16 suffice to see
        # that a length is too large.
        length = request.headers.get("content-length", "0")
        if int(length[:16]) > self._limits.body_bytes:
            raise self._too_large()
        now = time.monotonic()
        client = self._client_of(request, now)
        self._admit(client, now)
        place = _Place(now, client)
        self._in_progress += 1
        client.in_progress += 1
        try:
            async with asyncio.timeout(self._limits.seconds) as deadline:
                self._arriving[deadline] = place
                await self._receive(request, place)
                self._arriving.pop(deadline, None)
                return await self._predicted(media, bytes(place.body), client)
        except TimeoutError as error:
            raise HTTPException(
                408,
                f"the request took longer than {self._limits.seconds:g} s, or than"
                f" the {SLOW_SECONDS:g} s that a body has while others wait; send"
                " fewer samples, or send them faster",
                {"Connection": "close"},
            ) from error
        finally:
            self._arriving.pop(deadline, None)
            self._free(place)

    def _client_of(self, request: Request, now: float) -> Client:
        """Return the client of a request, and forget others that ask for nothing."""
        if len(self._clients) >= MOST_CLIENTS:
            least = now - max(1.0, 1 / self._limits.rate)
            self._clients = {
                key: client
                for key, client in self._clients.items()
                if client.in_progress or client.arrival_time > least
            }
        host = request.client.host if request.client else ""
        return self._clients.setdefault(client_key(host), Client())

    def _admit(self, client: Client, now: float) -> None:
        """Count a new request towards the rate; HTTPException if there are too many."""
        step = 1 / self._limits.rate
        # At most one second is made up for: so many requests may come at once.
        arrival_time = max(client.arrival_time, now - max(1.0, step)) + step
        if arrival_time > now:
            raise self._busy()
        if client.in_progress >= CLIENT_SHARE * IN_PROGRESS:
            has_place = self._end_oldest_slow_request(now, client)
        else:
            has_place = self._in_progress < IN_PROGRESS
            has_place = has_place or self._end_oldest_slow_request(now)
        if not has_place:
            raise self._busy()
        client.arrival_time = arrival_time

    async def _receive(self, request: Request, place: _Place) -> None:
        """Append a request's body to its place; HTTPException if there is no room."""
        body = place.body
        client = place.client
        most_bytes = HELD_BODIES * self._limits.body_bytes
        async for part in request.stream():
            if place.is_free:  # the deadline is about to end this request
                raise TimeoutError
            body.extend(part)
            self._held_bytes += len(part)
            client.held_bytes += len(part)
            if len(body) > self._limits.body_bytes:
                raise self._too_large()
            while client.held_bytes > CLIENT_SHARE * most_bytes:
                if not self._end_oldest_slow_request(time.monotonic(), client):
                    raise self._busy()
            while self._held_bytes > most_bytes:
                if not self._end_oldest_slow_request(time.monotonic()):
                    raise self._busy()

    def _free(self, place: _Place) -> None:
        """Free the place of a request, unless that was done."""
        if place.is_free:
            return
        place.is_free = True
        self._in_progress -= 1
        place.client.in_progress -= 1
        self._held_bytes -= len(place.body)
        place.client.held_bytes -= len(place.body)
        place.body.clear()

    def _too_large(self) -> HTTPException:
        return HTTPException(
            413,
            f"the body has more than {self._limits.body_bytes} bytes; send fewer"
            " samples a request",
        )

    def _busy(self) -> HTTPException:
        return HTTPException(
            429,
            f"there are more than {self._limits.rate:g} requests a second from one"
            f" client, or than {IN_PROGRESS} requests or {HELD_BODIES} large bodies at"
            f" once, of which one client has {CLIENT_SHARE:.0%} at most; send fewer",
            {"Retry-After": "1"},
        )

    def _end_oldest_slow_request(
        self, now: float, client: Client | None = None
    ) -> bool:
        """End the oldest request if its body is incomplete after `SLOW_SECONDS`.

        Return whether there was one, of ``client`` if that is given.
        """
        arriving = [
            (deadline, place)
            for deadline, place in self._arriving.items()
            if client is None or place.client is client
        ]
        if not arriving:
            return False
        deadline, place = arriving[0]
        if now - place.begin < SLOW_SECONDS:
            return False
        del self._arriving[deadline]
        self._free(place)
        # A deadline of now raises TimeoutError in the task of that request.
        deadline.reschedule(asyncio.get_running_loop().time())
        return True

    async def _predicted(self, media: str, body: bytes, client: Client) -> Response:
        """Return the answer with predictions for the samples in a complete body."""
        run = asyncio.get_running_loop().run_in_executor
        async with client.decoding:
            x, warnings = await run(self._reader, self._read, media, body)
        future = self._served.outputs(x, client.predicting)
        client.predicting += 1
        try:
            outputs = await asyncio.wrap_future(future)
        finally:
            client.predicting -= 1
        self._metrics.count_prediction(len(x), outputs.batch_samples)
        content = await run(
            self._writer, self._formats.write, media, outputs.values, warnings
        )
        return Response(content, media_type=media)
