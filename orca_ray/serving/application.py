"""The ASGI application: a thread that predicts in batches, and in front of it routes,
limits and metrics.
"""

import asyncio
import hmac
import ipaddress
import logging
import queue
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
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
from orca_ray.serving.formats import ARROW, JSON, Formats

# OPEN: without a token
PREDICT = "/v1/predict"
OPEN = ("/healthz", "/readyz")
PATHS = (PREDICT, *OPEN, "/metrics", "/openapi.json")
# in a batch; its first request waits for others, unless one is computed
MOST_REQUESTS = 32
WAIT_SECONDS = 0.005
# requests for predictions, and bodies of the largest size in memory at a time
IN_PROGRESS = 64
HELD_BODIES = 8
SLOW_SECONDS = (
    1.0  # a body that has not arrived by then ends when another request needs its place
)
_Job = tuple[Array, "Future[tuple[Array, int]]"]


class Limits(NamedTuple):
    """Largest sizes, rates and times of requests that the server accepts."""

    body_bytes: int = 16 * 2**20
    samples: int = 10_000  # in a request
    # requests for predictions a second, over all clients; as many may come at once
    rate: float = 500.0
    seconds: float = 30.0  # from the first byte of a request to its answer


class ServedModel:
    """Model that predicts in one daemon thread: a `Predictor` is not thread-safe, and a
    call may never return.
    """

    def __init__(self, model: Predictor, seconds: float) -> None:
        """Start the thread; a batch that takes more than ``seconds`` makes the model
        unready.
        """
        self._model = model
        self._seconds = seconds
        self._begin = float("inf")
        self._works = False
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="model", daemon=True).start()

    def outputs(self, x: Array) -> "Future[tuple[Array, int]]":
        """Return a future of the outputs for samples [n, *input_shape], and of the size
        of the batch they were in.
        """
        self._jobs.put((x, future := Future[tuple[Array, int]]()))
        return future

    async def ready(self) -> bool:
        """Return whether the model can predict; if it never did, or failed last,
        predict a sample of zeros first.
        """
        if not self._works:
            zeros = np.zeros((1, *self._model.task.input_shape), np.float32)
            answer = asyncio.wait_for(
                asyncio.wrap_future(self.outputs(zeros)), self._seconds
            )
            await asyncio.gather(answer, return_exceptions=True)
        return self._works and time.monotonic() - self._begin < self._seconds

    def _work(self) -> None:
        while True:
            batch = [self._jobs.get()]
            time.sleep(WAIT_SECONDS if self._jobs.empty() else 0)
            while len(batch) < MOST_REQUESTS and not self._jobs.empty():
                batch.append(self._jobs.get())
            self._begin = time.monotonic()
            if wanted := [
                (x, future)
                for x, future in batch
                if future.set_running_or_notify_cancel()
            ]:
                self._predict(wanted)
            self._begin = float("inf")

    def _predict(self, batch: list[_Job]) -> None:
        try:
            outputs = self._model.outputs_of(np.concatenate([x for x, _ in batch]))
        except Exception as error:
            self._works = isinstance(error, UserError)
            if len(batch) == 1:
                batch[0][1].set_exception(error)
            else:  # the inputs of one request are at fault, or all together need too much memory
                for each in batch:
                    self._predict([each])
            return
        self._works = True
        for (_, future), part in zip(
            batch,
            np.split(outputs, np.cumsum([len(x) for x, _ in batch])),
            strict=False,
        ):
            future.set_result((part, len(outputs)))


