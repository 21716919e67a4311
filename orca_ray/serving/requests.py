"""Requests and answers as JSON: their types follow the model, and the OpenAPI description is made of them.

A model of a table takes ``{"rows": [{column: value, …}, …]}``, every other model ``{"samples": [nested array, …]}``.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from typing_extensions import TypedDict

from orca_ray.errors import UserError, printable, quoted, shorten
from orca_ray.methods.model_inputs import ModelInputs
from orca_ray.own_data import UserData
from orca_ray.own_data.array_inputs import AudioInputs
from orca_ray.own_data.table_inputs import Column, TableInputs
from orca_ray.serving.replica import Answer, Description

SOURCE = "the request"
MOST_VALUES = 4 * 2**20
"""Numbers in the inputs or outputs of one request: 16 MiB as float32."""
MOST_CHARACTERS = 1000
"""Length of a text in a table."""

_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Text = Annotated[str, Field(max_length=MOST_CHARACTERS)]
_Category = _Text | int | _Number | bool | None


class Refusal(BaseModel):
    """Why a request is not answered."""

    error: str


def most_samples(model: Description, limit: int) -> int:
    """Return how many samples a request may have: ``limit``, or fewer if their arrays would be too large."""
    largest = max(math.prod(model.task.input_shape), math.prod(model.task.target.output_shape), 1)
    return max(1, min(limit, MOST_VALUES // largest))


def request_type(model: Description, limit: int) -> type[BaseModel]:
    """Return the type of JSON requests with at most ``limit`` samples."""
    rows = Field(min_length=1, max_length=limit)
    encoder = None if model.preprocessing is None else model.preprocessing.encoder
    if isinstance(encoder, TableInputs):
        columns = {column.name: _cell(column) for column in encoder.columns}
        row: Any = TypedDict("Row", columns)  # type: ignore[misc]
        return create_model("Rows", rows=(list[row], rows))
    sample: Any = _nested(_sample_shape(model), _Number if encoder is None else _Number | None)
    if isinstance(encoder, AudioInputs):
        rate = Field(ge=encoder.rate, le=encoder.rate, description="Sampling rate in Hz.")
        return create_model("Recordings", samples=(list[sample], rows), rate=(_Number, rate))
    return create_model("Samples", samples=(list[sample], rows))


def answer_type(model: Description) -> type[BaseModel]:
    """Return the type of JSON answers."""
    coding = None if model.preprocessing is None else model.preprocessing.target
    shape = coding.given_shape if coding is not None and coding.axes else model.task.target.output_shape
    if model.task.target.kind == "classes":
        kind: Any = str if model.label_names else int
    else:
        kind = _nested(shape, bool if model.decides else float)
    fields: dict[str, Any] = {"predictions": (list[kind], Field(description="One for each sample, in order."))}
    if model.decides:
        text = "In the order of labels." if model.label_names else "One for each output."
        each: Any = _nested(shape, float)
        fields["probabilities"] = (list[each], Field(description=text))
    fields["labels"] = (list[str], Field(description="Names of the classes or labels; empty: they have none."))
    fields["warnings"] = (list[str], Field(description="What was suspicious about the inputs."))
    return create_model("Predictions", __config__=ConfigDict(json_schema_extra={"required": list(fields)}), **fields)


def parse(kind: type[BaseModel], body: bytes, model: Description) -> UserData:
    """Return the samples in a JSON body; raises UserError with the row and column, or the sample."""
    try:
        request: Any = kind.model_validate_json(body)
    except ValidationError as error:
        raise UserError(_explained(error)) from error
    if hasattr(request, "rows"):
        return table_data(request.rows, model)
    return array_data(request.samples, getattr(request, "rate", None))


def table_data(rows: Sequence[dict[str, Any]], model: Description) -> UserData:
    """Return rows by column name as a table."""
    import pandas as pd

    assert model.preprocessing is not None
    encoder = model.preprocessing.encoder
    assert isinstance(encoder, TableInputs)
    columns: dict[str, Any] = {}
    for column in encoder.columns:
        values = [row[column.name] for row in rows]
        numbers = column.kind == "number"
        columns[column.name] = np.array(values, dtype=np.float64) if numbers else pd.Series(values, dtype=object)
    return UserData(x=pd.DataFrame(columns), kind_hint="table", source=SOURCE)


def array_data(samples: Sequence[Any], rate: float | None = None) -> UserData:
    """Return nested lists, with None for missing numbers, as arrays; raises UserError for ragged ones."""
    arrays = []
    for number, sample in enumerate(samples, start=1):
        try:
            arrays.append(np.array(sample, dtype=np.float64))
        except (ValueError, TypeError) as error:
            raise UserError(f"{SOURCE}, sample {number}: lists of one level have unequal lengths; pad them") from error
        if not arrays[-1].size:
            raise UserError(f"{SOURCE}, sample {number} is empty; leave it out")
    same = len({array.shape for array in arrays}) == 1
    return UserData(x=np.stack(arrays) if same else arrays, source=SOURCE, rate=rate)


def encode(model: Description, data: UserData) -> tuple[Any, list[str]]:
    """Return model inputs, float32 [N, *input_shape], and warnings; raises UserError if they do not fit the model."""
    warnings: list[str] = []
    inputs = ModelInputs.of(data, model.task, model.preprocessing)
    with np.errstate(over="ignore", invalid="ignore"):
        encoded = np.concatenate(list(inputs.chunks(warnings.append)))
    return encoded, [shorten(printable(each)) for each in warnings]


def content(model: Description, answer: Answer, warnings: list[str]) -> dict[str, Any]:
    """Return the content of a JSON answer."""
    found: dict[str, Any] = {"predictions": answer.predictions.tolist()}
    if answer.probabilities is not None:
        found["probabilities"] = answer.probabilities.tolist()
    return {**found, "labels": list(model.label_names), "warnings": warnings}


def _cell(column: Column) -> Any:
    if column.kind == "number":
        return Annotated[_Number | None, Field(description="A number; null: missing.")]
    if column.kind == "date":
        return Annotated[_Text | None, Field(description="A date such as 2024-05-31; null: missing.")]
    known = shorten(", ".join(map(printable, column.categories)))
    return Annotated[_Category, Field(description=f"A category; null: missing. Others than these count as it: {known}")]


def _sample_shape(model: Description) -> Sequence[int | None]:
    """Return the shape of one sample as it is given; None: any length."""
    if model.preprocessing is None:
        return model.task.input_shape
    encoder = model.preprocessing.encoder
    if isinstance(encoder, AudioInputs):
        return (None,)
    assert not isinstance(encoder, TableInputs)
    return encoder.given if encoder.given is not None else [None] * len(encoder.axes)


def _nested(shape: Sequence[int | None], leaf: Any) -> Any:
    """Return the type of nested lists of ``leaf`` with the lengths ``shape``."""
    kind: Any = leaf
    for length in reversed(shape):
        kind = Annotated[list[kind], Field(min_length=1 if length is None else length, max_length=length)]
    return kind


def _explained(error: ValidationError) -> str:
    """Return the first error with the row and column, or the sample and position, and what was found there."""
    first = error.errors(include_url=False, include_context=False)[0]
    what, place = first["msg"], SOURCE
    if first["type"] == "json_invalid":
        return f"{place}: {what}; send a JSON object as /openapi.json describes it"
    where = list(first["loc"])
    if len(where) > 1:
        place += f", {'row' if where[0] == 'rows' else 'sample'} {int(where[1]) + 1}"
        if len(where) > 2 and where[0] == "rows":
            place += f", column {quoted(where[2])}"
        elif len(where) > 2:
            place += f", position {[each for each in where[2:] if isinstance(each, int)]}"
    elif where:
        place += f", field {quoted(where[0])}"
    if first["type"] == "missing":
        return f"{place} is missing; send it, with null for a value that is not known"
    given = first["input"]
    scalar = given is None or isinstance(given, str | int | float | bool)
    found = quoted(given) if scalar else f"a JSON {'object' if isinstance(given, dict) else 'array'}"
    return f"{place}: {what[:1].lower()}{what[1:]}, found {found}; see /openapi.json for what the model takes"
