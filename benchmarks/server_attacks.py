"""Hostile requests to ``orca-sweep serve``, by kind: JSON, Arrow, HTTP, connections.

Each kind draws an `Attack` from a random generator. `benchmarks.fuzz_server` sends it.
"""

import gzip
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from benchmarks.mutations import Drawer, mutate_bytes
from orca_ray.serving.application import PREDICT
from orca_ray.serving.reading import ARROW, JSON
from tests.serving.requests import ROWS, TABLE, stream

TOKEN = "a-token-of-the-fuzzer-0123456789"
INPUT_SHAPE = (2, 16)
"""Shape of a sample of the model of arrays."""
SAMPLES = np.random.default_rng(0).normal(size=(3, *INPUT_SHAPE)).astype(np.float32)
"""Valid samples for the model of arrays."""
_MOST = 2**31 - 1
"""Largest offset in an Arrow list, and largest size of a list of fixed size."""

ModelName = Literal["arrays", "table"]


@dataclass(frozen=True)
class Attack:
    """What one client does to a server."""

    change: str
    """The attack, in words."""
    parts: tuple[bytes, ...]
    """Bytes that are sent one after the other."""
    model: ModelName = "arrays"
    """Model of the server that is attacked."""
    pause: float = 0.0
    """Seconds between the parts."""
    num_connections: int = 1
    """Number of connections on which the parts are sent."""
    leaves: bool = False
    """Whether the client goes without waiting for an answer or an end."""


def _head(method: str, path: str, *headers: str, token: str = TOKEN) -> bytes:
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: 127.0.0.1",
        f"Authorization: Bearer {token}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")


def request(body: bytes, media: str = JSON, *headers: str, last: bool = True) -> bytes:
    """Return the bytes of a request for predictions.

    ``last``: the server ends the connection after its answer.
    """
    connection = "close" if last else "keep-alive"
    return (
        _head(
            "POST",
            PREDICT,
            f"Content-Type: {media}",
            f"Content-Length: {len(body)}",
            f"Connection: {connection}",
            *headers,
        )
        + body
    )


def good_body(model: ModelName, media: str) -> bytes:
    """Return a valid body for a model."""
    if media == JSON:
        content = {"samples": SAMPLES.tolist()} if model == "arrays" else {"rows": ROWS}
        return json.dumps(content).encode()
    if model == "table":
        return stream(TABLE)
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(SAMPLES)
    return stream(pa.table({"x": tensors}))


def _pick(drawer: Drawer, values: Sequence[Any]) -> Any:
    return values[int(drawer.integers(len(values)))]


def _model(drawer: Drawer) -> ModelName:
    names: tuple[ModelName, ...] = ("arrays", "table")
    return names[int(drawer.integers(2))]


def _json(body: bytes, change: str, model: ModelName = "arrays") -> Attack:
    return Attack(change, (request(body),), model)


def _arrow(table: pa.Table, change: str, model: ModelName = "arrays") -> Attack:
    return Attack(change, (request(stream(table), ARROW),), model)


def _json_depth(drawer: Drawer) -> Attack:
    depth = int(10 ** drawer.uniform(1, 6))
    opening, closing = _pick(drawer, [("[", "]"), ('{"samples":', "}"), ("[{", "")])
    text = '{"samples":' + opening * depth + closing * depth + "}"
    return _json(text.encode()[: 15 * 2**20], f"{depth} levels of {opening}")


def _json_lists(drawer: Drawer) -> Attack:
    item = _pick(drawer, ["[]", "{}", "[[]]", "0", '""', "null"])
    number = int(10 ** drawer.uniform(3, 6.6))
    text = '{"samples":[' + ",".join([item] * number) + "]}"
    model = _model(drawer)
    if model == "table":
        text = text.replace("samples", "rows")
    return _json(text.encode()[: 15 * 2**20], f"{number} times {item}", model)


