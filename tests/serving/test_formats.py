"""What requests may hold, what answers hold, and what is refused."""

import ast
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from orca_ray.errors import UserError
from orca_ray.own_data import Options, UserData
from orca_ray.own_data.infer_task import Preprocessing
from orca_ray.own_data.targets import TargetCoding
from orca_ray.predictor import Predictor
from orca_ray.serving.application import (
    PREDICT,
)
from orca_ray.serving.formats import Formats
from orca_ray.serving.reading import ARROW, JSON, _samples
from tests.docs.pages import BLOCK, ROOT
from tests.serving.requests import (
    ROWS,
    SAMPLES,
    SERIES,
    TABLE,
    arrow_answer,
    post,
    stream,
)

TOLERANCE = 1e-5
"""Largest difference of probabilities and standardised outputs.

Sums in batches of other sizes round differently.
"""


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
            "the request, row 1: input should be an object, found 1; the model takes"
            " rows, each with its cells by column name",
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
            json.dumps({"samples": [[[1.0] * 15] * 2]}),
            "the model takes samples of shape [2, 16], see /openapi.json",
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


def lists_of_size_zero(count: int) -> pa.Table:
    """Return a column with a list of ``count`` lists, which take no bytes."""
    none = pa.array([], pa.int8())
    inner = pa.FixedSizeListArray.from_buffers(
        pa.list_(pa.int8(), 0), count, [None], children=[none]
    )
    return pa.table(
        {"x": pa.ListArray.from_arrays(pa.array([0, count], "int32"), inner)}
    )


@pytest.mark.parametrize("count", [10**4, 2**31 - 1])
def test_lists_without_bytes_are_refused_before_they_are_converted(
    clients: dict[str, TestClient], count: int
) -> None:
    response = post(clients["unequal"], stream(lists_of_size_zero(count)), ARROW)
    assert response.status_code == 422
    assert "column 'x' has more values than bytes" in response.json()["error"]


def test_nested_lists_are_read_as_numpy_reads_them() -> None:
    kind = pa.list_(pa.list_(pa.float32(), 2))
    samples = [[[1, 2], [3, None]], [[5, 6]], [[7, 8], [9, 10], [11, 12]]]
    whole = pa.chunked_array([pa.array(samples[:1], kind), pa.array(samples, kind)[1:]])
    for column in (whole, whole.cast(pa.large_list(pa.list_(pa.float64())))):
        for found, sample in zip(_samples(column, 100), samples, strict=True):
            np.testing.assert_array_equal(found, np.array(sample, np.float64))
    missing = pa.chunked_array([pa.array([[[1, 2]], None, [None, [1, 2]]], kind)])
    assert [array.size for array in _samples(missing[:2], 100)] == [2, 0]
    uneven = missing.cast(pa.list_(pa.list_(pa.float64())))
    with pytest.raises(UserError, match="sample 3: lists of one level have unequal"):
        _samples(uneven, 100)


@pytest.mark.parametrize("part", [b"[],", b"{},", b"1,", b'"",'])
def test_json_of_many_values_is_refused_before_it_is_parsed(
    clients: dict[str, TestClient], part: bytes
) -> None:
    body = b'{"samples": [' + part * (16 * 2**20 // 3 - 100) + b"1]}"
    response = post(clients["unequal"], body[: 16 * 2**20], JSON)
    assert response.status_code == 422
    assert response.json()["error"].startswith(
        "the request has more than 1048576 lists"
    )


def test_one_wrong_value_of_many_is_reported(clients: dict[str, TestClient]) -> None:
    body = b'{"samples": [' + b"[1]," * 100_000 + b"[1]]}"
    response = post(clients["recordings"], body, JSON)
    assert "list should have at most" in response.json()["error"].lower()


def test_a_dictionary_must_not_expand_far(models: dict[str, Predictor]) -> None:
    formats = Formats(models["mixed"], 20_000)
    # column '1' is read
    with pytest.raises(UserError, match="'age of cask' is missing"):
        formats.reader.read(ARROW, stream(coded(10_000, "x" * 1000)))
    with pytest.raises(UserError, match="a text of 1000 characters is too long"):
        formats.reader.read(ARROW, stream(coded(20_000, "x" * 1000)))


def test_a_dictionary_of_many_batches_is_refused_before_it_is_validated(
    models: dict[str, Predictor],
) -> None:
    formats = Formats(models["mixed"], 10_000)
    texts = pa.array([f"{number:08d}" for number in range(100_000)])
    codes = pa.array(np.zeros(9000, np.int32))
    column = pa.DictionaryArray.from_arrays(codes, texts)
    batches = pa.table({"1": column}).to_batches(max_chunksize=1)
    body = stream(pa.Table.from_batches(batches))
    assert len(body) < 4 * 2**20
    with pytest.raises(UserError, match="9000 batches with large dictionaries"):
        formats.reader.read(ARROW, body)
    few = stream(pa.Table.from_batches(batches[:10]))
    with pytest.raises(UserError, match="'age of cask' is missing"):
        formats.reader.read(ARROW, few)


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
            assert formats.reader.read(ARROW, body)[0].shape[1:] == (3, 4)
        except UserError:
            refused += 1
    assert len(bodies) / 4 < refused < len(bodies)


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
