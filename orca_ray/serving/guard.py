"""Checks of a request before it is read: token, rate, number of requests in progress; and the metrics."""

import hmac
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

PREDICT, OPEN = "/v1/predict", ("/healthz", "/readyz")
"""Path of predictions, and those that need no token."""
PATHS = (PREDICT, *OPEN, "/metrics", "/openapi.json")

_Message = Any
_App = Callable[[Any, Callable[[], Awaitable[_Message]], Callable[[_Message], Awaitable[None]]], Awaitable[None]]


@dataclass(frozen=True)
class Limits:
    """Largest sizes, rates and times of requests that the server accepts."""

    body_bytes: int = 16 * 2**20
    """Size of a body."""
    samples: int = 10_000
    """Samples in a request."""
    rate: float = 500.0
    """Requests for predictions a second, over all clients."""
    seconds: float = 30.0
    """Time for a request, from its first byte to its answer."""
    in_progress: int = 64
    """Requests for predictions at a time."""
    held_bytes: int = 128 * 2**20
    """Bodies in memory at a time, over all requests."""


class Metrics:
    """Counters and histograms for Prometheus."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        named: dict[str, Any] = {"registry": self.registry, "namespace": "orca_ray"}
        self.requests = Counter("requests", "Answered requests.", ["path", "status"], **named)
        self.errors = Counter("request_errors", "Requests answered with a status from 400 on.", ["status"], **named)
        fine = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
        self.latency = Histogram("request_seconds", "Time from head to answer.", ["path"], buckets=fine, **named)
        powers = [4**k for k in range(8)]
        self.samples = Histogram("request_samples", "Samples in a request.", buckets=powers, **named)
        self.batch = Histogram("batch_samples", "Samples in the batch of a request.", buckets=powers, **named)
        self.in_progress = Gauge("requests_in_progress", "Requests for predictions in progress.", **named)


class Bucket:
    """Token bucket: at most ``rate`` passes a second over time, and as many at once."""

    def __init__(self, rate: float) -> None:
        self._rate, self._left, self._last = rate, max(rate, 1.0), time.monotonic()

    def take(self) -> bool:
        """Return whether there is a pass, and take it."""
        now = time.monotonic()
        self._left = min(max(self._rate, 1.0), self._left + (now - self._last) * self._rate)
        self._last = now
        passes = self._left >= 1
        self._left -= passes
        return passes


class Guard:
    """ASGI middleware that refuses requests without the token (401) and those beyond the limits (429)."""

    def __init__(self, app: _App, limits: Limits, token: str | None, metrics: Metrics) -> None:
        self._app, self._limits, self._metrics = app, limits, metrics
        self._expected = None if token is None else f"Bearer {token}".encode()
        self._bucket, self._in_progress = Bucket(limits.rate), 0

    async def __call__(
        self, scope: Any, receive: Callable[[], Awaitable[_Message]], send: Callable[[_Message], Awaitable[None]]
    ) -> None:
        """Answer or pass on one request."""
        if scope["type"] != "http":  # FastAPI refuses websockets, as there is no route
            await self._app(scope, receive, send)
            return
        begin, status = time.perf_counter(), 500

        async def watched(message: _Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        predicts = scope["path"] == PREDICT
        path = scope["path"] if scope["path"] in PATHS else "other"
        refusal = self._refusal(scope, predicts)
        self._count(predicts and refusal is None, 1)
        try:
            await (refusal or self._app)(scope, receive, watched)
        finally:
            self._count(predicts and refusal is None, -1)
            self._metrics.requests.labels(path, status).inc()
            self._metrics.latency.labels(path).observe(time.perf_counter() - begin)
            if status >= 400:
                self._metrics.errors.labels(status).inc()

    def _refusal(self, scope: Any, predicts: bool) -> Response | None:
        if scope["path"] not in OPEN and not self._may(scope["headers"]):
            advice = "send the server's token: Authorization: Bearer TOKEN"
            return refuse(401, advice, {"WWW-Authenticate": "Bearer"})
        if predicts and self._in_progress >= self._limits.in_progress:
            return refuse(429, "too many requests are in progress; send fewer at a time", {"Retry-After": "1"})
        if predicts and not self._bucket.take():
            return refuse(429, f"more than {self._limits.rate:g} requests a second; send fewer", {"Retry-After": "1"})
        return None

    def _may(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        if self._expected is None:
            return True
        given = [value for name, value in headers if name == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(given[0], self._expected)

    def _count(self, counts: bool, step: int) -> None:
        self._in_progress += step * counts
        self._metrics.in_progress.set(self._in_progress)


class BodyReader:
    """Reads bodies within the limits."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._held = limits, 0

    async def read(self, request: Request) -> bytes | Response:
        """Return the body, or the refusal: 413 if it is too large, 429 if too many bytes are in memory.

        The caller calls `release` with the length of the body when it is done with it.
        """
        limit, parts, size = self._limits.body_bytes, [], 0
        large = refuse(413, f"the body has more than {limit} bytes; send fewer samples a request")
        declared = request.headers.get("content-length", "0")
        if len(declared) > 15 or int(declared) > limit:  # the HTTP parser has checked that it is a number
            return large
        try:
            async for part in request.stream():
                size += len(part)
                self._held += len(part)
                if size > limit or self._held > self._limits.held_bytes:
                    self._held -= size
                    busy = refuse(429, "too many bytes are in progress; send fewer requests", {"Retry-After": "1"})
                    return large if size > limit else busy
                parts.append(part)
        except BaseException:
            self._held -= size
            raise
        return b"".join(parts)

    def release(self, size: int) -> None:
        """Subtract a body of ``size`` bytes from those that are held."""
        self._held -= size


def refuse(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """Return the answer to a request that is refused."""
    return JSONResponse({"error": message}, status, headers)