def _json_numbers(drawer: Drawer) -> Attack:
    digits = int(10 ** drawer.uniform(1, 6))
    numbers = (
        "NaN",
        "-Infinity",
        "1e999",
        "-1e-999",
        "1" * digits,
        "0." + "3" * digits,
        "1e" + "9" * min(digits, 5000),
        "3.5e38",
        "-0",
        "0x10",
        "01",
        "true",
    )
    value = _pick(drawer, numbers)
    samples = json.dumps(SAMPLES.tolist())
    first = samples[3 : samples.index(",")]
    body = f'{{"samples": {samples.replace(first, value, 1)}}}'
    return _json(body.encode(), f"the number {value[:20]} of {len(value)} characters")


def _json_shapes(drawer: Drawer) -> Attack:
    lengths = [int(_pick(drawer, [0, 1, 2, 3, 15, 16, 17, 500])) for _ in range(3)]
    lengths = lengths[: int(drawer.integers(1, 4))]
    samples: Any = np.zeros(lengths).tolist()
    if drawer.random() < 0.3 and lengths[0]:
        samples[int(drawer.integers(lengths[0]))] = _pick(
            drawer, [[], 0, None, "x", {}]
        )
    return _json(json.dumps({"samples": samples}).encode(), f"samples of {lengths}")


def _json_keys(drawer: Drawer) -> Attack:
    number = int(10 ** drawer.uniform(0, 5))
    model = _model(drawer)
    text = good_body(model, JSON).decode()
    same = drawer.random() < 0.5
    names = ["samples" if same else f"k{k}" for k in range(number)]
    keys = ",".join(f'"{name}": []' for name in names)
    text = f"{{{keys}, {text[1:]}"
    if drawer.random() < 0.3:
        text = f'{{"rows": [{text}]}}'
    word = "equal" if same else "different"
    return _json(text.encode(), f"{number} {word} keys", model)


def _json_texts(drawer: Drawer) -> Attack:
    texts = (
        "\\ud800",
        "\\u0000",
        "\\u202e",
        "x" * int(10 ** drawer.uniform(2, 6.5)),
        "\udcff",
        "\\x",
        "\n",
        "9" * 1000,
        "9999-99-99",
        "+292277026596-01-01",
        "1970-01-01T00:00:00+99:99",
        "-0001-01-01",
    )
    text = _pick(drawer, texts)
    name = _pick(drawer, ["age of cask", "1", "bottled", "more", text])
    # Only the letters of the text itself are no valid JSON.
    body = json.dumps({"rows": [ROWS[0] | {name: "VALUE"}]}).replace("VALUE", text)
    encoding = _pick(drawer, ["utf-8", "utf-8", "utf-16", "utf-8-sig"])
    errors = "surrogatepass" if encoding == "utf-16" else "surrogateescape"
    content = body.encode(encoding, errors)
    return _json(content, f"{text[:12]!r} of {len(text)} in {encoding}", "table")


def _json_mutated(drawer: Drawer) -> Attack:
    model = _model(drawer)
    body, change = mutate_bytes(good_body(model, JSON), drawer)
    return _json(body, change, model)


def _lists(values: Any, *ends: int) -> Any:
    """Return an Arrow array of one list of ``values``, in a list for each of ``ends``.

    The innermost list has ``ends[0]`` values.
    """
    for end in ends:
        offsets = pa.array([0, end], pa.int32())
        values = pa.ListArray.from_arrays(offsets, values)
    return values


def _empty_lists(number: int) -> Any:
    """Return ``number`` lists of fixed size 0; they take no bytes."""
    kind = pa.list_(pa.int8(), 0)
    empty = pa.array([], pa.int8())
    return pa.Array.from_buffers(kind, number, [None], children=[empty])


def _arrow_empty_lists(drawer: Drawer) -> Attack:
    number = int(_pick(drawer, [1, 2**16, 2**24, _MOST]))
    values = _lists(_empty_lists(number), number)
    if drawer.random() < 0.5:
        values = _lists(values, 1)
    return _arrow(pa.table({"x": values}), f"{number} lists of size 0")


