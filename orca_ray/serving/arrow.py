"""Requests and answers as Arrow IPC streams. A stranger's stream is read: its types, sizes and contents are checked."""

import json
import struct
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from orca_ray.data.rows import Array
from orca_ray.errors import UserError, quoted, shorten
from orca_ray.own_data import UserData
from orca_ray.own_data.table_inputs import TableInputs
from orca_ray.serving.replica import Description
from orca_ray.serving.requests import MOST_CHARACTERS, SOURCE, array_data

MEDIA_TYPE = "application/vnd.apache.arrow.stream"
SAMPLES = "x"
"""Column that holds the samples of a model that takes arrays."""


def parse(body: bytes, model: Description, limit: int) -> UserData:
    """Return the samples in an Arrow stream; raises UserError if it is damaged, too large, or of other types."""
    try:
        table = _read(body, limit)
        encoder = None if model.preprocessing is None else model.preprocessing.encoder
        if isinstance(encoder, TableInputs):
            return _table(table, encoder)
        rate = (table.schema.metadata or {}).get(b"rate")
        return array_data(_samples(table), None if rate is None else float(rate))
    except UserError:
        raise
    except (pa.ArrowException, ValueError, TypeError, KeyError, OSError, OverflowError, MemoryError) as error:
        raise UserError(f"{SOURCE} is no Arrow stream that can be read: {shorten(error)}; write it again") from error


def render(content: dict[str, Any], predictions: Array, probabilities: Array | None) -> bytes:
    """Return an answer as a stream: a column each of predictions and probabilities, labels and warnings as metadata."""
    columns = {"predictions": _column(predictions)}
    if probabilities is not None:
        columns["probabilities"] = _column(probabilities)
    table = pa.table(columns).replace_schema_metadata({key: json.dumps(content[key]) for key in ("labels", "warnings")})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _column(values: Array) -> Any:
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedShapeTensorArray.from_numpy_ndarray(values.astype("uint8") if values.dtype == bool else values)


def _read(body: bytes, limit: int) -> Any:
    _check_compression(body)
    batches, count = [], 0
    with pa.ipc.open_stream(body) as reader:
        for batch in reader:
            count += len(batch)
            if count > limit:
                raise UserError(f"{SOURCE} has more than {limit} rows; send them in several requests")
            batch.validate(full=True)
            batches.append(batch)
        if not count:
            raise UserError(f"{SOURCE} has no rows; send at least one")
        return pa.Table.from_batches(batches, reader.schema)


def _check_compression(body: bytes) -> None:
    """Raise UserError for compressed buffers: a small body could fill the memory."""
    for message in pa.ipc.MessageReader.open_stream(body):
        if message.type == "schema":
            continue
        metadata = bytes(message.metadata)
        header = _table_at(metadata, 0)
        batch = _table_at(metadata, _field(metadata, header, 2))
        if message.type == "dictionary":
            batch = _table_at(metadata, _field(metadata, batch, 1))
        if _field(metadata, batch, 3):
            raise UserError(
                f"{SOURCE} has compressed buffers, which are not read; write the stream without compression"
            )


def _table_at(flatbuffer: bytes, place: int) -> int:
    """Return the position of the flatbuffer table to which the offset at ``place`` points."""
    return place + int(struct.unpack_from("<I", flatbuffer, place)[0])


def _field(flatbuffer: bytes, table: int, number: int) -> int:
    """Return the position of a field of a flatbuffer table; 0: the field is absent."""
    layout = table - struct.unpack_from("<i", flatbuffer, table)[0]
    if 4 + 2 * number >= struct.unpack_from("<H", flatbuffer, layout)[0]:
        return 0
    offset = int(struct.unpack_from("<H", flatbuffer, layout + 4 + 2 * number)[0])
    return table + offset if offset else 0


def _table(table: Any, encoder: TableInputs) -> UserData:
    names = table.schema.names
    wanted = [name for name in encoder.names if name in names]
    for name in wanted:
        if names.count(name) > 1:
            raise UserError(f"{SOURCE} has several columns {quoted(name)}; send one")
        kind = table.schema.field(name).type
        values = kind.value_type if types.is_dictionary(kind) else kind
        text = types.is_string(values) or types.is_large_string(values)
        date = types.is_date(values) or types.is_timestamp(values)
        if not (text or date or _numeric(values) or types.is_null(values)):
            raise UserError(f"{SOURCE}, column {quoted(name)}: expected numbers, text or dates, found {shorten(kind)}")
        if text and _longest(table.column(name)) > MOST_CHARACTERS:
            raise UserError(f"{SOURCE}, column {quoted(name)}: a text is longer than {MOST_CHARACTERS} characters")
    plain = [_decoded(table.column(name)) for name in wanted]
    return UserData(x=pa.table(plain, names=wanted).to_pandas(), kind_hint="table", source=SOURCE)


def _decoded(column: Any) -> Any:
    return column.cast(column.type.value_type) if types.is_dictionary(column.type) else column


def _longest(column: Any) -> int:
    chunks = [chunk.dictionary if isinstance(chunk, pa.DictionaryArray) else chunk for chunk in column.chunks]
    return max((pc.max(pc.utf8_length(chunk)).as_py() or 0 for chunk in chunks), default=0)


def _samples(table: Any) -> Any:
    """Return the samples in column ``x``: an array [N, ...], or nested lists."""
    if table.schema.names.count(SAMPLES) != 1:
        raise UserError(f"{SOURCE} needs one column {SAMPLES!r} of fixed-shape tensors or nested lists of numbers")
    column = table.column(SAMPLES).combine_chunks()
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    if isinstance(column.type, pa.FixedShapeTensorType):
        if column.null_count or not _numeric(column.type.value_type):
            raise UserError(f"{SOURCE}, column {SAMPLES!r}: expected tensors of numbers, none of them null")
        return [sample for chunk in chunks for sample in chunk.to_numpy_ndarray()]
    kind = column.type
    while types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        kind = kind.value_type
    if not _numeric(kind):
        raise UserError(
            f"{SOURCE}, column {SAMPLES!r}: expected tensors or nested lists of numbers, found {shorten(kind)}"
        )
    return column.to_pylist()


def _numeric(kind: Any) -> bool:
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))
