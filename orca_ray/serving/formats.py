"""Reads requests and writes answers as JSON and as Arrow IPC streams.

Strangers send requests, so all is checked.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types
from pydantic import BaseModel, Field, ValidationError, create_model
from pydantic.json_schema import models_json_schema
from pydantic_core import to_json
from typing_extensions import TypedDict

from orca_ray.data.rows import Array, stacked
from orca_ray.errors import UserError, printable, quoted, shorten
from orca_ray.methods.model_inputs import ModelInputs
from orca_ray.own_data import UserData
from orca_ray.own_data.array_inputs import AudioInputs
from orca_ray.own_data.tables import TableInputs
from orca_ray.predictor import Predictor
from orca_ray.version import __version__

SOURCE = "the request"
JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"
MOST_VALUES = (
    4 * 2**20
)  # numbers in the inputs or outputs of a request: 16 MiB as float32
MOST_CHARACTERS = 1000  # in a text of a table
MOST_DECODED = (
    10 * 2**20
)  # characters in a dictionary-encoded column, if all texts were as long as the longest
_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Text = Annotated[str, Field(max_length=MOST_CHARACTERS)]
_CELLS = {
    "number": _Number | None,
    "date": _Text | None,
    "category": _Text | int | _Number | bool | None,
}


class Formats:
    """Reader of requests and writer of answers, in JSON or Arrow: rows of a table by
    column name, or arrays.
    """

    def __init__(self, model: Predictor, most_samples: int) -> None:
        """Allow ``most_samples`` in a request, or fewer if their arrays would be too
        large.
        """
        largest = max(
            math.prod(model.task.input_shape),
            math.prod(model.task.target.output_shape),
            1,
        )
        self._model = model
        self._most = max(1, min(most_samples, MOST_VALUES // largest))
        self._encoder = (
            None if model.preprocessing is None else model.preprocessing.encoder
        )
        self._request, self._answer = self._request_type(), self._answer_type()

    def read(self, media: str, body: bytes) -> tuple[Array, list[str]]:
        """Return the samples in a request as float32 [n, *input_shape], and warnings;
        UserError for invalid samples.
        """
        warnings: list[str] = []
        data = self._from_json(body) if media == JSON else self._from_arrow(body)
        inputs = ModelInputs.of(data, self._model.task, self._model.preprocessing)
        with np.errstate(over="ignore", invalid="ignore"):
            return (
                np.concatenate(
                    list(
                        inputs.chunks(
                            lambda text: warnings.append(shorten(printable(text)))
                        )
                    )
                ),
                warnings,
            )

    def write(self, media: str, outputs: Array, warnings: list[str]) -> bytes:
        """Return the body of an answer with predictions, probabilities, label names and
        ``warnings``.
        """
        arrays = {"predictions": self._model.decide(outputs)}
        if self._model.decides:
            arrays["probabilities"] = self._model.probabilities(outputs)
        notes = {"labels": list(self._model.label_names), "warnings": warnings}
        if media == JSON:
            return to_json({**arrays, **notes}, fallback=np.ndarray.tolist)
        tensors = (
            pa.FixedShapeTensorArray.from_numpy_ndarray
        )  # of numbers: there are none of booleans
        arrays = {
            name: x.view("uint8") if x.dtype == bool and x.ndim > 1 else x
            for name, x in arrays.items()
        }
        columns = {
            name: pa.array(x) if x.ndim == 1 else tensors(x)
            for name, x in arrays.items()
        }
        table = pa.table(columns).replace_schema_metadata(
            {key: to_json(each) for key, each in notes.items()}
        )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return bytes(sink.getvalue())

    def description(self, *, token: bool) -> dict[str, Any]:
        """Return the OpenAPI description of the server; ``token`` says whether requests
        need a token.
        """
        kinds: list[tuple[Any, Any]] = [
            (self._request, "validation"),
            (self._answer, "validation"),
        ]
        references, schemas = models_json_schema(
            kinds, ref_template="#/components/schemas/{model}"
        )
        stream = {"schema": {"type": "string", "format": "binary"}}
        request, answer = (
            {JSON: {"schema": references[each]}, ARROW: stream} for each in kinds
        )
        why = {
            "type": "object",
            "properties": {"error": {"type": "string"}},
            "required": ["error"],
        }
        refusal = {
            "description": "Why there is no answer.",
            "content": {JSON: {"schema": why}},
        }
        predict = {
            "description": "The answer has the content type of the request.",
            "security": [{"token": []}] if token else [],
            "requestBody": {"required": True, "content": request},
            "responses": {
                "200": {"description": "Predictions.", "content": answer},
                "default": refusal,
            },
        }
        components = {
            "schemas": schemas["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        }
        info = {"title": f"orca-ray: {self._model.task.name}", "version": __version__}
        return {
            "openapi": "3.1.0",
            "info": info,
            "paths": {"/v1/predict": {"post": predict}},
            "components": components,
        }

    def _request_type(self) -> type[BaseModel]:
        encoder = self._encoder
        several = Field(min_length=1, max_length=self._most)
        fields = dict[str, Any]()
        if isinstance(encoder, TableInputs):
            cells = dict[str, Any]()
            for each in encoder.columns:
                about = shorten(
                    f"a {each.kind}, or null:"
                    f" {', '.join(map(printable, each.categories))}"
                )
                cells[each.name] = Annotated[
                    _CELLS[each.kind], Field(description=about)
                ]
            row: Any = TypedDict("Row", cells)  # type: ignore[misc]
            return create_model("Request", rows=(list[row], several))
        if isinstance(encoder, AudioInputs):
            fields["rate"] = (
                _Number,
                Field(
                    ge=encoder.rate, le=encoder.rate, description="Sampling rate in Hz."
                ),
            )
        shape: Sequence[int | None] = self._model.task.input_shape
        if encoder is not None:  # recordings have one axis, of any length
            shape = getattr(encoder, "given", None) or [None] * len(
                getattr(encoder, "axes", "L")
            )
        sample: Any = _nested(shape, _Number if encoder is None else _Number | None)
        return create_model("Request", samples=(list[sample], several), **fields)

    def _answer_type(self) -> type[BaseModel]:
        model = self._model
        coding = (
            None
            if self._model.preprocessing is None
            else self._model.preprocessing.target
        )
        shape = (
            coding.given_shape
            if coding is not None and coding.axes
            else model.task.target.output_shape
        )
        named = str if model.label_names else int
        one: Any = (
            named
            if model.task.target.kind == "classes"
            else _nested(shape, bool if model.decides else float)
        )
        fields: dict[str, Any] = {
            "predictions": list[one],
            "labels": list[str],
            "warnings": list[str],
        }
        fields |= (
            {"probabilities": list[_nested(shape, float)]} if model.decides else {}  # type: ignore[misc]
        )
        return create_model("Predictions", **fields)

    def _from_json(self, body: bytes) -> UserData:
        try:
            request: Any = self._request.model_validate_json(body)
        except ValidationError as error:
            raise UserError(_explained(error)) from error
        if hasattr(request, "rows"):
            return UserData(x=pd.DataFrame(request.rows, dtype=object), source=SOURCE)
        return _arrays(request.samples, getattr(request, "rate", None))

    def _from_arrow(self, body: bytes) -> UserData:
        try:
            table = _table(body, self._most)
            if isinstance(self._encoder, TableInputs):
                columns = {
                    name: _cells(table, name)
                    for name in self._encoder.names
                    if name in table.column_names
                }
                return UserData(x=pa.table(columns).to_pandas(), source=SOURCE)
            rate = (table.schema.metadata or {}).get(b"rate")
            return _arrays(
                _samples(table.column("x")), None if rate is None else float(rate)
            )
        except UserError:
            raise
        except (
            pa.ArrowException,
            ValueError,
            TypeError,
            KeyError,
            OSError,
            OverflowError,
            MemoryError,
        ) as error:
            raise UserError(
                f"{SOURCE} is no Arrow stream for this model: {shorten(error)}; write"
                " it again"
            ) from error


def _nested(shape: Sequence[int | None], leaf: Any) -> Any:
    """Return the type of nested lists of ``leaf`` with the lengths ``shape``; None: any
    length but 0.
    """
    for length in reversed(shape):
        leaf = Annotated[
            list[leaf],
            Field(min_length=1 if length is None else length, max_length=length),
        ]
    return leaf


def _arrays(samples: Sequence[Any], rate: float | None) -> UserData:
    arrays = []
    for number, sample in enumerate(samples, start=1):
        try:
            arrays.append(np.array(sample, dtype=np.float64))
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{SOURCE}, sample {number}: lists of one level have unequal lengths;"
                " pad them"
            ) from error
        if not arrays[-1].size:
            raise UserError(f"{SOURCE}, sample {number} is empty; leave it out")
    return UserData(x=stacked(arrays), source=SOURCE, rate=rate)


def _explained(error: ValidationError) -> str:
    """Return the first error with the row and column, or the sample and position, and
    what was found there.
    """
    first = error.errors(include_url=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return (
            f"{SOURCE}: {first['msg']}; send a JSON object as /openapi.json"
            " describes it"
        )
    place = SOURCE
    name, *inner = first["loc"] or ("",)
    if name:
        place += (
            f", {str(name).removesuffix('s')} {int(inner[0]) + 1}"
            if inner
            else f", field {quoted(name)}"
        )
    if inner[1:]:
        position = f", position {[each for each in inner[1:] if isinstance(each, int)]}"
        place += f", column {quoted(inner[1])}" if name == "rows" else position
    if first["type"] == "missing":
        return f"{place} is missing; send it, with null for a value that is not known"
    what = first["msg"]
    given = first["input"]
    found = (
        "a JSON object"
        if isinstance(given, dict)
        else "a JSON array"
        if isinstance(given, list)
        else quoted(given)
    )
    return (
        f"{place}: {what[:1].lower()}{what[1:]}, found {found}; see /openapi.json for"
        " what the model takes"
    )


def _table(body: bytes, most_rows: int) -> Any:
    # Compressed buffers of a small stream could fill the memory, and pyarrow does not
    # report them before it expands them. So it first reads the stream with zeros as its
    # buffers: valid values, but no valid compressed data.
    parts = [
        (bytes(each.serialize()), len(each.body or b""))
        for each in pa.ipc.MessageReader.open_stream(body)
    ]
    try:
        list(
            pa.ipc.open_stream(
                b"".join(
                    message[: len(message) - size] + bytes(size)
                    for message, size in parts
                )
            )
        )
    except OSError as error:
        raise UserError(
            f"{SOURCE} is damaged or has compressed buffers; write it without"
            " compression"
        ) from error
    batches = list(reader := pa.ipc.open_stream(body))  # without a copy of the body
    rows = sum(map(len, batches))
    if not 0 < rows <= most_rows:
        raise UserError(
            f"{SOURCE} has {rows} rows; send 1 to {most_rows} in one request"
        )
    for batch in batches:
        batch.validate(full=True)
    return pa.Table.from_batches(batches, reader.schema)


def _cells(table: Any, name: str) -> Any:
    """Return a column of a table, decoded if it has a dictionary."""
    column = table.column(name)
    place = f"{SOURCE}, column {quoted(name)}"
    coded = types.is_dictionary(column.type)
    kind = column.type.value_type if coded else column.type
    if types.is_string(kind) or types.is_large_string(kind):
        longest = max(
            pc.max(pc.utf8_length(x.dictionary if coded else x)).as_py() or 0
            for x in column.chunks
        )
        if longest > MOST_CHARACTERS or (
            coded and longest * len(column) > MOST_DECODED
        ):
            raise UserError(f"{place}: a text of {longest} characters is too long")
    elif not types.is_primitive(kind) and not types.is_null(kind):
        raise UserError(
            f"{place}: expected numbers, text or dates, found {shorten(kind)}"
        )
    return column.cast(kind)


def _samples(column: Any) -> Any:
    kind = column.type
    tensors = isinstance(column.type, pa.FixedShapeTensorType)
    while isinstance(
        kind,
        pa.FixedShapeTensorType | pa.ListType | pa.LargeListType | pa.FixedSizeListType,
    ):
        kind = kind.value_type
    if not (types.is_integer(kind) or types.is_floating(kind)) or (
        tensors and column.null_count
    ):
        raise UserError(
            f"{SOURCE}, column 'x': expected tensors or nested lists of numbers, found"
            f" {shorten(kind)}"
        )
    return (
        [each for chunk in column.chunks for each in chunk.to_numpy_ndarray()]
        if tensors
        else column.to_pylist()
    )