def _arrow_runs(drawer: Drawer) -> Attack:
    number = int(_pick(drawer, [3, 10_000, 2**24, _MOST]))
    runs = pa.RunEndEncodedArray.from_arrays(
        pa.array([number], pa.int32()), pa.array([1.0])
    )
    if drawer.random() < 0.5:
        return _arrow(pa.table({"x": _lists(runs, number)}), f"one run of {number}")
    columns = dict.fromkeys(("x", "age of cask", "1", "bottled"), runs)
    return _arrow(pa.table(columns), f"rows in a run of {number}", "table")


def _arrow_views(drawer: Drawer) -> Attack:
    rows = int(_pick(drawer, [1, 100, 10_000]))
    size = int(_pick(drawer, [1, 32, 10_000, 10**6]))
    values = pa.array(np.zeros(size))
    views = pa.ListViewArray.from_arrays(
        pa.array([0] * rows, pa.int32()), pa.array([size] * rows, pa.int32()), values
    )
    if drawer.random() < 0.5:
        return _arrow(pa.table({"x": views}), f"{rows} views of {size} values")
    kind = _pick(drawer, [pa.string_view(), pa.binary_view()])
    texts = pa.array(["a" * min(size, 10**5)] * min(rows, 100), kind)
    columns = dict.fromkeys(("age of cask", "1", "bottled"), texts)
    return _arrow(pa.table(columns), f"{len(texts)} of {kind}", "table")


def _arrow_dictionaries(drawer: Drawer) -> Attack:
    rows = int(_pick(drawer, [1, 3, 10_000]))
    length = int(10 ** drawer.uniform(0, 6.5))
    place = int(_pick(drawer, [0, 0, 1, -1, _MOST]))
    indices = pa.array(np.full(rows, place), pa.int32())
    values: Any = pa.array(["a" * length])
    if drawer.random() < 0.3:
        values = pa.array(np.zeros((1, min(length, 1000))).tolist())
    texts = pa.DictionaryArray.from_arrays(indices, values, safe=False)
    change = f"{rows} times entry {place} of {length} characters"
    if drawer.random() < 0.3:
        return _arrow(pa.table({"x": texts}), change)
    columns = dict.fromkeys(("age of cask", "1", "bottled"), texts)
    return _arrow(pa.table(columns), change, "table")


def _arrow_shared_dictionary(drawer: Drawer) -> Attack:
    number = int(10 ** drawer.uniform(2, 4))
    size = int(10 ** drawer.uniform(2, 5.9))
    texts = pa.array([f"{place:08d}" for place in range(size)])
    codes = pa.array(np.zeros(number, np.int32))
    column = pa.DictionaryArray.from_arrays(codes, texts)
    columns = dict.fromkeys(("age of cask", "1", "bottled"), column)
    batches = pa.table(columns).to_batches(max_chunksize=1)
    change = f"{number} batches with a dictionary of {size} texts"
    return _arrow(pa.Table.from_batches(batches), change, "table")


def _arrow_nulls(drawer: Drawer) -> Attack:
    number = int(_pick(drawer, [1, 10_000, 10**6, _MOST]))
    nulls = pa.nulls(number)
    draw = drawer.random()
    if draw < 0.4:
        return _arrow(
            pa.table({"x": _lists(nulls, number)}), f"a list of {number} nulls"
        )
    if draw < 0.7:
        return _arrow(pa.table({"x": nulls}), f"{number} null samples")
    columns = dict.fromkeys(("age of cask", "1", "bottled"), nulls)
    return _arrow(pa.table(columns), f"{number} rows of nulls", "table")


