"""Files of tables: text with separators, Parquet, and saved data sets of Hugging Face.

Each file becomes an Arrow table, and each table samples: a data frame, or cells of
images or lists. For dates, see `dates`.
"""

import io
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv, parquet, types

from orca_ray.data import cache
from orca_ray.data.archives import check_growth
from orca_ray.data.readers import decoded, encoding_of
from orca_ray.data.rows import Array
from orca_ray.errors import UserError, printable, quoted, shorten, unknown_name
from orca_ray.own_data import (
    TARGET_NAMES,
    Format,
    LazySamples,
    Options,
    UserData,
)
from orca_ray.own_data.folders import decode
from orca_ray.results.parquet import encoded_text_bytes

MISSING = ("", "?", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "none")
"""Entries that mean a missing value."""
_GROWTH = 8.0
"""Memory of a table over the bytes of its text."""
_CELL_BYTES = 64.0
"""Memory of one cell of a table."""
_NUMBER = re.compile(r"[-+]?\d+([.,]\d+)?([eE][-+]?\d+)?")


def _read_csv(path: Path, options: Options, labelled: bool) -> UserData:
    size = cache.check_special(path)
    cache.check_memory(
        _GROWTH * size, f"{path}: its table", "convert it to Parquet, or split it"
    )
    with cache.open_file(path) as stream:
        start = stream.read(2**16)
    encoding = encoding_of(start)
    separator, decimal_point = _csv_marks(path, start.decode(encoding, "replace"))
    expected = f"{path}: expected a table with columns separated by {quoted(separator)}"
    try:
        with cache.open_file(path) as stream:
            table = csv.read_csv(
                stream,
                read_options=csv.ReadOptions(encoding=encoding.removesuffix("-sig")),
                parse_options=csv.ParseOptions(
                    delimiter=separator, newlines_in_values=True
                ),
                convert_options=csv.ConvertOptions(
                    null_values=list(MISSING),
                    strings_can_be_null=True,
                    decimal_point=decimal_point,
                ),
            )
        # a column name that is no UTF-8 raises UnicodeDecodeError here
        columns = zip(table.column_names, table.schema.types, strict=True)
        is_text = not any(types.is_binary(kind) for _, kind in columns)
    except UnicodeDecodeError:
        is_text = False
    except (pa.ArrowException, ValueError, OSError) as error:
        raise UserError(f"{expected}: {shorten(error)}") from error
    if not is_text:
        decoded(path, cache.read_bytes(path, size))  # raises an error with the line
        raise UserError(f"{expected}, found other bytes")
    return from_arrow(str(path), table, options, labelled)


def _csv_marks(path: Path, text: str) -> tuple[str, str]:
    """Return the separator of columns and the decimal mark of a file with this start.

    Raises UserError for zero bytes, and for a header of numbers.
    """
    if "\0" in text:
        raise UserError(
            f"{path}: expected text, found a zero byte: it is no table of text"
        )
    header, _, rows = text.partition("\n")
    separator = "\t"
    if path.suffix.lower() != ".tsv":
        separator = max(",;\t", key=header.count)
    fields = [field.strip().strip('"') for field in header.split(separator)]
    if all(_NUMBER.fullmatch(field) for field in fields):
        raise UserError(
            f"{path}: expected the columns' names in line 1, found numbers; add a"
            " header line"
        )
    has_commas = separator == ";" and re.search(r"(^|;)-?\d+,\d+(;|\s)", rows)
    return separator, "," if has_commas else "."


def _read_parquet(path: Path, options: Options, labelled: bool) -> UserData:
    stored = cache.check_special(path)
    try:
        with cache.open_file(path) as stream:
            meta = parquet.read_metadata(stream)
            _check_parquet_size(path, meta, stored)
            leaves = [meta.schema.column(place) for place in range(meta.num_columns)]
            texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
            # read as dictionaries, which store equal texts once, until the expanded
            # size is checked
            if texts:
                encoded = parquet.ParquetFile(
                    stream, metadata=meta, read_dictionary=texts
                ).read(texts)
                _check_expanded(str(path), encoded, stored)
                del encoded
            table = parquet.ParquetFile(stream, metadata=meta).read()
            table.validate(full=True)  # its text may be no UTF-8
    except UserError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(
            f"{path}: expected a Parquet table: {shorten(error)}"
        ) from error
    return from_arrow(str(path), table, options, labelled)


