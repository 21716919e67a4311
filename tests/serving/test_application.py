"""The HTTP application without Ray: what it takes, what it answers, and what it refuses."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from fastapi import FastAPI
from pydantic import ValidationError
from starlette.testclient import TestClient

from orca_ray.data.rows import Array
from orca_ray.own_data import Options, UserData
from orca_ray.own_data.array_inputs import ArrayInputs
from orca_ray.own_data.preprocessing import Preprocessing
from orca_ray.own_data.targets import TargetCoding
from orca_ray.predictor import Predictor
from orca_ray.serving import application
from orca_ray.serving.arrow import MEDIA_TYPE
from orca_ray.serving.guard import Bucket, Limits
from orca_ray.serving.replica import Answer, Description, answers
from orca_ray.serving.requests import answer_type
from orca_ray.testing.bodies import save_bert, save_vit
from tests.serving.models import every_model

PATH = "/v1/predict"
TOLERANCE = 1e-5
"""Largest difference of probabilities and standardised outputs: sums in batches of other sizes round differently."""


@pytest.fixture(scope="module")
def models(module_home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Predictor]:
    return every_model(save_bert(tmp_path_factory.mktemp("bert")), save_vit(tmp_path_factory.mktemp("vit")))


def app_of(model: Predictor, limits: Limits | None = None, token: str | None = None) -> FastAPI:
    async def predict(x: Array) -> Answer | str:
        return answers(model, [x])[0]

    async def ready() -> bool:
        return True

    described = Description(model.task, model.preprocessing, model.label_names, model.decides)
    return application.build(described, predict, ready, limits=limits or Limits(), token=token)


def client_of(model: Predictor, limits: Limits | None = None, token: str | None = None) -> TestClient:
    return TestClient(app_of(model, limits, token), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def clients(models: dict[str, Predictor]) -> dict[str, TestClient]:
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
"""A JSON request for each model, and the same samples as Python gives them to `Predictor.predict`."""


def check(found: dict[str, Any], model: Predictor, x: Any) -> None:
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


def post_arrow(client: TestClient, body: bytes) -> httpx.Response:
    return client.post(PATH, content=body, headers={"Content-Type": MEDIA_TYPE})  # type: ignore[return-value]


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
def test_json(clients: dict[str, TestClient], models: dict[str, Predictor], name: str) -> None:
    request, x = SENT[name]
    answer = clients[name].post(PATH, json=request)
    assert answer.status_code == 200, answer.text
    check(answer.json(), models[name], x)


@pytest.mark.parametrize("name", SENT)
def test_arrow(clients: dict[str, TestClient], models: dict[str, Predictor], name: str) -> None:
    request, x = SENT[name]
    if name == "mixed":
        frame = x.astype({"1": str})
        table = pa.Table.from_pandas(frame.assign(**{"1": frame["1"].astype("category")}))
    elif name in ("arrays", "fields"):
        table = pa.table({"x": pa.FixedShapeTensorArray.from_numpy_ndarray(x)})
    else:
        rate = {"rate": str(request["rate"])} if "rate" in request else None
        table = pa.table({"x": request["samples"]}).replace_schema_metadata(rate)
    answer = post_arrow(clients[name], stream(table))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == MEDIA_TYPE
    check(arrow_answer(answer.content), models[name], x)


def test_dates_of_arrow(clients: dict[str, TestClient]) -> None:
    for kind in (pa.date32(), pa.timestamp("us", "Europe/Berlin"), pa.timestamp("s")):
        bottled = pa.array([18413, None], pa.int32()).cast(pa.date32())
        moment = bottled if kind == pa.date32() else bottled.cast(pa.timestamp("s")).cast(kind)
        table = pa.table({"age of cask": [1, 2], "1": ["oak", None], "bottled": moment})
        answer = post_arrow(clients["mixed"], stream(table))
        assert answer.status_code == 200, (kind, answer.text)


def test_warnings_are_in_the_answer(clients: dict[str, TestClient]) -> None:
    rows = [{**ROWS[0], "1": "clay", "age of cask": 1e6}]
    found = clients["mixed"].post(PATH, json={"rows": rows}).json()["warnings"]
    assert len(found) == 2
    assert "column 'age of cask': values around 1e+06, in training 3 ± 2" in found[0]
    assert "categories without a slot count as missing: clay" in found[1]


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("mixed", b'{"rows": [{}]}', "row 1, column 'age of cask' is missing; send it, with null"),
        (
            "mixed",
            b'{"rows": [{"age of cask": "old", "1": null, "bottled": null}]}',
            "row 1, column 'age of cask': .*'old'",
        ),
        (
            "mixed",
            b'{"rows": [{"age of cask": NaN, "1": null, "bottled": null}]}',
            "row 1, column 'age of cask': .* finite",
        ),
        ("mixed", b'{"rows": [{"age of cask": 1e999, "1": 1, "bottled": null}]}', "finite number"),
        ("mixed", b'{"rows": [{"age of cask": 1, "1": [1], "bottled": null}]}', "column '1': .* a JSON array"),
        (
            "mixed",
            b'{"rows": [{"age of cask": 1, "1": 1, "bottled": "soon"}]}',
            "column 'bottled': expected a date .*'soon'",
        ),
        ("mixed", b'{"rows": []}', "at least 1 item"),
        ("mixed", b'{"raws": []}', "field 'rows' is missing"),
        ("mixed", b"[1]", "object"),
        ("mixed", b"", "invalid JSON"),
        ("mixed", b'{"rows": [\xff]}', "invalid JSON"),
        ("mixed", b'{"rows": ["\\ud800"]}', "invalid JSON"),
        ("mixed", b'{"rows": [' + b"1" * 5000 + b"]}", "number out of range"),
        ("mixed", b"[" * 100_000, "invalid JSON: recursion limit"),
        ("mixed", b'{"rows":' * 100_000, "invalid JSON: recursion limit"),
        ("unequal", b'{"samples": [[[1, 2], [3]]]}', "sample 1: lists of one level have unequal lengths"),
        ("unequal", b'{"samples": [[[1, 2, 3]]]}', "expected 2 channels, found 3"),
        ("unequal", b'{"samples": [[[]]]}', "sample 1, position .* at least 1 item"),
        ("recordings", b'{"samples": [[0.5]], "rate": 44100}', "field 'rate'.*8000"),
        ("recordings", b'{"samples": [[0.5]]}', "field 'rate' is missing"),
        ("arrays", b'{"samples": [[[1]]]}', "sample 1, position .0.: .* at least 16 items"),
        ("arrays", json.dumps({"samples": [[[None] * 16] * 2]}).encode(), r"sample 1, position \[0, 0\].*found None"),
        ("arrays", json.dumps({"samples": [[[1e300] * 16] * 2]}).encode(), "not finite"),
        ("arrays", json.dumps({"samples": [[[3e38] * 16] * 2]}).encode(), "not finite"),
    ],
)
def test_wrong_json_is_explained(clients: dict[str, TestClient], name: str, body: bytes, message: str) -> None:
    answer = clients[name].post(PATH, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert re.search(message, answer.json()["error"], re.IGNORECASE), answer.text


def test_a_request_without_an_answer_spares_the_others_of_its_batch(models: dict[str, Predictor]) -> None:
    x = series(0, 3, 2, 16).astype(np.float32)
    found = answers(models["arrays"], [x[:1], np.full_like(x[:2], 3e38), x[1:]])
    assert isinstance(found[1], str)
    assert "outputs are not finite" in found[1]
    for answer, part in ((found[0], x[:1]), (found[2], x[1:])):
        assert isinstance(answer, Answer)
        assert np.allclose(answer.predictions, models["arrays"].predict(part), atol=TOLERANCE)


def _nested(kind: pa.DataType, values: list[Any]) -> bytes:
    return stream(pa.table({"x": pa.array(values, kind)}))


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("mixed", b"", "no Arrow stream"),
        ("mixed", b"nonsense" * 100, "no Arrow stream"),
        ("mixed", stream(pa.table({"a": [1]}))[:-30], "no Arrow stream|none of the columns|missing"),
        ("mixed", stream(pa.table({"a": [1]})), "request has no samples"),
        ("mixed", stream(pa.table({"1": ["oak"]})), "column 'age of cask' is missing"),
        ("mixed", stream(pa.table({"age of cask": [b"x"]})), "column 'age of cask': expected numbers, text or dates"),
        ("mixed", stream(pa.table({"age of cask": ["x" * 5000]})), "longer than 1000 characters"),
        ("mixed", stream(pa.table({"1": pa.array(["x" * 5000]).dictionary_encode()})), "longer than 1000 characters"),
        ("mixed", stream(pa.table([[1], [2]], names=["1", "1"])), "several columns '1'"),
        ("mixed", stream(pa.table({"1": pa.nulls(10_001)})), "more than 10000 rows"),
        ("mixed", stream(pa.table({"1": pa.nulls(0)})), "no rows"),
        ("mixed", stream(pa.table({"1": ["oak"] * 9}), pa.ipc.IpcWriteOptions(compression="zstd")), "compressed"),
        ("arrays", stream(pa.table({"y": [1]})), "one column 'x'"),
        ("arrays", stream(pa.table({"x": ["a"]})), "expected tensors or nested lists of numbers, found string"),
        ("arrays", stream(pa.table({"x": [1.0]})), r"has shape \(1,\)"),
        ("arrays", _nested(pa.list_(pa.float64()), [[1.0], None]), "unequal|shape"),
        ("arrays", _nested(pa.list_(pa.float64()), [[]]), "sample 1 is empty"),
        ("unequal", _nested(pa.list_(pa.list_(pa.int8())), [[[1, 2], [3]]]), "unequal lengths"),
    ],
)  # fmt: skip
def test_wrong_arrow_is_explained(clients: dict[str, TestClient], name: str, body: bytes, message: str) -> None:
    answer = post_arrow(clients[name], body)
    assert answer.status_code == 422, answer.text
    assert re.search(message, answer.json()["error"], re.IGNORECASE), answer.text


def test_every_cut_and_changed_byte_of_a_stream_is_survived(clients: dict[str, TestClient]) -> None:
    frame = pd.DataFrame(ROWS[:2]).astype({"1": str})
    whole = stream(pa.Table.from_pandas(frame.assign(**{"1": frame["1"].astype("category")})))
    random = np.random.RandomState(0)
    bodies = [whole[:length] for length in range(0, len(whole), 16)]
    for place in random.randint(0, len(whole), 400):
        bodies.append(whole[:place] + bytes([random.randint(256)]) + whole[place + 1 :])
    for body in bodies:
        answer = post_arrow(clients["mixed"], body)
        assert answer.status_code in (200, 422), (answer.text, body)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/csv"}, 415),
        ({}, 415),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, 415),
        ({"Content-Type": "Application/JSON; charset=utf-8"}, 200),
    ],
)
def test_content_types(clients: dict[str, TestClient], headers: dict[str, str], status: int) -> None:
    body = json.dumps(SENT["mixed"][0]).encode()
    assert clients["mixed"].post(PATH, content=body, headers=headers).status_code == status


def test_a_large_body_is_refused(models: dict[str, Predictor]) -> None:
    client = client_of(models["mixed"], Limits(body_bytes=1000))

    def parts() -> Iterator[bytes]:
        yield from [b"x" * 600] * 2

    for content in (b"x" * 1001, parts()):
        answer = client.post(PATH, content=content, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["error"]) == (
            413,
            "the body has more than 1000 bytes; send fewer samples a request",
        )
    assert client.post(PATH, json={"rows": ROWS}).status_code == 200


def test_many_samples_are_refused(models: dict[str, Predictor]) -> None:
    client = client_of(models["mixed"], Limits(samples=2))
    assert "at most 2 items" in client.post(PATH, json={"rows": ROWS}).json()["error"]
    table = pa.table({"1": ["oak"] * 3})
    assert "more than 2 rows" in post_arrow(client, stream(table)).json()["error"]


def test_rate(models: dict[str, Predictor]) -> None:
    client = client_of(models["mixed"], Limits(rate=2))
    answers = [client.post(PATH, json={"rows": ROWS}) for _ in range(3)]
    assert [answer.status_code for answer in answers[:2]] == [200, 200]
    assert answers[2].status_code in (200, 429)
    statuses = {client.post(PATH, json={"rows": []}).status_code for _ in range(50)}
    assert 429 in statuses
    assert client.get("/healthz").status_code == 200


def test_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    bucket = Bucket(3)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    now = 0.5
    assert [bucket.take(), bucket.take()] == [True, False]
    now = 100
    assert sum(bucket.take() for _ in range(10)) == 3


TOKEN = "0123456789abcdef"


def test_token(models: dict[str, Predictor]) -> None:
    client = client_of(models["mixed"], token=TOKEN)
    for headers in ({}, {"Authorization": TOKEN}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": "Bearer é"}):
        encoded = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
        for method, path in (("POST", PATH), ("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/")):
            answer = client.request(method, path, headers=encoded)
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"
    assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
    right = {"Authorization": f"Bearer {TOKEN}"}
    assert client.post(PATH, json={"rows": ROWS}, headers=right).status_code == 200
    assert client.get("/openapi.json", headers=right).json()["components"]["securitySchemes"]


def test_metrics(models: dict[str, Predictor]) -> None:
    client = client_of(models["mixed"])
    client.post(PATH, json={"rows": ROWS})
    client.post(PATH, json={"rows": []})
    client.get("/nowhere")
    lines = client.get("/metrics").text.splitlines()
    for line in (
        'orca_ray_requests_total{path="/v1/predict",status="200"} 1.0',
        'orca_ray_requests_total{path="/v1/predict",status="422"} 1.0',
        'orca_ray_requests_total{path="other",status="404"} 1.0',
        'orca_ray_request_errors_total{status="422"} 1.0',
        'orca_ray_request_seconds_count{path="/v1/predict"} 2.0',
        "orca_ray_batch_samples_sum 3.0",
        "orca_ray_requests_in_progress 0.0",
    ):
        assert line in lines


def test_the_description_follows_the_model(clients: dict[str, TestClient]) -> None:
    def of(name: str) -> tuple[Any, Any]:
        found = clients[name].get("/openapi.json").json()
        body = found["paths"][PATH]["post"]["requestBody"]["content"]
        assert MEDIA_TYPE in body
        return found["components"]["schemas"], body["application/json"]["schema"]["properties"]

    schemas, properties = of("mixed")
    assert properties["rows"]["maxItems"] == 10_000
    assert list(schemas["Row"]["properties"]) == schemas["Row"]["required"] == ["age of cask", "1", "bottled"]
    assert {"type": "number"} in schemas["Row"]["properties"]["age of cask"]["anyOf"]
    assert "oak, steel, 7" in schemas["Row"]["properties"]["1"]["description"]
    assert "labels" in schemas["Predictions"]["properties"]
    _, properties = of("fields")
    sample = properties["samples"]["items"]
    assert (sample["minItems"], sample["items"]["maxItems"], sample["items"]["items"]["maxItems"]) == (2, 8, 8)
    _, properties = of("recordings")
    assert properties["rate"]["minimum"] == properties["rate"]["maximum"] == 8000


@pytest.mark.slow
@pytest.mark.parametrize("name", SENT)
def test_a_fuzzer_finds_no_server_error(models: dict[str, Predictor], name: str) -> None:
    fuzz(lambda schemathesis: schemathesis.openapi.from_asgi("/openapi.json", app_of(models[name], Limits(rate=1e6))))


def fuzz(load: Callable[[Any], Any], examples: int = 60) -> None:
    """Send requests that follow the OpenAPI description, and some that break it; check every answer with it."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    schemathesis.openapi.media_type(MEDIA_TYPE, st.binary(max_size=500))
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


def test_an_answer_has_fields_with_their_axes_as_the_user_gave_them(models: dict[str, Predictor]) -> None:
    coding = TargetCoding(kind="dense", shape=(3, 8, 8), axes=(2, 0, 1))
    encoder = ArrayInputs(axes="CHW", given=None, shape=(1, 8, 8), mask=False, mean=(0,), std=(1,), largest=1)
    own = Preprocessing(reading=Options(), encoder=encoder, target=coding)
    kind = answer_type(Description(models["fields"].task, own, (), decides=False))
    fields = np.zeros((2, 3, 8, 8), np.float32)
    rest: dict[str, Any] = {"labels": [], "warnings": []}
    assert kind.model_validate({"predictions": coding.decode(fields).tolist(), **rest})
    with pytest.raises(ValidationError):
        kind.model_validate({"predictions": fields.tolist(), **rest})
