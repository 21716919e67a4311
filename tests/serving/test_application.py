"""The application without a socket: what it takes, what it answers, and what it refuses."""

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from orca_ray.adapted import Adapted
from orca_ray.data.rows import Array
from orca_ray.data.user import Options, UserData
from orca_ray.errors import UserError
from orca_ray.serving import application
from orca_ray.serving.formats import ARROW, JSON, Formats
from orca_ray.serving.application import MOST_REQUESTS, PREDICT, Application, Limits, ServedModel
from orca_ray.tasks.array_inputs import ArrayInputs
from orca_ray.tasks.own_targets import TargetCoding
from orca_ray.tasks.preprocessing import Preprocessing
from orca_ray.testing.bodies import save_bert, save_vit
from tests.serving.models import every_model

TOKEN = "0123456789abcdef"
TOLERANCE = 1e-5
"""Largest difference of probabilities and standardised outputs: sums in batches of other sizes round differently."""


@pytest.fixture(scope="module")
def models(module_home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Adapted]:
    return every_model(save_bert(tmp_path_factory.mktemp("bert")), save_vit(tmp_path_factory.mktemp("vit")))


def client_of(model: Adapted, token: str | None = None, **limits: Any) -> TestClient:
    return TestClient(Application(model, Limits(**limits), token), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def clients(models: dict[str, Adapted]) -> dict[str, TestClient]:
    return {name: client_of(model) for name, model in models.items()}


ROWS: list[dict[str, Any]] = [
    {"age of cask": 3.5, "1": "oak", "bottled": "2020-05-31"},
    {"age of cask": None, "1": 7, "bottled": None, "more": "ignored"},
    {"age of cask": 1, "1": "clay", "bottled": "2021-01-01T12:00:00Z"},
]


def series(seed: int, *shape: int) -> Array:
    return np.random.RandomState(seed).normal(size=shape)


SENT: dict[str, tuple[dict[str, Any], Any]] = {
    "mixed": ({"rows": ROWS}, pd.DataFrame(ROWS)),
    "unequal": (
        {"samples": [series(0, 9, 2).tolist(), series(1, 16, 2).tolist()]},
        [series(0, 9, 2), series(1, 16, 2)],
    ),
    "recordings": (
        {"samples": [series(0, 1000).tolist(), series(1, 2000).tolist()], "rate": 8000},
        UserData(x=[series(0, 1000), series(1, 2000)], rate=8000.0),
    ),
    "arrays": ({"samples": series(0, 3, 2, 16).tolist()}, series(0, 3, 2, 16)),
    "fields": ({"samples": series(0, 70, 2, 8, 8).tolist()}, series(0, 70, 2, 8, 8)),
}
"""A JSON request for each model, and the same samples as Python gives them to `Adapted.predict`."""


def check(found: dict[str, Any], model: Adapted, x: Any) -> None:
    expected = model.predict(x)
    if model.decides:
        assert np.array_equal(np.asarray(found["predictions"]), expected)
        assert np.allclose(np.asarray(found["probabilities"]), model.predict_proba(x), atol=TOLERANCE)
    else:
        assert "probabilities" not in found
        assert np.allclose(np.asarray(found["predictions"]), expected, atol=TOLERANCE * 10)
    assert tuple(found["labels"]) == model.label_names


def stream(table: pa.Table, options: pa.ipc.IpcWriteOptions | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def post(client: TestClient, body: bytes, media: str = JSON) -> httpx.Response:
    return client.post(PREDICT, content=body, headers={"Content-Type": media})  # type: ignore[return-value]


def arrow_answer(body: bytes) -> dict[str, Any]:
    """Return an Arrow answer in the form of a JSON answer."""
    table = pa.ipc.open_stream(body).read_all()
    found: dict[str, Any] = {key.decode(): json.loads(value) for key, value in table.schema.metadata.items()}
    for name in table.schema.names:
        column = table.column(name).combine_chunks()
        column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
        tensors = isinstance(column, pa.FixedShapeTensorArray)
        found[name] = column.to_numpy_ndarray() if tensors else np.asarray(column.to_pylist())
    return found


@pytest.mark.parametrize("name", SENT)
def test_predictions_are_those_of_the_model_in_json_and_arrow(
    clients: dict[str, TestClient], models: dict[str, Adapted], name: str
) -> None:
    request, x = SENT[name]
    answer = clients[name].post(PREDICT, json=request)
    assert answer.status_code == 200, answer.text
    check(answer.json(), models[name], x)
    if name == "mixed":
        frame = x.astype({"1": str})
        table = pa.Table.from_pandas(frame.assign(**{"1": frame["1"].astype("category")}))
    elif name in ("arrays", "fields"):
        table = pa.table({"x": pa.FixedShapeTensorArray.from_numpy_ndarray(x)})
    else:
        rate = {"rate": str(request["rate"])} if "rate" in request else None
        table = pa.table({"x": request["samples"]}).replace_schema_metadata(rate)
    answer = post(clients[name], stream(table), ARROW)  # type: ignore[assignment]
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == ARROW
    check(arrow_answer(answer.content), models[name], x)


def test_dates_of_arrow_and_warnings(clients: dict[str, TestClient]) -> None:
    found = []
    for kind in (pa.date32(), pa.timestamp("us", "Europe/Berlin"), pa.timestamp("s"), pa.string()):
        bottled = pa.array([18413, None], pa.int32()).cast(pa.date32())
        moment = (
            bottled.cast(kind) if kind in (pa.date32(), pa.string()) else bottled.cast(pa.timestamp("s")).cast(kind)
        )
        table = pa.table({"age of cask": [1e6, None], "1": ["clay", None], "bottled": moment})
        answer = post(clients["mixed"], stream(table), ARROW)
        assert answer.status_code == 200, (kind, answer.text)
        found.append(arrow_answer(answer.content))
    assert len(found[0]["warnings"]) == 2
    assert "column 'age of cask': values around 1e+06, in training 3 ± 2" in found[0]["warnings"][0]
    assert "categories without a slot count as missing: clay" in found[0]["warnings"][1]
    for each in found[1:]:
        assert np.array_equal(each["probabilities"], found[0]["probabilities"])


ROW = '{"rows": [{"age of cask": %s, "1": %s, "bottled": %s}]}'
SEE = "; see /openapi.json for what the model takes"


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("mixed", '{"rows": [{}]}', "row 1, column 'age of cask' is missing; send it, with null for a value that is not known"),
        ("mixed", ROW % ('"old"', "null", "null"), "row 1, column 'age of cask': input should be a valid number, found 'old'" + SEE),
        ("mixed", ROW % ("NaN", "null", "null"), "row 1, column 'age of cask': input should be a finite number, found nan" + SEE),
        ("mixed", ROW % ("1e999", "1", "null"), "row 1, column 'age of cask': input should be a finite number, found inf" + SEE),
        ("mixed", ROW % ("true", "1", "null"), "row 1, column 'age of cask': input should be a valid number, found True" + SEE),
        ("mixed", ROW % ("1", "[1]", "null"), "row 1, column '1': input should be a valid string, found a JSON array" + SEE),
        ("mixed", ROW % ("1", '"%s"' % ("x" * 1001), "null"), "column '1': string should have at most 1000 characters, found 'xxx"),
        ("mixed", ROW % ("1", "1", '"soon"'), "row 1, column 'bottled': expected a date such as 2024-05-31, found 'soon'"),
        ("mixed", '{"rows": []}', "field 'rows': list should have at least 1 item after validation, not 0, found a JSON array" + SEE),
        ("mixed", '{"rows": [1]}', "row 1: input should be an object, found 1" + SEE),
        ("mixed", '{"raws": []}', "field 'rows' is missing"),
        ("mixed", "[1]", "the request: input should be an object, found a JSON array" + SEE),
        ("mixed", "", "invalid JSON"),
        ("mixed", '{"rows": ["\\ud800"]}', "invalid JSON"),
        ("mixed", '{"rows": [' + "1" * 5000 + "]}", "number out of range"),
        ("mixed", "[" * 100_000, "invalid JSON: recursion limit"),
        ("mixed", '{"rows":' * 100_000, "invalid JSON: recursion limit"),
        ("unequal", '{"samples": [[[1, 2]], [[1, 2], [3]]]}', "sample 2: lists of one level have unequal lengths; pad them"),
        ("unequal", '{"samples": [[[1, 2, 3]]]}', "expected 2 channels, found 3"),
        ("unequal", '{"samples": [[[]]]}', "sample 1, position [0]: list should have at least 1 item"),
        ("recordings", '{"samples": [[0.5]], "rate": 44100}', "field 'rate': input should be less than or equal to 8000, found 44100"),
        ("recordings", '{"samples": [[0.5]]}', "field 'rate' is missing"),
        ("arrays", '{"samples": [[[1]]]}', "sample 1, position [0]: list should have at least 16 items"),
        ("arrays", json.dumps({"samples": [[[None] * 16] * 2]}), "sample 1, position [0, 0]: input should be a valid number, found None"),
        ("arrays", json.dumps({"samples": [[[1e300] * 16] * 2]}), "row 1 has values that are not finite"),
        ("arrays", json.dumps({"samples": [[[3e38] * 16] * 2]}), "outputs are not finite"),
    ],
)  # fmt: skip
def test_wrong_json_is_explained(clients: dict[str, TestClient], name: str, body: str, message: str) -> None:
    answer = post(clients[name], body.encode())
    assert (answer.status_code, list(answer.json())) == (422, ["error"]), answer.text
    assert message.lower() in answer.json()["error"].lower()