def _is_local(host: str) -> bool:
    """Return whether a Host header names this machine: another site's DNS may bind its
    name to 127.0.0.1.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class Application:
    """ASGI application that answers requests for predictions of one model; exceptions
    become answers, too.
    """

    def __init__(self, model: Predictor, limits: Limits, token: str | None) -> None:
        """Start the thread of the model; ``token`` is what requests must send, None:
        nothing.
        """
        self._limits = limits
        self._token = token
        self._formats = Formats(model, limits.samples)
        self._served = ServedModel(model, limits.seconds)
        self._worker = ThreadPoolExecutor(
            1
        )  # one, so that the memory that parsing needs does not add up
        self._due = 0.0
        self._held = 0
        self._in_progress = 0
        self._arriving: dict[asyncio.Timeout, tuple[float, bytearray]] = {}
        """Requests whose body is incomplete, oldest first: their time limit, when they
        began, and the body so far.
        """
        self._registry = CollectorRegistry()
        named: dict[str, Any] = {"registry": self._registry, "namespace": "orca_ray"}
        fine = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
        powers = [4**k for k in range(8)]
        self._requests = Counter(
            "requests", "Answered requests.", ["path", "status"], **named
        )
        self._errors = Counter(
            "request_errors",
            "Requests answered with a status from 400 on.",
            ["status"],
            **named,
        )
        self._latency = Histogram(
            "request_seconds",
            "Time from head to answer.",
            ["path"],
            buckets=fine,
            **named,
        )
        self._samples = Histogram(
            "request_samples", "Samples in a request.", buckets=powers, **named
        )
        self._batch = Histogram(
            "batch_samples",
            "Samples in the batch of a request.",
            buckets=powers,
            **named,
        )
        progress = Gauge(
            "requests_in_progress", "Requests for predictions in progress.", **named
        )
        progress.set_function(lambda: self._in_progress)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        begin = time.perf_counter()
        path = scope["path"] if scope["path"] in PATHS else "other"
        try:
            response = await self._answer(Request(scope, receive))
        except Exception as error:
            refused = (
                error
                if isinstance(error, HTTPException)
                else HTTPException(422, str(error))
            )
            if isinstance(error, ClientDisconnect):
                refused = HTTPException(400, "the client has gone")
            elif not isinstance(error, HTTPException | UserError):
                logging.getLogger(__name__).exception("a request failed")
                refused = HTTPException(
                    500,
                    "the server or its model failed; the log of the server has the"
                    " error",
                )
            response = JSONResponse(
                {"error": refused.detail}, refused.status_code, refused.headers
            )
        self._requests.labels(path, response.status_code).inc()
        self._latency.labels(path).observe(time.perf_counter() - begin)
        if response.status_code >= 400:
            self._errors.labels(response.status_code).inc()
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        path = request.scope["path"]
        given = request.headers.getlist("authorization")
        if self._token is None and not _is_local(
            request.headers.get("host", "localhost")
        ):
            raise HTTPException(
                421,
                "without a token, this server answers to localhost and 127.0.0.1 alone:"
                " set one",
            )
        right = len(given) == 1 and hmac.compare_digest(
            given[0].encode("latin-1"), f"Bearer {self._token}".encode()
        )
        if self._token is not None and path not in OPEN and not right:
            raise HTTPException(
                401,
                "send the token: Authorization: Bearer TOKEN",
                {"WWW-Authenticate": "Bearer"},
            )
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
                    generate_latest(self._registry),
                    media_type="text/plain; version=0.0.4",
                )
            case "GET", "/openapi.json":
                return JSONResponse(
                    self._formats.description(token=self._token is not None)
                )
        allowed = {"Allow": "POST" if path == PREDICT else "GET"}
        raise HTTPException(
            405 if path in PATHS else 404,
            f"use POST {PREDICT} or GET {', '.join(PATHS[1:])}",
            allowed,
        )

    async def _predict(self, request: Request) -> Response:
        media = (
            request.headers.get("content-type", "").partition(";")[0].strip().lower()
        )
        if (
            media not in (JSON, ARROW)
            or request.headers.get("content-encoding", "identity").lower() != "identity"
        ):
            raise HTTPException(415, f"send {JSON} or {ARROW}, without compression")
        limits = self._limits
        now = time.monotonic()
        step = 1 / self._limits.rate
        body = bytearray()
        large = HTTPException(
            413,
            f"the body has more than {limits.body_bytes} bytes; send fewer samples a"
            " request",
        )
        at_once = f"{IN_PROGRESS} requests or {HELD_BODIES} large bodies at once"
        load = (
            f"there are more than {limits.rate:g} requests a second, or than {at_once};"
            " send fewer"
        )
        busy = HTTPException(429, load, {"Retry-After": "1"})
        length = request.headers.get(
            "content-length", "0"
        )  # digits, as the server has checked
        if int(length[:16]) > limits.body_bytes:
            raise large
        due = max(self._due, now - max(1.0, step)) + step
        if due > now or (
            self._in_progress >= IN_PROGRESS and not self._end_slowest(now)
        ):
            raise busy
        self._due = due
        self._in_progress += 1
        try:
            async with asyncio.timeout(limits.seconds) as deadline:
                self._arriving[deadline] = now, body
                async for part in request.stream():
                    body += part
                    self._held += len(part)
                    if len(body) > limits.body_bytes:
                        raise large
                    while self._held > HELD_BODIES * limits.body_bytes:
                        if not self._end_slowest(time.monotonic()):
                            raise busy
                self._arriving.pop(deadline, None)
                return await self._predicted(media, bytes(body))
        except TimeoutError as error:
            most = (
                f"{limits.seconds:g} s, or than the {SLOW_SECONDS:g} s that a body has"
                " while others wait"
            )
            message = (
                f"the request took longer than {most}; send fewer samples, or send them"
                " faster"
            )
            raise HTTPException(408, message, {"Connection": "close"}) from error
        finally:
            self._arriving.pop(deadline, None)
            self._in_progress -= 1
            self._held -= len(body)

    def _end_slowest(self, now: float) -> bool:
        """End the oldest request whose body is incomplete after `SLOW_SECONDS`; return
        whether there is one.
        """
        for deadline, (begin, body) in self._arriving.items():
            if now - begin < SLOW_SECONDS:
                break
            del self._arriving[deadline]
            self._held -= len(body)
            body.clear()
            deadline.reschedule(asyncio.get_running_loop().time())
            return True
        return False

    async def _predicted(self, media: str, body: bytes) -> Response:
        run = asyncio.get_running_loop().run_in_executor
        x, warnings = await run(self._worker, self._formats.read, media, body)
        outputs, batch_samples = await asyncio.wrap_future(self._served.outputs(x))
        self._samples.observe(len(x))
        self._batch.observe(batch_samples)
        return Response(
            await run(self._worker, self._formats.write, media, outputs, warnings),
            media_type=media,
        )