def _check_parquet_size(path: Path, meta: Any, stored: int) -> None:
    """Raise UserError if a file of ``stored`` bytes declares a too large table."""
    size = sum(
        meta.row_group(group).total_byte_size for group in range(meta.num_row_groups)
    )
    check_growth(path, size, stored)
    cells = _CELL_BYTES * meta.num_rows * meta.num_columns
    cache.check_memory(max(2.0 * size, cells), f"{path}: its table", "split it")


_DICT = "dataset_dict.json"
"""File of a saved data set that lists its splits."""
_STATE = "state.json"
"""File of a saved data set, or of one of its splits, that lists the files of arrays."""
_SPLITS = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}
"""Split by the name of a saved data set's split; other splits are test."""


def _read_saved_dataset(path: Path, options: Options, labelled: bool) -> UserData:
    if not (path / _DICT).is_file():
        table, features = _read_part(path)
        return _samples(path, table, features, options, labelled)
    names = _file_names(cache.read_json(path / _DICT).get("splits"), path / _DICT)
    parts = {name: _read_part(path / name) for name in names}
    tables = [table for table, _ in parts.values()]
    _, features = parts[names[0]]
    try:
        table = pa.concat_tables(tables)
    except pa.ArrowInvalid as error:
        raise UserError(
            f"{path}: its splits {', '.join(parts)} have different columns"
        ) from error
    data = _samples(path, table, features, options, labelled)
    if len(parts) == 1 or data.splits is not None or not labelled:
        return data
    splits = np.repeat(
        [_SPLITS.get(name, "test") for name in parts],
        [table.num_rows for table in tables],
    )
    return replace(data, splits=splits)


def _read_part(folder: Path) -> tuple[Any, Mapping[str, Any]]:
    """Return the table in a folder of Arrow files, and the features of its columns."""
    state = cache.read_json(folder / _STATE)
    info = cache.read_json(folder / "dataset_info.json")
    entries = state.get("_data_files")
    names = []
    if isinstance(entries, list):
        names = [entry.get("filename") for entry in entries if isinstance(entry, dict)]
    files = [folder / name for name in _file_names(names, folder / _STATE)]
    tables = [_read_arrow(file) for file in files]
    features = info.get("features")
    try:
        table = pa.concat_tables(tables)
    except pa.ArrowInvalid as error:
        raise UserError(f"{folder}: its files have different columns") from error
    return table, features if isinstance(features, dict) else {}


def _read_arrow(file: Path) -> Any:
    """Return the table of an Arrow stream, memory-mapped; UserError if damaged."""
    cache.check_special(file)
    try:
        _check_unfolded(file)
        table = pa.ipc.open_stream(pa.memory_map(str(file))).read_all()
        # wrong offsets would be followed out of bounds
        table.validate(full=True)
    except UserError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(
            f"{file}: expected an Arrow file of 'save_to_disk': {shorten(error)}"
        ) from error
    return table


def _file_names(names: object, where: Path) -> list[str]:
    """Return names of files without folders; UserError for anything but names."""
    if not isinstance(names, list) or not names or not all(map(_is_name, names)):
        raise UserError(
            f"{where}: expected names of files or splits, found {quoted(names)}"
        )
    return [Path(name).name for name in names]


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value.isprintable()