def nested(kind: Any, values: list[Any]) -> bytes:
    return stream(pa.table({"x": pa.array(values, kind)}))


def coded(*texts: str) -> bytes:
    return stream(pa.table({"1": pa.DictionaryArray.from_arrays(np.arange(9_000) % len(texts), list(texts))}))


def compressed(codec: str, dictionary: bool) -> bytes:
    texts = pa.array(["oak" * 300] * 900)
    return stream(
        pa.table({"1": texts.dictionary_encode() if dictionary else texts}), pa.ipc.IpcWriteOptions(compression=codec)
    )


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("mixed", b"", "no Arrow stream"),
        ("mixed", b"nonsense" * 100, "no Arrow stream"),
        ("mixed", stream(pa.table({"a": [1]})), "request has no samples|column 'age of cask' is missing"),
        ("mixed", stream(pa.table({"1": ["oak"]})), "column 'age of cask' is missing"),
        ("mixed", stream(pa.table({"1": [b"x"]})), "column '1': expected numbers, text or dates, found binary"),
        ("mixed", stream(pa.table({"1": [[1]]})), "column '1': expected numbers, text or dates, found list"),
        ("mixed", stream(pa.table({"1": ["x" * 1001]})), "column '1': a text of 1001 characters is too long"),
        ("mixed", coded("x" * 1001), "column '1': a text of 1001 characters is too long"),
        ("mixed", stream(pa.table([[1], [2]], names=["1", "1"])), "no Arrow stream for this model: .*1"),
        ("mixed", stream(pa.table({"1": pa.nulls(10_001)})), "has 10001 rows; send 1 to 10000 in one request"),
        ("mixed", stream(pa.table({"1": pa.nulls(0)})), "has 0 rows"),
        ("mixed", compressed("zstd", False), "compress"),
        ("mixed", compressed("lz4", False), "compress"),
        ("mixed", compressed("zstd", True), "compress"),
        ("arrays", stream(pa.table({"y": [1]})), "no Arrow stream for this model: .*x"),
        ("arrays", stream(pa.table({"x": ["a"]})), "column 'x': expected tensors or nested lists of numbers, found string"),
        ("arrays", nested(pa.list_(pa.bool_()), [[True]]), "found bool"),
        ("arrays", stream(pa.table({"x": [1.0]})), r"has shape \(1,\)"),
        ("arrays", nested(pa.list_(pa.float64()), [[1.0], None]), "unequal|shape"),
        ("arrays", nested(pa.list_(pa.float64()), [[]]), "sample 1 is empty; leave it out"),
        ("unequal", nested(pa.list_(pa.list_(pa.int8())), [[[1, 2], [3]]]), "unequal lengths"),
    ],
)  # fmt: skip
def test_wrong_arrow_is_explained(clients: dict[str, TestClient], name: str, body: bytes, message: str) -> None:
    answer = post(clients[name], body, ARROW)
    assert answer.status_code == 422, answer.text
    assert re.search(message, answer.json()["error"], re.IGNORECASE), answer.text


