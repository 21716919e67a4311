"""Reader of requests for predictions, in JSON and as Arrow IPC streams.

Requests come from strangers, so everything in them is checked, and how much they unfold
to is bounded before anything is converted. `orca_ray.serving.decoding` runs the reader
in a process of its own, so this module imports no torch.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types
from pydantic import BaseModel, Field, ValidationError, create_model
from typing_extensions import TypedDict

from orca_ray.data.rows import Array, stacked
from orca_ray.errors import UserError, printable, quoted, shorten
from orca_ray.methods.model_config import TaskSummary
from orca_ray.methods.model_inputs import ModelInputs
from orca_ray.own_data import UserData
from orca_ray.own_data.array_inputs import AudioInputs
from orca_ray.own_data.infer_task import Preprocessing
from orca_ray.own_data.tables import TableInputs

SOURCE = "the request"
"""Word for the data in error messages."""
JSON = "application/json"
"""Media type of JSON."""
ARROW = "application/vnd.apache.arrow.stream"
"""Media type of Arrow IPC streams."""
MOST_VALUES = 4 * 2**20
"""Largest number of values in inputs or outputs of a request: 16 MiB as float32."""
MOST_CHARACTERS = 1000
"""Largest number of characters in a text of a table."""
MOST_DECODED = 10 * 2**20
"""Largest number of characters in a dictionary-encoded column.

It is counted as if all texts were as long as the longest.
"""
MOST_VALIDATED = 256 * 2**20
"""Largest number of bytes in all batches of an Arrow stream, or twice its size if more.

A dictionary counts once for each batch, because it is validated and measured as often.
"""
MOST_LISTS = 2**20
"""Largest number of lists and objects in a JSON request.