def _check_unfolded(file: Path) -> None:
    """Raise UserError if the compressed buffers of an Arrow stream declare too much.

    pyarrow allocates what they declare. A record batch is a flatbuffer: field 2 lists
    the buffers, field 3 is present if they are compressed. A compressed buffer begins
    with its unfolded size.
    """
    declared = 0
    for message in pa.ipc.MessageReader.open_stream(pa.memory_map(str(file))):
        meta = bytes(message.metadata)
        body = memoryview(message.body or b"")
        batch = _field(meta, _integer(meta, 0), 2)
        if message.type == "dictionary":
            batch = _field(meta, batch, 1)
        is_compressed = message.type != "schema" and _field(meta, batch, 3)
        if not is_compressed:
            continue
        buffers = _field(meta, batch, 2)
        num_buffers = _integer(meta, buffers)
        for number in range(num_buffers):
            place = buffers + 4 + 16 * number
            start = _integer(meta, place, size=8)
            declared += max(0, _integer(body, start, size=8, signed=True))
    check_growth(file, declared, file.stat().st_size)
    cache.check_memory(declared, f"{file}: its table", "save it without compression")


def _integer(
    buffer: bytes | memoryview, place: int, *, size: int = 4, signed: bool = False
) -> int:
    """Return the little-endian integer of ``size`` bytes at ``place``."""
    return int.from_bytes(buffer[place : place + size], "little", signed=signed)


def _field(meta: bytes, table: int, number: int) -> int:
    """Return the position of what a field of a flatbuffer's table points to.

    0: the field is absent.
    """
    offsets = table - _integer(meta, table, signed=True)
    start = 4 + 2 * number
    if start >= _integer(meta, offsets, size=2):
        return 0
    distance = _integer(meta, offsets + start, size=2)
    if distance == 0:
        return 0
    place = table + distance
    return place + _integer(meta, place)


def _samples(
    path: Path,
    table: Any,
    features: Mapping[str, Any],
    options: Options,
    labelled: bool,
) -> UserData:
    """Return the samples of a saved data set; ``features`` describe its columns."""
    images: list[str] = []
    label_names: dict[str, tuple[str, ...]] = {}
    for name, feature in features.items():
        if not isinstance(feature, dict):
            continue
        if feature.get("_type") == "Image":
            images.append(name)
        names = feature.get("names")
        if feature.get("_type") == "ClassLabel" and isinstance(names, list):
            label_names[name] = tuple(map(str, names))
    if not options.target and len(label_names) == 1:
        options = Options(target=tuple(label_names)).over(options)
    return from_arrow(
        str(path),
        table,
        options,
        labelled,
        images=tuple(images),
        label_names=label_names,
    )


_SAVED = "Hugging Face data set on disk"
FORMATS = (
    Format("table of text", (".csv", ".tsv"), _read_csv),
    Format("Parquet table", (".parquet", ".pq"), _read_parquet),
    Format(
        _SAVED, (".arrow",), _read_saved_dataset, folder=True, markers=(_DICT, _STATE)
    ),
)


def _cells(column: Any, source: str, colour: str, *, images: bool) -> LazySamples:
    """Return the images or lists of numbers in a column of an Arrow table.

    They are converted when they are selected; this raises UserError for a cell that is
    missing or cannot be read.
    """

    def image(row: int) -> Array:
        where = f"{source}, row {row + 1}"
        value = column[row].as_py()
        content = value.get("bytes") if isinstance(value, dict) else None
        if not content:
            raise UserError(
                f"{where}: expected an image stored in the table, found none; embed"
                " the files"
            )
        return decode(io.BytesIO(content), where, colour)

    def numbers(row: int) -> Array:
        value = column[row].as_py()
        try:
            return np.asarray(value, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{source}, row {row + 1}: expected lists of numbers of equal length,"
                f" found {quoted(value)}"
            ) from error

    return LazySamples(len(column), image if images else numbers)