def _arrow_unions(drawer: Drawer) -> Attack:
    number = int(_pick(drawer, [1, 1000]))
    types = pa.array(drawer.integers(0, 2, number), pa.int8())
    offsets = pa.array(np.zeros(number), pa.int32())
    children = [pa.array(np.ones(number)), pa.array(["a"] * number)]
    if drawer.random() < 0.5:
        union = pa.UnionArray.from_dense(types, offsets, children)
    else:
        union = pa.UnionArray.from_sparse(types, children)
    model = _model(drawer)
    column = _lists(union, number) if model == "arrays" else union
    columns = dict.fromkeys(("x", "age of cask", "1", "bottled"), column)
    return _arrow(pa.table(columns), f"a union of {number}", model)


def _arrow_compressed(drawer: Drawer) -> Attack:
    number = int(10 ** drawer.uniform(2, 6.7))
    how = str(_pick(drawer, ["zstd", "lz4"]))
    values = _lists(pa.array(np.zeros(number)), number)
    body = stream(pa.table({"x": values}), how)
    return Attack(f"{number} zeros by {how}", (request(body, ARROW),))


def _arrow_tensors(drawer: Drawer) -> Attack:
    shape = [int(_pick(drawer, [0, 1, 2, 16, -1, 2**31, 2**62])) for _ in range(2)]
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(SAMPLES)
    sizes = _pick(drawer, [shape, shape * 30, [32], [], "x", None])
    metadata = {
        b"ARROW:extension:name": b"arrow.fixed_shape_tensor",
        b"ARROW:extension:metadata": json.dumps({"shape": sizes}).encode(),
    }
    field = pa.field("x", tensors.storage.type, metadata=metadata)
    table = pa.Table.from_arrays([tensors.storage], schema=pa.schema([field]))
    return _arrow(table, f"tensors of the shape {sizes}")


def _arrow_batches(drawer: Drawer) -> Attack:
    number = int(10 ** drawer.uniform(0, 4))
    rows = int(_pick(drawer, [0, 1]))
    batch = pa.record_batch({"x": pa.array(SAMPLES.tolist()[:rows])})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        for _ in range(number):
            writer.write_batch(batch)
    body = bytes(sink.getvalue())[: 15 * 2**20]
    return Attack(f"{number} batches of {rows} rows", (request(body, ARROW),))


def _arrow_mutated(drawer: Drawer) -> Attack:
    model = _model(drawer)
    body, change = mutate_bytes(good_body(model, ARROW), drawer)
    if drawer.random() < 0.5:
        body, again = mutate_bytes(body, drawer)
        change += f"; {again}"
    return Attack(change, (request(body, ARROW),), model)


def _npy(drawer: Drawer) -> Attack:
    sink = io.BytesIO()
    np.save(sink, SAMPLES)
    shape = _pick(drawer, [b"(9, 2, 16)", b"(2**40,)", b"(-1, 2)", b"[" * 900])
    body = sink.getvalue().replace(b"(3, 2, 16)", shape)
    media = str(
        _pick(drawer, ["application/x-npy", "application/octet-stream", JSON, ARROW])
    )
    return Attack(f"npy of {shape[:12]!r} as {media}", (request(body, media),))


def _lengths(drawer: Drawer) -> Attack:
    body = good_body("arrays", JSON)
    size = len(body)
    length = str(
        _pick(
            drawer,
            [
                -1,
                "+1",
                "0x10",
                0,
                1,
                size - 1,
                size + 1,
                2**24,
                2**24 + 1,
                10**30,
                "",
                "1, 2",
            ],
        )
    )
    headers = [
        f"Content-Type: {JSON}",
        f"Content-Length: {length}",
        "Connection: close",
    ]
    if drawer.random() < 0.3:
        extra = [
            "Content-Length: 5",
            "Transfer-Encoding: chunked",
            "Transfer-Encoding: x",
        ]
        headers.append(str(_pick(drawer, extra)))
    head = _head("POST", PREDICT, *headers)
    return Attack(f"{headers[1:]} for {size} bytes", (head, body))