def test_a_dictionary_must_not_expand_far(models: dict[str, Adapted]) -> None:
    client = client_of(models["mixed"], samples=20_000)
    assert (
        "is missing" in post(client, coded("x" * 1000), ARROW).json()["error"]
    )  # read, and 'age of cask' is not there
    table = pa.table({"1": pa.DictionaryArray.from_arrays(np.zeros(20_000, np.int8), ["x" * 1000])})
    assert "a text of 1000 characters is too long" in post(client, stream(table), ARROW).json()["error"]


def test_changed_and_cut_streams_are_survived(models: dict[str, Adapted]) -> None:
    formats = Formats(models["mixed"], 10_000)
    frame = pd.DataFrame(ROWS[:2]).astype({"1": str})
    whole = stream(pa.Table.from_pandas(frame.assign(**{"1": frame["1"].astype("category")})))
    random = np.random.RandomState(0)
    bodies = [whole[:length] for length in range(0, len(whole), 64)]
    for place in random.randint(0, len(whole), 200):
        bodies.append(whole[:place] + bytes([random.randint(256)]) + whole[place + 1 :])
    refused = 0
    for body in bodies:
        try:
            assert formats.read(ARROW, body)[0].shape == (2, 3, 4)
        except UserError:
            refused += 1
    assert len(bodies) / 4 < refused < len(bodies)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/csv"}, 415),
        ({}, 415),
        ({"Content-Type": JSON, "Content-Encoding": "gzip"}, 415),
        ({"Content-Type": "Application/JSON; charset=utf-8"}, 200),
    ],
)
def test_content_types(clients: dict[str, TestClient], headers: dict[str, str], status: int) -> None:
    body = json.dumps(SENT["mixed"][0]).encode()
    assert clients["mixed"].post(PREDICT, content=body, headers=headers).status_code == status