def from_arrow(
    source: str,
    table: pa.Table,
    options: Options,
    labelled: bool,
    *,
    images: tuple[str, ...] = (),
    label_names: Mapping[str, tuple[str, ...]] | None = None,
) -> UserData:
    """Return the samples of a table, one per row.

    ``labelled``: a target is required. If not, no target, group, time or split is read,
    but `keys_of` the rows are. ``images`` are names of columns of encoded images, and
    ``label_names`` the class names of columns of class numbers.

    Raises UserError for a table without rows, columns without a name or of the same
    name, missing or binary columns, and if no input is left.
    """
    _check_unusable(source, table)
    names = table.column_names
    target = _target(source, names, options, labelled)
    extra = (options.group, options.time, options.split)
    if labelled:
        for name in (*options.inputs, *filter(None, extra), *options.columns):
            if name not in names:
                raise unknown_name("column", name, names, f"({source})")
    inputs = [
        name
        for name in options.inputs or names
        if name in names
        and name not in (*target, *extra)
        and options.columns.get(name) != "drop"
    ]
    data = _input_data(source, table, inputs, images, options)
    if not labelled:
        other_columns = table.select([name for name in names if name not in target])
        return replace(data, target_names=target, keys=keys_of(other_columns))
    y = _targets(source, table, target)
    class_names = (label_names or {}).get(target[0]) if len(target) == 1 else None
    if class_names:
        y = _named(y, class_names)
    groups, times, splits = (
        _values(source, table, name) if name else None for name in extra
    )
    return replace(
        data, target_names=target, y=y, groups=groups, times=times, splits=splits
    )


_KEY_TYPES = (
    types.is_integer,
    types.is_string,
    types.is_large_string,
    types.is_date,
    types.is_timestamp,
)
"""Checks for Arrow's types of whole numbers, text and times."""


def keys_of(table: pa.Table) -> dict[str, Array]:
    """Return the columns by name that tell rows apart, as ids do.

    Such columns are whole numbers, text or times that differ in all rows.
    """
    keys = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if not any(is_kind(column.type) for is_kind in _KEY_TYPES):
            continue
        if not column.null_count and len(column.unique()) == len(column):
            keys[name] = column.to_numpy()
    return keys


def _check_expanded(source: str, table: pa.Table, stored: int) -> None:
    """Raise UserError if dictionary-encoded text takes too much memory.

    The memory is compared with what is free, and with the ``stored`` bytes of the text.
    """
    expanded = sum(map(encoded_text_bytes, table.columns))
    check_growth(Path(source), expanded, stored, ", text")
    cells = _CELL_BYTES * table.num_rows * table.num_columns
    cache.check_memory(
        2.0 * expanded + cells, f"{source}: its table", "give fewer rows or columns"
    )


def _check_unusable(source: str, table: pa.Table) -> None:
    """Raise UserError for a table without rows, with bad names or binary columns."""
    names = table.column_names
    for name in names:
        if not name.strip() or names.count(name) > 1:
            raise UserError(
                f"{source}: column {quoted(name)} has no name, or another has the same;"
                " name each column"
            )
    if not table.num_rows:
        raise UserError(f"{source}: expected rows, found none")
    _check_expanded(source, table, table.nbytes)
    for field in table.schema:
        if types.is_binary(field.type):
            raise UserError(
                f"{source}, column {quoted(field.name)}: expected text in UTF-8 or"
                " numbers, found other bytes"
            )


def _named(y: Array, names: tuple[str, ...]) -> Array:
    """Return the names of class numbers ``y`` [N].

    None for a missing number, and for a number without a name.
    """
    named = []
    for number in y.tolist():
        has_name = number is not None and 0 <= number < len(names)
        named.append(names[int(number)] if has_name else None)
    return np.array(named, dtype=object)


def _target(
    source: str, names: list[str], options: Options, labelled: bool
) -> tuple[str, ...]:
    """Return the columns of the target, which options name or which have a usual name.

    Unless ``labelled``, columns that the table lacks are left out.
    """
    usual = [name for name in names if name.lower() in TARGET_NAMES]
    target = options.target or tuple(usual[:1])
    if not labelled:
        return tuple(name for name in target if name in names)
    for name in target:
        if name not in names:
            raise unknown_name("target column", name, names, f"({source})")
    if not target:
        listed = shorten(", ".join(map(printable, names)))
        raise UserError(
            f"{source}: which column is the target? Name it with --target; columns:"
            f" {listed}"
        )
    return target