def _chunks(drawer: Drawer) -> Attack:
    headers = [
        f"Content-Type: {JSON}",
        "Transfer-Encoding: chunked",
        "Connection: close",
    ]
    size = str(
        _pick(drawer, ["10", "0", "ffffffffffffffff", "-1", "g", "1;" + "x" * 9000])
    )
    number = int(10 ** drawer.uniform(0, 4))
    chunk = f"{size}\r\n".encode() + b"[" * 16 + b"\r\n"
    end = b"0\r\n\r\n" if drawer.random() < 0.5 else b""
    parts = (_head("POST", PREDICT, *headers), chunk * number, end)
    return Attack(f"{number} chunks of size {size[:16]}", parts)


def _media(drawer: Drawer) -> Attack:
    body = good_body("arrays", _pick(drawer, [JSON, ARROW]))
    types = (
        JSON,
        ARROW,
        "text/html",
        "",
        "application/json; charset=utf-32",
        "a" * 9000,
    )
    media = str(_pick(drawer, [*types, "multipart/form-data; boundary=x", "é\udcff"]))
    headers = []
    if drawer.random() < 0.5:
        how = str(_pick(drawer, ["gzip", "br", "deflate", "identity", "gzip, gzip"]))
        headers.append(f"Content-Encoding: {how}")
        body = gzip.compress(bytes(2**24))
    media = media.encode("latin1", "surrogateescape").decode("utf-8", "surrogateescape")
    return Attack(f"{media[:20]!r} {headers}", (request(body, media, *headers),))


def _tokens(drawer: Drawer) -> Attack:
    tokens = (
        "",
        "0",
        TOKEN[:-1],
        TOKEN + " ",
        TOKEN.upper(),
        "é",
        "\udcff",
        "x" * 60_000,
    )
    token = str(_pick(drawer, tokens))
    path = str(_pick(drawer, [PREDICT, "/metrics", "/openapi.json", "/readyz"]))
    headers = ["Connection: close"]
    if drawer.random() < 0.3:
        headers.append(f"Authorization: Bearer {TOKEN}")
    head = _head(str(_pick(drawer, ["GET", "POST"])), path, *headers, token=token)
    return Attack(f"the token {token[:12]!r} for {path}", (head,))


