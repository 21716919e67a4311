"""The HTTP application: routes, and what happens between a body and its answer."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import prometheus_client
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic_core import to_json
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from orca_ray.serving import arrow, requests
from orca_ray.serving.guard import PREDICT, BodyReader, Guard, Limits, Metrics, refuse
from orca_ray.serving.replica import Answer, Description
from orca_ray.version import __version__

JSON = "application/json"
READY_SECONDS = 5.0
_REFUSALS = {
    401: "No token, or a wrong one.", 408: "The request took too long.", 413: "The body is too large.",
    415: "The body has another content type.", 422: "The inputs do not fit the model.", 429: "Too many requests.",
}  # fmt: skip


class Predictions:
    """Answers requests for predictions."""

    def __init__(
        self, model: Description, predict: Callable[[Array], Awaitable[Answer | str]], limits: Limits, metrics: Metrics
    ) -> None:
        """Make the types of requests and answers of a model, whose replica is called by ``predict``."""
        self._model, self._predict, self._limits, self._metrics = model, predict, limits, metrics
        self._most = requests.most_samples(model, limits.samples)
        self.request, self.answer = requests.request_type(model, self._most), requests.answer_type(model)
        self._bodies = BodyReader(limits)
        # One thread: bodies are parsed one at a time, so that the memory that this needs does not add up.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="serving")

    async def __call__(self, request: Request) -> Response:
        """Return the answer to one request; its errors are answers too."""
        try:
            async with asyncio.timeout(self._limits.seconds):
                return await self._answer(request)
        except TimeoutError:
            advice = "send fewer samples, or send them faster"
            message = f"the request took longer than {self._limits.seconds:g} s; {advice}"
            return refuse(408, message, {"Connection": "close"})
        except UserError as error:
            return refuse(422, str(error))
        except ClientDisconnect:
            return refuse(400, "the client has gone")

    async def _answer(self, request: Request) -> Response:
        media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        coding = request.headers.get("content-encoding", "identity").lower()
        if media not in (JSON, arrow.MEDIA_TYPE) or coding != "identity":
            return refuse(415, f"send {JSON} or {arrow.MEDIA_TYPE}, without compression")
        body = await self._bodies.read(request)
        if isinstance(body, Response):
            return body
        try:
            loop = asyncio.get_running_loop()
            encoded, warnings = await loop.run_in_executor(self._worker, self._encoded, media, body)
            answer = await self._predict(encoded)
            if isinstance(answer, str):
                raise UserError(f"{requests.SOURCE}: {answer}")
            self._metrics.samples.observe(len(encoded))
            self._metrics.batch.observe(answer.batch_samples)
            content = await loop.run_in_executor(self._worker, self._rendered, media, answer, warnings)
        finally:
            self._bodies.release(len(body))
        return Response(content, media_type=media)

    def _encoded(self, media: str, body: bytes) -> tuple[Array, list[str]]:
        model = self._model
        json = media == JSON
        data = requests.parse(self.request, body, model) if json else arrow.parse(body, model, self._most)
        return requests.encode(model, data)

    def _rendered(self, media: str, answer: Answer, warnings: list[str]) -> bytes:
        content = requests.content(self._model, answer, warnings)
        if media == JSON:
            return to_json(content)
        return arrow.render(content, answer.predictions, answer.probabilities)


def build(
    model: Description,
    predict: Callable[[Array], Awaitable[Answer | str]],
    ready: Callable[[], Awaitable[bool]],
    *,
    limits: Limits,
    token: str | None,
) -> FastAPI:
    """Return the application that serves a model.

    Args:
        model: its description.
        predict: returns the answer to encoded samples, float32 [n, *input_shape], or the message of an error.
        ready: returns whether predictions are possible now.
        limits: what is taken.
        token: what requests must send; None: nothing.
    """
    metrics = Metrics()
    predictions = Predictions(model, predict, limits, metrics)
    app = FastAPI(title=f"orca-ray: {model.task.name}", version=__version__, docs_url=None, redoc_url=None)
    app.add_middleware(Guard, limits=limits, token=token, metrics=metrics)
    schema = predictions.request.model_json_schema(ref_template="#/components/schemas/{model}")
    definitions = schema.pop("$defs", {})
    stream = {arrow.MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}
    body = {"required": True, "content": {JSON: {"schema": schema}, **stream}}
    app.add_api_route(
        PREDICT, predictions.__call__, methods=["POST"], summary="Predict", name="predict",
        description="The answer has the content type of the request.",
        openapi_extra={"requestBody": body, "security": [] if token is None else [{"token": []}]},
        response_class=JSONResponse, response_model=None,
        responses={200: {"model": predictions.answer, "content": stream}, **_refusals(token)},
    )  # fmt: skip
    _add_state(app, ready, metrics)
    components = app.openapi().setdefault("components", {})
    components.setdefault("schemas", {}).update(definitions)
    if token is not None:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return app


def _refusals(token: str | None) -> dict[int | str, dict[str, Any]]:
    used = {status: text for status, text in _REFUSALS.items() if status != 401 or token is not None}
    return {status: {"model": requests.Refusal, "description": text} for status, text in used.items()}


def _add_state(app: FastAPI, ready: Callable[[], Awaitable[bool]], metrics: Metrics) -> None:
    async def healthz() -> dict[str, str]:
        """Say that the process runs."""
        return {"status": "ok"}

    async def readyz() -> Response:
        """Say whether predictions are possible now: 200 or 503."""
        with contextlib.suppress(Exception):  # the replica is gone, which Ray reports by several types
            async with asyncio.timeout(READY_SECONDS):
                if await ready():
                    return JSONResponse({"status": "ready"})
        return refuse(503, "the model is not ready; ask again")

    async def exposition() -> Response:
        """Return the metrics as text for Prometheus."""
        return Response(prometheus_client.generate_latest(metrics.registry), media_type="text/plain; version=0.0.4")

    app.add_api_route("/healthz", healthz, methods=["GET"], response_class=JSONResponse)
    app.add_api_route("/readyz", readyz, methods=["GET"], response_model=None)
    app.add_api_route("/metrics", exposition, methods=["GET"], include_in_schema=False)
