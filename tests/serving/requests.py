"""Requests for the models of `tests.serving.models`, and their answers."""

import json
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
from starlette.testclient import TestClient

from orca_ray.data.rows import Array
from orca_ray.own_data.array_inputs import ArrayInputs
from orca_ray.predictor import Predictor
from orca_ray.serving.application import (
    PREDICT,
    Application,
    Limits,
)
from orca_ray.serving.reading import JSON

SERIES = ArrayInputs(
    axes="LC", given=None, shape=(3, 16), mask=True, mean=(0, 0), std=(1, 1), largest=3
)


ROWS: list[dict[str, Any]] = [
    {"age of cask": 3.5, "1": "oak", "bottled": "2020-05-31"},
    {"age of cask": None, "1": 7, "bottled": None, "more": "ignored"},
    {"age of cask": 1, "1": "clay", "bottled": "2021-01-01T12:00:00Z"},
]


def series(seed: int, *shape: int) -> Array:
    return np.random.RandomState(seed).normal(size=shape)


SAMPLES: dict[str, Any] = {
    "unequal": [series(0, 9, 2), series(1, 16, 2)],
    "recordings": [series(0, 1000), series(1, 2000)],
    "arrays": series(0, 3, 2, 16),
    "fields": series(0, 70, 2, 8, 8),
}


TABLE = pa.Table.from_pandas(
    pd.DataFrame(ROWS).astype({"1": str}).astype({"1": "category"})
)


def client_of(model: Predictor, token: str | None = None, **limits: Any) -> TestClient:
    app = Application(model, Limits(**limits), token)
    return TestClient(app, "http://127.0.0.1", raise_server_exceptions=False)


def stream(table: pa.Table, compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(
        sink, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)
    ) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def post(client: TestClient, body: bytes, media: str = JSON) -> httpx.Response:
    return client.post(PREDICT, content=body, headers={"Content-Type": media})  # type: ignore[return-value]


def arrow_answer(body: bytes) -> dict[str, Any]:
    """Return an Arrow answer in the form of a JSON answer."""
    table = pa.ipc.open_stream(body).read_all()
    answer: dict[str, Any] = {
        key.decode(): json.loads(value) for key, value in table.schema.metadata.items()
    }
    for name in table.schema.names:
        column = table.column(name).combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = column.chunk(0)
        if isinstance(column, pa.FixedShapeTensorArray):
            answer[name] = column.to_numpy_ndarray()
        else:
            answer[name] = np.asarray(column.to_pylist())
    return answer
