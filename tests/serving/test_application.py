"""The application without a socket: what it takes, answers and refuses."""

import ast
import asyncio
import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from orca_ray.data.rows import Array, Target
from orca_ray.errors import UserError
from orca_ray.own_data import Options, UserData
from orca_ray.own_data.array_inputs import ArrayInputs, AudioInputs
from orca_ray.own_data.infer_task import Preprocessing
from orca_ray.own_data.targets import TargetCoding
from orca_ray.predictor import Predictor
from orca_ray.serving import application
from orca_ray.serving.application import (
    MOST_REQUESTS,
    PREDICT,
    Application,
    Limits,
    ServedModel,
)
from orca_ray.serving.formats import ARROW, JSON, Formats
from orca_ray.testing.suite import save_bert, save_vit
from orca_ray.testing.trials import CLASSES
from tests.docs.pages import BLOCK, ROOT
from tests.serving.models import model, table_model

TOKEN = "0123456789abcdef"
SERIES = ArrayInputs(
    axes="LC", given=None, shape=(3, 16), mask=True, mean=(0, 0), std=(1, 1), largest=3
)
TOLERANCE = 1e-5
"""Largest difference of probabilities and standardised outputs.

Sums in batches of other sizes round differently.
"""
ROWS: list[dict[str, Any]] = [
    {"age of cask": 3.5, "1": "oak", "bottled": "2020-05-31"},
    {"age of cask": None, "1": 7, "bottled": None, "more": "ignored"},
    {"age of cask": 1, "1": "clay", "bottled": "2021-01-01T12:00:00Z"},
]


@pytest.fixture(scope="module")
def models(
    module_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Predictor]:
    """A model of each form of requests and of each kind of target."""
    bert = save_bert(tmp_path_factory.mktemp("bert"))
    vit = save_vit(tmp_path_factory.mktemp("vit"))
    return {
        "mixed": table_model(bert),
        "unequal": model(bert, CLASSES, SERIES),
        "recordings": model(
            vit, CLASSES, AudioInputs(rate=8000, num_samples=1600, num_mels=16)
        ),
        "arrays": model(bert, Target("scalar"), None),
        "fields": model(vit, Target("dense", shape=(8, 8)), None, (2, 8, 8)),
    }