pydantic takes about 300 bytes for each before it looks at any.
"""
_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Text = Annotated[str, Field(max_length=MOST_CHARACTERS)]
_CELLS = {
    "number": _Number | None,
    "date": _Text | None,
    "category": _Text | int | _Number | bool | None,
    "list": _Text | None,
    "text": _Text | None,
}
"""Type of a cell in JSON, for each kind of column."""
_ARROW_ERRORS = (
    pa.ArrowException,
    ValueError,
    TypeError,
    KeyError,
    OSError,
    OverflowError,
    MemoryError,
)
"""Errors that pyarrow raises for streams that are damaged or of another form."""
_LIST_TYPES = pa.ListType | pa.LargeListType | pa.FixedSizeListType
"""Arrow types of nested lists. Lists of views, whose parts may overlap, are none."""


class RequestReader:
    """Reader of requests, in JSON or Arrow.

    A request has rows of a table by column name, or arrays.
    """

    def __init__(
        self, task: TaskSummary, preprocessing: Preprocessing | None, most_samples: int
    ) -> None:
        """Allow ``most_samples`` in a request, or fewer if their arrays are large."""
        num_inputs = math.prod(task.input_shape)
        num_outputs = math.prod(task.target.output_shape)
        num_values = max(num_inputs, num_outputs, 1)  # of one sample
        self._task = task
        self._preprocessing = preprocessing
        self._most_samples = max(1, min(most_samples, MOST_VALUES // num_values))
        self._encoder = None if preprocessing is None else preprocessing.encoder
        self.request_type = self._make_request_type()
        """Type of requests in JSON."""

    def read(self, media: str, body: bytes) -> tuple[Array, list[str]]:
        """Return the samples in a request as float32 [n, *input_shape], and warnings.

        Raises UserError for invalid samples.
        """
        warnings: list[str] = []

        def warn(text: str) -> None:
            warnings.append(shorten(printable(text)))

        data = self._from_json(body) if media == JSON else self._from_arrow(body)
        inputs = ModelInputs.of(data, self._task, self._preprocessing)
        with np.errstate(over="ignore", invalid="ignore"):
            samples = np.concatenate(list(inputs.chunks(warn)))
        return samples, warnings

    def _make_request_type(self) -> type[BaseModel]:
        """Return the type of requests in JSON: rows of a table, or samples."""
        encoder = self._encoder
        # Without `fail_fast`, a million wrong values are a million error messages.
        count_limits = Field(
            min_length=1, max_length=self._most_samples, fail_fast=True
        )
        if isinstance(encoder, TableInputs):
            row: Any = TypedDict("Row", _cell_types(encoder))  # type: ignore[misc]
            return create_model("Request", rows=(list[row], count_limits))
        fields = dict[str, Any]()
        if isinstance(encoder, AudioInputs):
            rate = Field(
                ge=encoder.rate, le=encoder.rate, description="Sampling rate in Hz."
            )
            fields["rate"] = (_Number, rate)
        # encoders of users' data take missing values
        value: Any = _Number if encoder is None else _Number | None
        sample: Any = nested_lists(self._sample_shape(), value)
        return create_model("Request", samples=(list[sample], count_limits), **fields)

    def _sample_shape(self) -> Sequence[int | None]:
        """Return the shape of a sample of arrays; None stands for any length."""
        if self._encoder is None:
            return self._task.input_shape
        # recordings have one axis, of any length
        any_lengths = [None] * len(getattr(self._encoder, "axes", "L"))
        return getattr(self._encoder, "given", None) or any_lengths

    @property
    def _expected(self) -> str:
        """What a request holds, for error messages."""
        if isinstance(self._encoder, TableInputs):
            return "rows, each with its cells by column name"
        shape = self._sample_shape()
        lengths = ["any" if length is None else str(length) for length in shape]
        return f"samples of shape [{', '.join(lengths)}]"

    def _from_json(self, body: bytes) -> UserData:
        """Return the data in the body of a JSON request.

        Raises UserError if the body is not of the type that this model takes.
        """
        _check_json_size(body)
        try:
            request: Any = self.request_type.model_validate_json(body)
        except ValidationError as error:
            raise UserError(_explain_error(error, self._expected)) from error
        if hasattr(request, "rows"):
            return UserData(x=pd.DataFrame(request.rows, dtype=object), source=SOURCE)
        return _arrays(request.samples, getattr(request, "rate", None))

    def _from_arrow(self, body: bytes) -> UserData:
        """Return the data in an Arrow stream: rows of a table, or samples in column x.

        Raises UserError if the stream is damaged or has another form.
        """
        try:
            if isinstance(self._encoder, TableInputs):
                table = _table(body, self._most_samples, self._encoder.names)
                columns = {name: _cells(table, name) for name in table.column_names}
                return UserData(x=pa.table(columns).to_pandas(), source=SOURCE)
            table = _table(body, self._most_samples, ["x"])
            rate = (table.schema.metadata or {}).get(b"rate")
            samples = _samples(table.column("x"), most_values=len(body))
            return _arrays(samples, None if rate is None else float(rate))
        except UserError:
            raise
        except _ARROW_ERRORS as error:
            raise UserError(
                f"{SOURCE} is no Arrow stream for this model: {shorten(error)}; write"
                " it again"
            ) from error


def _cell_types(encoder: TableInputs) -> dict[str, Any]:
    """Return the type of a cell in JSON for each column, by name."""
    cells = dict[str, Any]()
    for column in encoder.columns:
        categories = ", ".join(map(printable, column.categories))
        about = shorten(f"a {column.kind}, or null: {categories}")
        cells[column.name] = Annotated[_CELLS[column.kind], Field(description=about)]
    return cells


def nested_lists(shape: Sequence[int | None], leaf: Any) -> Any:
    """Return the type of nested lists of ``leaf`` with the lengths ``shape``.

    A length None stands for any length but 0.
    """
    if not shape:
        return leaf
    length, *inner_lengths = shape
    item: Any = nested_lists(inner_lengths, leaf)
    least = 1 if length is None else length
    return Annotated[
        list[item], Field(min_length=least, max_length=length, fail_fast=True)
    ]


def _arrays(samples: Sequence[Any], rate: float | None) -> UserData:
    """Return data whose samples are arrays; UserError for uneven or empty samples."""
    arrays = []
    for index, sample in enumerate(samples):
        try:
            array = np.array(sample, dtype=np.float64)
        except (ValueError, TypeError) as error:
            raise _uneven(index) from error
        if not array.size:
            raise UserError(f"{SOURCE}, sample {index + 1} is empty; leave it out")
        arrays.append(array)
    return UserData(x=stacked(arrays), source=SOURCE, rate=rate)


def _explain_error(error: ValidationError, expected: str) -> str:
    """Return a message about the first error in a request that has an invalid form.

    The message has the place of the error, what was found there, and ``expected``: what
    the model takes.
    """
    first = error.errors(include_url=False, include_context=False)[0]
    what = first["msg"]
    if first["type"] == "json_invalid":
        return f"{SOURCE}: {what}; send a JSON object as /openapi.json describes it"
    place = _place(first["loc"])
    if first["type"] == "missing":
        return f"{place} is missing; send it, with null for a value that is not known"
    value = first["input"]
    if isinstance(value, dict):
        value_text = "a JSON object"
    elif isinstance(value, list):
        value_text = "a JSON array"
    else:
        value_text = quoted(value)
    return (
        f"{place}: {what[:1].lower()}{what[1:]}, found {value_text}; the model takes"
        f" {expected}, see /openapi.json"
    )


def _place(location: Sequence[int | str]) -> str:
    """Return the row and column, or the sample and position, of a value in a request.

    ``location`` holds the keys and indices that lead to the value, e.g.
    ``("rows", 0, "age")``.
    """
    if not location:
        return SOURCE
    field, *inner = location
    if not inner:
        return f"{SOURCE}, field {quoted(field)}"
    number, *within_sample = inner
    place = f"{SOURCE}, {str(field).removesuffix('s')} {int(number) + 1}"
    if not within_sample:
        return place
    if field == "rows":
        return f"{place}, column {quoted(within_sample[0])}"
    position = [index for index in within_sample if isinstance(index, int)]
    return f"{place}, position {position}"


def _check_json_size(body: bytes) -> None:
    """Raise UserError if a JSON request has too many values, lists or objects.

    The parser builds all of a request before it compares a single value with the type,
    and nothing else runs meanwhile. Characters inside texts count as well. The parser
    itself refuses more than 200 levels.
    """
    num_lists = body.count(b"[") + body.count(b"{")
    if num_lists > MOST_LISTS or num_lists + body.count(b",") > MOST_VALUES:
        raise UserError(
            f"{SOURCE} has more than {MOST_LISTS} lists and objects, or {MOST_VALUES}"
            " values; send fewer samples in one request, or an Arrow stream"
        )


def _table(body: bytes, most_rows: int, names: Sequence[str]) -> Any:
    """Return the columns ``names`` of the table in an Arrow stream, validated.

    Columns that the stream lacks are left out. Raises UserError if the stream has more
    than ``most_rows`` rows, or so many batches with a large dictionary that their
    validation would take long.
    """
    # Compressed buffers of a small stream could fill the memory, and pyarrow does not
    # report them before it expands them. So it first reads the stream with zeros as its
    # buffers: valid values, but no valid compressed data.
    zeroed = bytearray()
    for message in pa.ipc.MessageReader.open_stream(body):
        content = bytes(message.serialize())
        size = len(message.body or b"")
        zeroed += content[: len(content) - size] + bytes(size)
    try:
        list(pa.ipc.open_stream(bytes(zeroed)))
    except OSError as error:
        raise UserError(
            f"{SOURCE} is damaged or has compressed buffers; write it without"
            " compression"
        ) from error
    reader = pa.ipc.open_stream(body)
    batches = list(reader)  # without a copy of the body
    num_rows = sum(map(len, batches))
    if not 0 < num_rows <= most_rows:
        raise UserError(
            f"{SOURCE} has {num_rows} rows; send 1 to {most_rows} in one request"
        )
    # Not `nbytes`, which follows offsets that are not validated yet.
    num_bytes = sum(batch.get_total_buffer_size() for batch in batches)
    if num_bytes > max(MOST_VALIDATED, 2 * len(body)):
        raise UserError(
            f"{SOURCE} has {len(batches)} batches with large dictionaries; combine the"
            " batches"
        )
    table = pa.Table.from_batches(batches, reader.schema)
    table = table.select([name for name in names if name in table.column_names])
    table.validate(full=True)
    return table


def _cells(table: Any, name: str) -> Any:
    """Return a column of a table, decoded if it is dictionary-encoded.

    Raises UserError for a text that is too long, and for other values than numbers,
    text, dates and booleans.
    """
    column = table.column(name)
    place = f"{SOURCE}, column {quoted(name)}"
    is_coded = types.is_dictionary(column.type)
    kind = column.type.value_type if is_coded else column.type
    if types.is_string(kind) or types.is_large_string(kind):
        longest = _longest_text(column)
        is_large = is_coded and longest * len(column) > MOST_DECODED
        if longest > MOST_CHARACTERS or is_large:
            raise UserError(f"{place}: a text of {longest} characters is too long")
    elif not types.is_primitive(kind) and not types.is_null(kind):
        raise UserError(
            f"{place}: expected numbers, text or dates, found {shorten(kind)}"
        )
    return column.cast(kind)


def _longest_text(column: Any) -> int:
    """Return the number of characters in the longest text of a column."""
    longest = 0
    for chunk in column.chunks:
        texts = chunk.dictionary if types.is_dictionary(column.type) else chunk
        longest = max(longest, pc.max(pc.utf8_length(texts)).as_py() or 0)
    return longest


def _samples(column: Any, most_values: int) -> list[Array]:
    """Return the samples in a column of tensors or nested lists of numbers.

    Raises UserError for other types, and for lists with more than ``most_values``
    values, as lists of size 0 can have.
    """
    kind = column.type
    is_tensors = isinstance(kind, pa.FixedShapeTensorType)
    if is_tensors:
        kind = kind.value_type
    while isinstance(kind, _LIST_TYPES):
        kind = kind.value_type
    is_numeric = types.is_integer(kind) or types.is_floating(kind)
    if not is_numeric or (is_tensors and column.null_count):
        raise UserError(
            f"{SOURCE}, column 'x': expected tensors or nested lists of numbers, found"
            f" {shorten(kind)}"
        )
    samples = list[Array]()
    for chunk in column.chunks:
        if is_tensors:
            samples += list(chunk.to_numpy_ndarray())
        else:
            samples += _arrays_of_lists(chunk, most_values, len(samples))
    return samples


def _arrays_of_lists(lists: Any, most_values: int, first: int) -> Iterator[Array]:
    """Yield each nested list of numbers in an Arrow array as an array, float64.

    Nothing becomes a Python object: each level has an array of the lengths of its
    lists, and the numbers have one. A list that is null counts as empty, a number that
    is null as NaN. ``first`` is the index of the first sample, for messages.
    """
    num_samples = len(lists)
    levels = list[Array]()  # where the parts of each list begin and end, outer first
    while isinstance(lists.type, _LIST_TYPES):
        lengths = pc.fill_null(pc.list_value_length(lists), 0)
        ends = np.cumsum(lengths.to_numpy(zero_copy_only=False), dtype=np.int64)
        levels.append(np.concatenate([[0], ends]))
        if levels[-1][-1] > most_values:
            raise UserError(
                f"{SOURCE}, column 'x' has more values than bytes; write lists of"
                " numbers, none of them of size 0"
            )
        lists = lists.flatten()
    numbers = lists.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    for index in range(num_samples):
        begin = index
        end = index + 1
        shape = list[int]()
        for bounds in levels:
            sizes = set(np.diff(bounds[begin : end + 1]).tolist()) or {0}
            if len(sizes) > 1:
                raise _uneven(first + index)
            shape += sizes
            begin, end = bounds[begin], bounds[end]
        yield numbers[begin:end].reshape(shape)


def _uneven(index: int) -> UserError:
    """Return the error for a sample whose lists cannot be an array."""
    return UserError(
        f"{SOURCE}, sample {index + 1}: lists of one level have unequal lengths; pad"
        " them"
    )