def _paths(drawer: Drawer) -> Attack:
    paths = (
        "/",
        "//",
        "/../../etc/passwd",
        "/%00",
        "/%2e%2e/%2e%2e/",
        "/v1/predict/",
        "/v1//predict",
        "http://127.0.0.1/healthz",
        "*",
        "healthz",
        "/healthz?" + "a" * 60_000,
        "/é",
        "/\udcff",
        "/%ff%fe",
    )
    path = str(_pick(drawer, paths))
    methods = ("GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "TRACE", "PRI", "é")
    method = str(_pick(drawer, methods))
    upgrade = ["Connection: close"]
    if drawer.random() < 0.3:
        protocol = _pick(drawer, ["websocket", "h2c"])
        upgrade = ["Connection: close, Upgrade", f"Upgrade: {protocol}"]
    return Attack(f"{method} {path[:24]!r} {upgrade}", (_head(method, path, *upgrade),))


def _headers(drawer: Drawer) -> Attack:
    number = int(10 ** drawer.uniform(0, 4))
    line = str(
        _pick(
            drawer,
            [
                "A: " + "a" * 100,
                "A:\t",
                " folded",
                "A : b",
                "A",
                "\0: b",
                "A: \rb",
                "Host: x",
            ],
        )
    )
    lines = [line] * number
    head = _head("GET", "/openapi.json", "Connection: close", *lines)
    return Attack(f"{number} lines {line[:12]!r}", (head,))


def _nonsense(drawer: Drawer) -> Attack:
    size = int(2 ** drawer.uniform(0, 20))
    starts = (
        b"",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"GET ",
    )
    start = bytes(_pick(drawer, starts))
    content, change = mutate_bytes(request(good_body("arrays", JSON)), drawer)
    if drawer.random() < 0.5:
        content = drawer.bytes(size)
        change = f"{size} random bytes"
    return Attack(f"{start[:4]!r} and {change}", (start + content,))


def _slow(drawer: Drawer) -> Attack:
    content = request(good_body("arrays", JSON))
    cut = int(drawer.integers(1, len(content)))
    parts = (content[:cut], *(content[k : k + 1] for k in range(cut, cut + 12)))
    pause = float(_pick(drawer, [0.2, 0.5]))
    return Attack(f"a byte each {pause} s from byte {cut}", parts, pause=pause)


def _gone(drawer: Drawer) -> Attack:
    content = request(good_body("arrays", _pick(drawer, [JSON, ARROW])))
    cut = int(drawer.integers(1, len(content) + 1))
    number = int(10 ** drawer.uniform(0, 2))
    return Attack(
        f"{number} clients go after {cut} bytes",
        (content[:cut],),
        num_connections=number,
        leaves=True,
    )


def _pipelined(drawer: Drawer) -> Attack:
    number = int(10 ** drawer.uniform(1, 3.3))
    bodies = [good_body("arrays", JSON), b"{}", b"[" * 1000, b'{"samples": [[]]}']
    one = request(bytes(_pick(drawer, bodies)), last=False)
    return Attack(f"{number} requests at once", (one * number,), leaves=True)


def _idle(drawer: Drawer) -> Attack:
    number = int(10 ** drawer.uniform(1, 2.8))
    parts = [(), (b"P",), (_head("POST", PREDICT, "Content-Length: 9"),)]
    sent = tuple(_pick(drawer, parts))
    return Attack(
        f"{number} connections after {len(sent)} parts",
        sent,
        num_connections=number,
        leaves=True,
    )


def _large(drawer: Drawer) -> Attack:
    number = int(_pick(drawer, [1, 4, 12, 16]))
    size = 15 * 2**20
    media = str(_pick(drawer, [JSON, ARROW]))
    body = bytes(
        _pick(drawer, [b"[" * size, b'{"samples":"' + b"a" * size, bytes(size)])
    )
    return Attack(
        f"{number} bodies of 15 MiB that begin with {body[:9]!r} as {media}",
        (request(body, media),),
        num_connections=number,
    )


KINDS: Mapping[str, Callable[[Drawer], Attack]] = {
    "JSON depth": _json_depth,
    "JSON lists": _json_lists,
    "JSON numbers": _json_numbers,
    "JSON shapes": _json_shapes,
    "JSON keys": _json_keys,
    "JSON texts": _json_texts,
    "JSON mutated": _json_mutated,
    "Arrow lists of size 0": _arrow_empty_lists,
    "Arrow runs": _arrow_runs,
    "Arrow views": _arrow_views,
    "Arrow dictionaries": _arrow_dictionaries,
    "Arrow nulls": _arrow_nulls,
    "Arrow unions": _arrow_unions,
    "Arrow compressed": _arrow_compressed,
    "Arrow tensors": _arrow_tensors,
    "Arrow batches": _arrow_batches,
    "Arrow mutated": _arrow_mutated,
    "npy": _npy,
    "lengths": _lengths,
    "chunks": _chunks,
    "media types": _media,
    "tokens": _tokens,
    "paths": _paths,
    "headers": _headers,
    "nonsense": _nonsense,
    "slow senders": _slow,
    "clients that go": _gone,
    "pipelined": _pipelined,
    "idle connections": _idle,
    "large bodies": _large,
    "Arrow shared dictionaries": _arrow_shared_dictionary,
}
"""Functions that draw an attack, by the name of its kind."""


def draw_attack(seed: int, number: int) -> tuple[str, Attack]:
    """Return the kind of attack ``number`` of a seed, and the attack."""
    names = list(KINDS)
    kind = names[number % len(names)]
    drawer = np.random.default_rng([seed, number])
    return kind, KINDS[kind](drawer)