def client_of(model: Predictor, token: str | None = None, **limits: Any) -> TestClient:
    app = Application(model, Limits(**limits), token)
    return TestClient(app, "http://127.0.0.1", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def clients(models: dict[str, Predictor]) -> dict[str, TestClient]:
    return {name: client_of(model) for name, model in models.items()}


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


@pytest.mark.parametrize("name", ["mixed", *SAMPLES])
def test_predictions_are_those_of_the_model(
    clients: dict[str, TestClient], models: dict[str, Predictor], name: str
) -> None:
    model = models[name]
    client = clients[name]
    table = TABLE
    x: Any = pd.DataFrame(ROWS)
    request: dict[str, Any] = {"rows": ROWS}
    if name in SAMPLES:
        samples = SAMPLES[name]
        x = UserData(x=samples, rate=8000.0)
        lists = [sample.tolist() for sample in samples]
        request = {"samples": lists, "rate": 8000}
        column = lists
        if not isinstance(samples, list):
            column = pa.FixedShapeTensorArray.from_numpy_ndarray(samples)
        table = pa.table({"x": column}).replace_schema_metadata({"rate": "8000"})
    for response in (
        client.post(PREDICT, json=request),
        post(client, stream(table), ARROW),
    ):
        assert response.status_code == 200, response.text
        is_json = response.headers["content-type"] == JSON
        answer = response.json() if is_json else arrow_answer(response.content)
        predictions = np.asarray(answer["predictions"])
        expected = model.predict(x)
        if expected.dtype.kind == "f":
            assert np.allclose(predictions, expected, atol=TOLERANCE * 10)
        else:
            assert np.array_equal(predictions, expected)
        assert answer["labels"] == list(model.label_names)
        assert ("probabilities" in answer) == model.decides
        if model.decides:
            probabilities = np.asarray(answer["probabilities"])
            assert np.allclose(probabilities, model.predict_proba(x), atol=TOLERANCE)


def test_dates_of_arrow_and_warnings(clients: dict[str, TestClient]) -> None:
    days = pa.array([18413, None], pa.int32()).cast(pa.date32())
    times = days.cast(pa.timestamp("s")).cast(pa.timestamp("us", "Europe/Berlin"))
    answers = []
    for bottled in (days, days.cast(pa.string()), times):
        table = pa.table(
            {"age of cask": [1e6, None], "1": ["clay", None], "bottled": bottled}
        )
        response = post(clients["mixed"], stream(table), ARROW)
        answers.append(arrow_answer(response.content))
    for answer in answers:
        assert np.array_equal(answer["probabilities"], answers[0]["probabilities"])
    units, unknown = answers[0]["warnings"]
    assert "column 'age of cask': values around 1e+06, in training 3 ± 2" in units
    assert "categories without a slot count as missing: clay" in unknown


ROW = '{"rows": [{"age of cask": %s, "1": %s, "bottled": %s}]}'


def coded(count: int, text: str) -> pa.Table:
    return pa.table(
        {"1": pa.DictionaryArray.from_arrays(np.zeros(count, np.int8), [text])}
    )


def nested(kind: Any, *values: Any) -> pa.Table:
    return pa.table({"x": pa.array(values, pa.list_(kind))})


LONG = pa.table({"1": ["oak" * 300] * 900})


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        (
            "mixed",
            '{"rows": [{}]}',
            (
                "row 1, column 'age of cask' is missing; send it, with null for a value"
                " that"
            ),
        ),
        (
            "mixed",
            ROW % ('"old"', 1, 1),
            "row 1, column 'age of cask': input should be a valid number, found 'old'",
        ),
        (
            "mixed",
            ROW % ("NaN", 1, 1),
            "row 1, column 'age of cask': input should be a finite number, found nan",
        ),
        (
            "mixed",
            ROW % (1, "[1]", 1),
            "row 1, column '1': input should be a valid string, found a JSON array",
        ),
        (
            "mixed",
            ROW % (1, f'"{"x" * 1001}"', 1),
            "column '1': string should have at most 1000 characters",
        ),
        (
            "mixed",
            ROW % (1, 1, '"soon"'),
            "row 1, column 'bottled': expected a date such as 2024-05-31, found 'soon'",
        ),
        (
            "mixed",
            '{"rows": []}',
            "the request, field 'rows': list should have at least 1 item",
        ),
        (
            "mixed",
            '{"rows": [1]}',
            "the request, row 1: input should be an object, found 1; see /openapi.json",
        ),
        ("mixed", '{"rows":' * 100_000, "invalid JSON: recursion limit"),
        (
            "unequal",
            '{"samples": [[[1, 2]], [[1, 2], [3]]]}',
            "sample 2: lists of one level have unequal lengths",
        ),
        (
            "unequal",
            '{"samples": [[[]]]}',
            "sample 1, position [0]: list should have at least 1 item",
        ),
        (
            "recordings",
            '{"samples": [[0.5]], "rate": 44100}',
            "field 'rate': input should be less than or equal to",
        ),
        (
            "arrays",
            json.dumps({"samples": [[[None] * 16] * 2]}),
            "sample 1, position [0, 0]: input should be a valid",
        ),
        (
            "arrays",
            json.dumps({"samples": [[[1e300] * 16] * 2]}),
            "row 1 has values that are not finite",
        ),
        (
            "arrays",
            json.dumps({"samples": [[[3e38] * 16] * 2]}),
            "outputs are not finite",
        ),
        ("mixed", stream(pa.table({"1": ["oak"]})), "column 'age of cask' is missing"),
        (
            "mixed",
            stream(pa.table({"1": [b"x"]})),
            "column '1': expected numbers, text or dates, found binary",
        ),
        (
            "mixed",
            stream(pa.table({"1": ["x" * 1001]})),
            "column '1': a text of 1001 characters is too long",
        ),
        (
            "mixed",
            stream(coded(10, "x" * 1001)),
            "column '1': a text of 1001 characters is too long",
        ),
        (
            "mixed",
            stream(pa.table([[1], [2]], names=["1", "1"])),
            'stream for this model: \'Field "1" exists 2 times',
        ),
        (
            "mixed",
            stream(pa.table({"1": pa.nulls(10_001)})),
            "has 10001 rows; send 1 to 10000 in one request",
        ),
        ("mixed", stream(LONG, "zstd"), "compress"),
        ("mixed", stream(LONG, "lz4"), "compress"),
        ("mixed", stream(coded(10, "x" * 900), "zstd"), "compress"),
        (
            "arrays",
            stream(pa.table({"x": ["a"]})),
            "'x': expected tensors or nested lists of numbers, found string",
        ),
        ("arrays", stream(nested(pa.bool_(), [True])), "found bool"),
        ("arrays", stream(nested(pa.float64(), [])), "sample 1 is empty; leave it out"),
        (
            "unequal",
            stream(nested(pa.list_(pa.int8()), [[1, 2], [3]])),
            "unequal lengths",
        ),
    ],
)
def test_a_wrong_request_is_explained(
    clients: dict[str, TestClient], name: str, body: str | bytes, message: str
) -> None:
    """Bodies that are text are JSON, others Arrow."""
    if isinstance(body, str):
        response = post(clients[name], body.encode(), JSON)
    else:
        response = post(clients[name], body, ARROW)
    assert response.status_code == 422, response.text
    assert list(response.json()) == ["error"]
    assert message.lower() in response.json()["error"].lower()