def test_limits_of_sizes(models: dict[str, Adapted]) -> None:
    client = client_of(models["mixed"], body_bytes=1000, samples=2)

    def parts() -> Iterator[bytes]:
        yield from [b"x" * 600] * 2

    for content in (b"x" * 1001, parts()):
        answer = client.post(PREDICT, content=content, headers={"Content-Type": JSON})
        assert answer.status_code == 413
        assert answer.json() == {"error": "the body has more than 1000 bytes; send fewer samples a request"}
    assert client.post(PREDICT, json={"rows": ROWS[:2]}).status_code == 200
    assert "at most 2 items" in client.post(PREDICT, json={"rows": ROWS}).json()["error"]
    body = stream(pa.table({"1": ["oak"] * 3}))
    assert (
        "has 3 rows; send 1 to 2 in one request"
        in post(client_of(models["mixed"], samples=2), body, ARROW).json()["error"]
    )
    model = models["fields"]
    task = SimpleNamespace(name="large", input_shape=(2, 1024, 1024), target=model.task.target)
    large = SimpleNamespace(task=task, preprocessing=None, label_names=(), decides=False)
    described = Formats(large, 10_000).description(token=False)["components"]["schemas"]  # type: ignore[arg-type]
    assert described["Request"]["properties"]["samples"]["maxItems"] == 2


def test_limits_of_requests_in_progress(models: dict[str, Adapted], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "IN_PROGRESS", 2)
    monkeypatch.setattr(application, "HELD_BODIES", 1.5)
    app = Application(models["mixed"], Limits(body_bytes=1000, seconds=1), None)

    async def slow(size: int, rest: float) -> Any:
        async def body() -> Any:
            yield b"[" * size
            await asyncio.sleep(rest)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
            answer = await client.post(PREDICT, content=body(), headers={"Content-Type": JSON})
            return answer.status_code, answer.headers.get("retry-after"), answer.json()["error"]

    async def together(*sizes: int) -> list[Any]:
        return await asyncio.gather(*(slow(size, 0.2) for size in sizes))

    load = "500 requests a second, or than 2 requests or 1.5 large bodies at once"
    busy = (429, "1", f"there are more than {load}; send fewer")
    first, second, third = asyncio.run(together(10, 10, 10))
    assert (first[0], second[0], third) == (422, 422, busy)
    first, second = asyncio.run(together(900, 900))
    assert (first[0], second) == (422, busy)
    late = asyncio.run(slow(10, 3))
    assert late == (408, None, "the request took longer than 1 s; send fewer samples, or send them faster")
    assert asyncio.run(together(900))[0][0] == 422  # nothing is held any more