def _input_data(
    source: str,
    table: pa.Table,
    inputs: list[str],
    images: tuple[str, ...],
    options: Options,
) -> UserData:
    """Return the inputs alone: a data frame, or the one column of lists or images."""
    if not inputs:
        raise UserError(
            f"{source}: no column is left to predict from besides target, group and"
            " time"
        )
    cells = [
        name
        for name in inputs
        if name in images or types.is_nested(table.schema.field(name).type)
    ]
    if not cells:
        frame = to_frame(source, table.select(inputs))
        return UserData(x=frame, kind_hint="table", source=source)
    if len(cells) > 1:
        raise UserError(
            f"{source}: columns {', '.join(cells)} hold lists or images; choose one"
            " with --inputs"
        )
    name = cells[0]
    is_image = name in images
    where = f"{source}, column {printable(name)}"
    unused = [other for other in inputs if other != name]
    notes: tuple[str, ...] = ()
    if unused:
        notes = (f"columns not used beside {name}: {', '.join(unused)}",)
    return UserData(
        x=_cells(table.column(name), where, options.colour or "rgb", images=is_image),
        kind_hint="images" if is_image else "array",
        source=source,
        notes=notes,
    )


def to_frame(source: str, table: pa.Table) -> pd.DataFrame:
    """Return a data frame: numbers as float64, times as time stamps, or objects.

    Other values are objects, None if missing; times keep microseconds. Raises
    UserError, with the column, for values that cannot be converted.
    """
    columns: dict[str, Any] = {}
    for name in table.column_names:
        try:
            columns[name] = _converted(table.column(name))
        except (pa.ArrowException, ValueError, OverflowError) as error:
            kind = table.column(name).type
            raise UserError(
                f"{source}, column {quoted(name)}: expected values of type {kind},"
                f" found damaged ones: {shorten(error)}"
            ) from error
    return pd.DataFrame(columns)


def _converted(column: Any) -> Any:
    """Return a column as `to_frame` describes."""
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if types.is_decimal(column.type):
        column = column.cast("float64")
    kind = column.type
    if types.is_integer(kind) or types.is_floating(kind):
        return column.cast("float64", safe=False).to_numpy(zero_copy_only=False)
    is_duration = types.is_duration(kind) or types.is_time(kind)
    if types.is_temporal(kind) and not is_duration:
        has_nanoseconds = getattr(kind, "unit", "") == "ns"
        times = column.cast("timestamp[us]", safe=not has_nanoseconds)
        return times.to_numpy(zero_copy_only=False)
    # pandas 3 would infer another type than object
    return pd.Series(column.to_pylist(), dtype=object)


def _values(source: str, table: pa.Table, name: str) -> Array:
    return np.asarray(to_frame(source, table.select([name]))[name])


def _targets(source: str, table: pa.Table, names: tuple[str, ...]) -> Array:
    """Return the targets: one column [N], several [N, K], or fields [N, ...]."""
    if len(names) == 1 and types.is_nested(table.schema.field(names[0]).type):
        return _field_targets(source, table, names[0])
    columns = [_values(source, table, name) for name in names]
    if len(columns) == 1:
        return columns[0]
    for name, column in zip(names, columns, strict=True):
        is_number = column.dtype.kind in "biuf"
        if not is_number and not all(isinstance(value, bool) for value in column):
            raise UserError(
                f"{source}, column {quoted(name)}: several targets must be numbers or"
                " true and false; give dates as numbers, such as days"
            )
    return np.stack([column.astype(np.float64) for column in columns], axis=1)


def _field_targets(source: str, table: pa.Table, name: str) -> Array:
    """Return the lists of numbers in a column as fields [N, ...] of one size."""
    where = f"{source}, column {name}"
    cells = _cells(table.column(name), where, "", images=False)[:]
    if len({cell.shape for cell in cells}) > 1:
        raise UserError(
            f"{where}: targets have unequal lengths; give fields of one size"
        )
    return np.stack(cells)