def test_a_dictionary_must_not_expand_far(models: dict[str, Predictor]) -> None:
    formats = Formats(models["mixed"], 20_000)
    # column '1' is read
    with pytest.raises(UserError, match="'age of cask' is missing"):
        formats.read(ARROW, stream(coded(10_000, "x" * 1000)))
    with pytest.raises(UserError, match="a text of 1000 characters is too long"):
        formats.read(ARROW, stream(coded(20_000, "x" * 1000)))


def test_changed_and_cut_streams_are_survived(models: dict[str, Predictor]) -> None:
    formats = Formats(models["mixed"], 10_000)
    whole = stream(TABLE)
    random = np.random.RandomState(0)
    bodies = [whole[:length] for length in range(0, len(whole), 64)]
    for place in random.randint(0, len(whole), 200):
        bodies.append(whole[:place] + bytes([random.randint(256)]) + whole[place + 1 :])
    refused = 0
    for body in bodies:
        try:
            assert formats.read(ARROW, body)[0].shape[1:] == (3, 4)
        except UserError:
            refused += 1
    assert len(bodies) / 4 < refused < len(bodies)


def test_limits_of_sizes_and_content_types(models: dict[str, Predictor]) -> None:
    client = client_of(models["mixed"], body_bytes=1000, samples=2)
    for content in (b"x" * 1001, iter([b"x" * 600] * 2)):
        answer = client.post(PREDICT, content=content, headers={"Content-Type": JSON})
        assert answer.status_code == 413
        assert answer.json() == {
            "error": "the body has more than 1000 bytes; send fewer samples a request"
        }
    assert (
        "at most 2 items" in client.post(PREDICT, json={"rows": ROWS}).json()["error"]
    )
    body = json.dumps({"rows": ROWS[:2]}).encode()
    assert post(client, body, "Application/JSON; charset=utf-8").status_code == 200
    assert (
        post(client, body, "text/csv").status_code
        == client.post(PREDICT, content=body).status_code
        == 415
    )
    coded = {"Content-Type": JSON, "Content-Encoding": "gzip"}
    assert client.post(PREDICT, content=body, headers=coded).status_code == 415