def test_rate(models: dict[str, Adapted], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    client = client_of(models["mixed"], rate=4)
    monkeypatch.setattr(
        application, "time", SimpleNamespace(monotonic=lambda: now, perf_counter=time.perf_counter, sleep=time.sleep)
    )

    def passed(count: int) -> list[bool]:
        return [post(client, b"").status_code != 429 for _ in range(count)]

    assert passed(5) == [True, True, True, True, False]
    now += 0.5
    assert passed(3) == [True, True, False]
    now += 100
    assert sum(passed(10)) == 4
    assert client.get("/healthz").status_code == 200


def test_token(models: dict[str, Adapted]) -> None:
    client = client_of(models["mixed"], token=TOKEN)
    for headers in ({}, {"Authorization": TOKEN}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": "Bearer é"}):
        encoded = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
        for method, path in (("POST", PREDICT), ("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/")):
            answer = client.request(method, path, headers=encoded)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), path
    assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
    right = {"Authorization": f"Bearer {TOKEN}"}
    assert client.post(PREDICT, json={"rows": ROWS}, headers=right).status_code == 200
    found = client.get("/openapi.json", headers=right).json()
    assert found["components"]["securitySchemes"] == {"token": {"type": "http", "scheme": "bearer"}}
    assert found["paths"][PREDICT]["post"]["security"] == [{"token": []}]


def test_metrics_and_paths(models: dict[str, Adapted]) -> None:
    client = client_of(models["mixed"])
    client.post(PREDICT, json={"rows": ROWS})
    client.post(PREDICT, json={"rows": []})
    assert client.get("/nowhere").status_code == 404
    answer = client.get(PREDICT)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert client.get("/healthz").json() == {"status": "ok"}
    lines = client.get("/metrics").text.splitlines()
    for line in (
        'orca_ray_requests_total{path="/v1/predict",status="200"} 1.0',
        'orca_ray_requests_total{path="/v1/predict",status="422"} 1.0',
        'orca_ray_requests_total{path="other",status="404"} 1.0',
        'orca_ray_request_errors_total{status="422"} 1.0',
        'orca_ray_request_seconds_count{path="/v1/predict"} 3.0',
        "orca_ray_request_samples_sum 3.0",
        "orca_ray_batch_samples_sum 3.0",
        "orca_ray_requests_in_progress 0.0",
    ):
        assert line in lines


def test_the_description_follows_the_model(clients: dict[str, TestClient]) -> None:
    def of(name: str) -> tuple[Any, Any]:
        found = clients[name].get("/openapi.json").json()
        assert set(found["paths"][PREDICT]["post"]["requestBody"]["content"]) == {JSON, ARROW}
        schemas = found["components"]["schemas"]
        return schemas, schemas["Request"]["properties"]

    schemas, properties = of("mixed")
    assert properties["rows"]["maxItems"] == 10_000
    assert list(schemas["Row"]["properties"]) == schemas["Row"]["required"] == ["age of cask", "1", "bottled"]
    assert {"type": "number"} in schemas["Row"]["properties"]["age of cask"]["anyOf"]
    assert "oak, steel, 7" in schemas["Row"]["properties"]["1"]["description"]
    assert set(schemas["Predictions"]["required"]) == {"predictions", "probabilities", "labels", "warnings"}
    schemas, properties = of("fields")
    sample = properties["samples"]["items"]
    assert (sample["minItems"], sample["items"]["maxItems"], sample["items"]["items"]["maxItems"]) == (2, 8, 8)
    assert set(schemas["Predictions"]["required"]) == {"predictions", "labels", "warnings"}
    _, properties = of("recordings")
    assert properties["rate"]["minimum"] == properties["rate"]["maximum"] == 8000


def test_fields_are_described_with_the_axes_that_the_user_gave(models: dict[str, Adapted]) -> None:
    coding = TargetCoding(kind="dense", shape=(3, 8, 8), axes=(2, 0, 1))
    encoder = ArrayInputs(axes="CHW", given=None, shape=(1, 8, 8), mask=False, mean=(0,), std=(1,), largest=1)
    own = Preprocessing(reading=Options(), encoder=encoder, target=coding)
    model = SimpleNamespace(task=models["fields"].task, preprocessing=own, label_names=(), decides=False)
    found = Formats(model, 10).description(token=False)["components"]["schemas"]["Predictions"]  # type: ignore[arg-type]
    field = found["properties"]["predictions"]["items"]
    assert [field["maxItems"], field["items"]["maxItems"], field["items"]["items"]["maxItems"]] == [8, 8, 3]


class FakeModel:
    """Sums up its inputs, and misbehaves on command."""

    task = SimpleNamespace(input_shape=(2,))

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.broken = False
        self.go = threading.Event()
        self.go.set()

    def outputs_of(self, x: Array) -> Array:
        self.go.wait(30)
        self.calls.append(len(x))
        if self.broken:
            raise RuntimeError("the device is gone")
        if np.isnan(x).any():
            raise UserError("not finite")
        return np.asarray(x.sum(axis=1))


def filled(value: float, rows: int = 1) -> Array:
    return np.full((rows, 2), value, np.float32)


def test_requests_that_arrive_together_are_one_batch_and_get_their_own_answers() -> None:
    model = FakeModel()
    served = ServedModel(model, 30)  # type: ignore[arg-type]
    found = [served.outputs(filled(number, rows=1 + number % 2)) for number in range(40)]
    for number, future in enumerate(found):
        outputs, batch = future.result(30)
        assert outputs.tolist() == [2.0 * number] * (1 + number % 2)
        assert batch == (48 if number < MOST_REQUESTS else 12)
    assert model.calls == [48, 12]
    cancelled, bad, good = (served.outputs(filled(value)) for value in (0, np.nan, 3))
    cancelled.cancel()
    with pytest.raises(UserError, match="not finite"):
        bad.result(30)
    assert good.result(30)[0].tolist() == [6.0]
    assert model.calls[2:] == [2, 1, 1]


def test_a_model_that_fails_or_hangs_is_not_ready_until_it_answers_again() -> None:
    model = FakeModel()
    served = ServedModel(model, 0.2)  # type: ignore[arg-type]
    assert asyncio.run(served.ready())
    assert model.calls == [1]
    model.broken = True
    assert asyncio.run(served.ready())  # nothing has failed yet, and nothing is tried
    with pytest.raises(RuntimeError, match="device"):
        served.outputs(filled(1)).result(30)
    assert not asyncio.run(served.ready())
    assert not asyncio.run(served.ready())
    model.broken = False
    assert asyncio.run(served.ready())
    model.go.clear()
    hangs: Future[Any] = served.outputs(filled(1))
    time.sleep(0.4)
    assert not asyncio.run(served.ready())
    model.go.set()
    hangs.result(30)
    assert asyncio.run(served.ready())


def test_a_failing_model_is_an_answer_500_and_readyz_503(
    models: dict[str, Adapted], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(models["arrays"])
    assert client.get("/readyz").json() == {"status": "ready"}

    def fail(self: Adapted, x: Array) -> Array:
        raise RuntimeError("secret")

    with monkeypatch.context() as patch:
        patch.setattr(Adapted, "outputs_of", fail)
        answer = client.post(PREDICT, json=SENT["arrays"][0])
        assert answer.status_code == 500
        assert "secret" not in answer.text
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()) == (503, {"error": "the model is not ready; ask again"})
    assert client.get("/readyz").status_code == 200


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("name", SENT)
def test_a_fuzzer_finds_no_server_error(models: dict[str, Adapted], name: str) -> None:
    app = Application(models[name], Limits(rate=1e6), None)
    fuzz(lambda schemathesis: schemathesis.openapi.from_asgi("/openapi.json", app))


def fuzz(load: Callable[[Any], Any], examples: int = 60) -> None:
    """Send requests that follow the OpenAPI description, and some that break it; check every answer with it."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    schemathesis.openapi.media_type(ARROW, st.binary(max_size=500))
    schema = load(schemathesis)
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in schemathesis.GenerationMode:

            @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            @given(case=operation.as_strategy(generation_mode=mode))
            def check_one(case: Any) -> None:
                answer = case.call()
                assert answer.status_code < 500, answer.text
                if answer.status_code == 200:
                    case.validate_response(answer)

            try:
                check_one()
            except Exception as error:
                if type(error).__name__ not in ("Unsatisfiable", "SkipTest"):  # nothing can break e.g. GET /healthz
                    raise