def test_limits_of_requests_at_once(
    models: dict[str, Predictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(application, "IN_PROGRESS", 2)
    monkeypatch.setattr(application, "HELD_BODIES", 1.5)
    app = Application(models["mixed"], Limits(body_bytes=1000, seconds=1), None)

    async def slow(size: int, pause: float, *, later: float = 0.0) -> Any:
        async def body() -> Any:
            yield b"[" * size
            await asyncio.sleep(pause)

        await asyncio.sleep(later)
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://[::1]:1"
        ) as client:
            response = await client.post(
                PREDICT, content=body(), headers={"Content-Type": JSON}
            )
        return (
            response.status_code,
            response.headers.get("retry-after"),
            response.json()["error"],
        )

    async def together(*requests: Any) -> list[Any]:
        return await asyncio.gather(*requests)

    load = "500 requests a second, or than 2 requests or 1.5 large bodies at once"
    busy = (429, "1", f"there are more than {load}; send fewer")
    # nothing of the first three is held any more when the next two come
    for sizes in ((10, 10, 10), (900, 900)):
        *accepted, last = asyncio.run(together(*(slow(size, 0.2) for size in sizes)))
        assert [status for status, *_ in accepted] == [422] * len(accepted)
        assert last == busy
    monkeypatch.setattr(application, "SLOW_SECONDS", 0.1)
    most = (
        "the request took longer than 1 s, or than the 0.1 s that a body has while"
        " others wait"
    )
    too_late = (408, None, f"{most}; send fewer samples, or send them faster")
    assert asyncio.run(slow(10, 3)) == too_late
    # the oldest incomplete body makes room
    for limit, sizes in ((2, (10, 10, 10)), (3, (900, 500, 700))):
        monkeypatch.setattr(application, "IN_PROGRESS", limit)
        oldest, second, last = sizes
        answers = asyncio.run(
            together(slow(oldest, 0.5), slow(second, 0.5), slow(last, 0, later=0.3))
        )
        assert [status for status, *_ in answers] == [408, 422, 422], sizes


def test_without_a_token_only_names_of_this_machine_are_answered(
    models: dict[str, Predictor],
) -> None:
    client = client_of(models["mixed"])
    guarded = client_of(models["mixed"], token=TOKEN)
    for host in (
        "localhost",
        "LOCALHOST:8000",
        "127.0.0.1:8000",
        "127.8.0.1",
        "[::1]:8000",
    ):
        assert client.get("/healthz", headers={"Host": host}).status_code == 200, host
    for host in (
        "rebound.example:8000",
        "localhost.example",
        "10.0.0.1",
        "[::1",
        "0x7f.1",
        "a_b.example",
        "",
    ):
        answer = client.post(PREDICT, json={"rows": ROWS}, headers={"Host": host})
        assert answer.status_code == 421, host
        assert answer.json()["error"][:15] == "without a token", host
        assert guarded.get("/healthz", headers={"Host": host}).status_code == 200


def test_rate(models: dict[str, Predictor], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    client = client_of(models["mixed"], rate=4)
    clock = SimpleNamespace(
        monotonic=lambda: now, perf_counter=time.perf_counter, sleep=time.sleep
    )
    monkeypatch.setattr(application, "time", clock)

    def passed(count: int) -> list[bool]:
        return [post(client, b"").status_code != 429 for _ in range(count)]

    assert passed(5) == [True, True, True, True, False]
    now += 0.5
    assert passed(3) == [True, True, False]
    now += 100
    assert sum(passed(10)) == 4


def test_token(models: dict[str, Predictor]) -> None:
    client = client_of(models["mixed"], token=TOKEN)
    guarded = (
        ("POST", PREDICT),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
        ("GET", "/"),
    )
    for value in (b"", TOKEN.encode(), f"Bearer {TOKEN}x".encode(), b"Bearer \xe9"):
        for method, path in guarded:
            response = client.request(method, path, headers={b"Authorization": value})
            assert response.status_code == 401, path
            assert response.headers["www-authenticate"] == "Bearer"
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 200
    right = {"Authorization": f"Bearer {TOKEN}"}
    assert client.post(PREDICT, json={"rows": ROWS}, headers=right).status_code == 200
    description = client.get("/openapi.json", headers=right).json()
    assert description["components"]["securitySchemes"] == {
        "token": {"type": "http", "scheme": "bearer"}
    }
    assert description["paths"][PREDICT]["post"]["security"] == [{"token": []}]


def test_metrics_and_paths(models: dict[str, Predictor]) -> None:
    client = client_of(models["mixed"])
    statuses = [
        client.post(PREDICT, json={"rows": rows}).status_code for rows in (ROWS, [])
    ]
    wrong = client.get(PREDICT)
    statuses += [wrong.status_code, client.get("/nowhere").status_code]
    assert statuses == [200, 422, 405, 404]
    assert wrong.headers["allow"] == "POST"
    assert client.get("/healthz").json() == {"status": "ok"}
    assert set(client.get("/metrics").text.splitlines()) >= {
        'orca_ray_requests_total{path="/v1/predict",status="200"} 1.0',
        'orca_ray_requests_total{path="other",status="404"} 1.0',
        'orca_ray_request_errors_total{status="422"} 1.0',
        'orca_ray_request_seconds_count{path="/v1/predict"} 3.0',
        "orca_ray_request_samples_sum 3.0",
        "orca_ray_batch_samples_sum 3.0",
        "orca_ray_requests_in_progress 0.0",
    }


def test_the_description_follows_the_model(models: dict[str, Predictor]) -> None:
    def describe(model: Any) -> tuple[Any, Any]:
        description = Formats(model, 10_000).description(token=False)
        body = description["paths"][PREDICT]["post"]["requestBody"]
        assert set(body["content"]) == {JSON, ARROW}
        schemas = description["components"]["schemas"]
        return schemas, schemas["Request"]["properties"]

    def lengths(schema: Any) -> list[int]:
        """Return the greatest lengths of nested arrays, outer first."""
        outer = [schema["maxItems"]] if "maxItems" in schema else []
        inner = lengths(schema["items"]) if "items" in schema else []
        return outer + inner

    schemas, properties = describe(models["mixed"])
    assert properties["rows"]["maxItems"] == 10_000
    assert (
        list(schemas["Row"]["properties"])
        == schemas["Row"]["required"]
        == ["age of cask", "1", "bottled"]
    )
    assert {"type": "number"} in schemas["Row"]["properties"]["age of cask"]["anyOf"]
    assert (
        schemas["Row"]["properties"]["1"]["description"]
        == "a category, or null: oak, steel, 7"
    )
    assert set(schemas["Predictions"]["required"]) == {
        "predictions",
        "probabilities",
        "labels",
        "warnings",
    }
    rate = describe(models["recordings"])[1]["rate"]
    assert (rate["minimum"], rate["maximum"]) == (8000, 8000)
    schemas, properties = describe(models["fields"])
    assert lengths(properties["samples"]) == [10_000, 2, 8, 8]
    # the user gave fields with channels last
    coding = TargetCoding(kind="dense", shape=(3, 8, 8), axes=(2, 0, 1))
    large = SimpleNamespace(
        task=SimpleNamespace(
            name="large",
            input_shape=(2, 1024, 1024),
            target=models["fields"].task.target,
        ),
        preprocessing=Preprocessing(reading=Options(), encoder=SERIES, target=coding),
        label_names=(),
        decides=False,
    )
    schemas, properties = describe(large)
    assert lengths(schemas["Predictions"]["properties"]["predictions"]) == [8, 8, 3]
    assert properties["samples"]["maxItems"] == 2


def test_the_blocks_of_the_page() -> None:
    blocks = [
        content
        for _, content in BLOCK.findall((ROOT / "docs" / "serving.md").read_text())
    ]
    (code,) = [block for block in blocks if block.startswith("import ")]
    ast.parse(code)
    (answer,) = [json.loads(block) for block in blocks if block.startswith("{")]
    assert list(answer) == ["predictions", "probabilities", "labels", "warnings"]


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


def test_a_model_that_fails_is_an_answer(
    models: dict[str, Predictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(models["arrays"])
    monkeypatch.setattr(Predictor, "outputs_of", lambda self, x: 1 / 0)
    answer = client.post(PREDICT, json={"samples": SAMPLES["arrays"].tolist()})
    assert (answer.status_code, "division" in answer.text) == (500, False)
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json() == {"error": "the model is not ready; ask again"}
    monkeypatch.undo()
    assert client.get("/readyz").json() == {"status": "ready"}


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["mixed", *SAMPLES])
def test_a_fuzzer_finds_no_server_error(
    models: dict[str, Predictor], name: str
) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    schemathesis.openapi.media_type(ARROW, st.binary(max_size=500))
    app = Application(models[name], Limits(rate=1e6), None)
    host = {"Host": "localhost"}
    [result] = schemathesis.openapi.from_asgi(
        "/openapi.json", app, headers=host
    ).get_all_operations()
    either = st.one_of(
        *(
            result.ok().as_strategy(generation_mode=mode)
            for mode in schemathesis.GenerationMode
        )
    )

    @settings(
        max_examples=150,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=either)
    def check(case: Any) -> None:
        answer = case.call(headers=host)
        assert answer.status_code < 500, answer.text
        if answer.status_code == 200:
            case.validate_response(answer)

    check()
