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
    Inputs,
    Kind,
    LazySamples,
    Options,
    UserData,
)
from orca_ray.own_data.folders import decode
from orca_ray.results.parquet import encoded_text_bytes

MISSING = ("", "?", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "none")
"""Entries that mean a missing value."""
# memory of a table over the bytes of its text, and of one cell
_GROWTH = 8.0
_CELL_BYTES = 64.0
_NUMBER = re.compile(r"[-+]?\d+([.,]\d+)?([eE][-+]?\d+)?")


def _read_csv(path: Path, options: Options, labelled: bool) -> UserData:
    size = cache.check_special(path)
    cache.check_memory(
        _GROWTH * size, f"{path}: its table", "convert it to Parquet, or split it"
    )
    with cache.open_file(path) as stream:
        start = stream.read(2**16)
    encoding = encoding_of(start)
    text = start.decode(encoding, "replace")
    if "\0" in text:
        raise UserError(
            f"{path}: expected text, found a zero byte: it is no table of text"
        )
    header, _, rest = text.partition("\n")
    separator = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)
    fields = [field.strip().strip('"') for field in header.split(separator)]
    if all(_NUMBER.fullmatch(field) for field in fields):
        raise UserError(
            f"{path}: expected the columns' names in line 1, found numbers; add a"
            " header line"
        )
    comma = separator == ";" and re.search(r"(^|;)-?\d+,\d+(;|\s)", rest) is not None
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
                    decimal_point="," if comma else ".",
                ),
            )
        kinds = dict(zip(table.column_names, table.schema.types, strict=True))
        is_text = not any(map(types.is_binary, kinds.values()))
    except UnicodeDecodeError:
        is_text = False
    except (pa.ArrowException, ValueError, OSError) as error:
        raise UserError(f"{expected}: {shorten(error)}") from error
    if not is_text:
        decoded(path, cache.read_bytes(path, size))  # raises an error with the line
        raise UserError(f"{expected}, found other bytes")
    return from_arrow(str(path), table, options, labelled)


def _read_parquet(path: Path, options: Options, labelled: bool) -> UserData:
    stored = cache.check_special(path)
    try:
        with cache.open_file(path) as stream:
            meta = parquet.read_metadata(stream)
            size = sum(
                meta.row_group(group).total_byte_size
                for group in range(meta.num_row_groups)
            )
            check_growth(path, size, stored)
            cells = _CELL_BYTES * meta.num_rows * meta.num_columns
            cache.check_memory(max(2.0 * size, cells), f"{path}: its table", "split it")
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
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path}: expected a Parquet table: {shorten(error)}"
        ) from error
    return from_arrow(str(path), table, options, labelled)


_DICT = "dataset_dict.json"
_STATE = "state.json"
_SPLITS = {
    "train": "train",
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
}


def _read_saved_dataset(path: Path, options: Options, labelled: bool) -> UserData:
    if not (path / _DICT).is_file():
        table, features = _part(path)
        return _samples(path, table, features, options, labelled)
    names = _file_names(cache.read_json(path / _DICT).get("splits"), path / _DICT)
    parts = {name: _part(path / name) for name in names}
    try:
        table = pa.concat_tables([table for table, _ in parts.values()])
    except pa.ArrowInvalid as error:
        raise UserError(
            f"{path}: its splits {', '.join(parts)} have different columns"
        ) from error
    data = _samples(path, table, next(iter(parts.values()))[1], options, labelled)
    if len(parts) == 1 or data.splits is not None or not labelled:
        return data
    kinds = np.repeat(
        [_SPLITS.get(name, "test") for name in parts],
        [table.num_rows for table, _ in parts.values()],
    )
    return replace(data, splits=kinds)


def _part(folder: Path) -> tuple[Any, Mapping[str, Any]]:
    state = cache.read_json(folder / _STATE)
    info = cache.read_json(folder / "dataset_info.json")
    entries = state.get("_data_files")
    names = (
        [each.get("filename") for each in entries if isinstance(each, dict)]
        if isinstance(entries, list)
        else []
    )
    tables = []
    for file in map(folder.joinpath, _file_names(names, folder / _STATE)):
        cache.check_special(file)
        try:
            _check_unfolded(file)
            tables.append(pa.ipc.open_stream(pa.memory_map(str(file))).read_all())
            tables[-1].validate(
                full=True
            )  # wrong offsets would be followed out of bounds
        except UserError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise UserError(
                f"{file}: expected an Arrow file of 'save_to_disk': {shorten(error)}"
            ) from error
    features = info.get("features")
    try:
        return pa.concat_tables(tables), features if isinstance(features, dict) else {}
    except pa.ArrowInvalid as error:
        raise UserError(f"{folder}: its files have different columns") from error


def _file_names(names: object, where: Path) -> list[str]:
    if (
        isinstance(names, list)
        and names
        and all(isinstance(each, str) and each.isprintable() for each in names)
    ):
        return [Path(each).name for each in names]
    raise UserError(
        f"{where}: expected names of files or splits, found {quoted(names)}"
    )


def _check_unfolded(file: Path) -> None:
    """Raise UserError if the compressed buffers of an Arrow stream declare too much;
    pyarrow takes what they say.

    A record batch is a flatbuffer: field 2 lists the buffers, field 3 is present if
        they are compressed. A compressed
    buffer begins with its unfolded size.
    """
    declared = 0
    for message in pa.ipc.MessageReader.open_stream(pa.memory_map(str(file))):
        meta = bytes(message.metadata)
        body = memoryview(message.body or b"")
        batch = _field(meta, int.from_bytes(meta[:4], "little"), 2)
        if message.type == "dictionary":
            batch = _field(meta, batch, 1)
        if message.type == "schema" or not _field(meta, batch, 3):
            continue
        buffers = _field(meta, batch, 2)
        for place in range(
            buffers + 4,
            buffers + 4 + 16 * int.from_bytes(meta[buffers : buffers + 4], "little"),
            16,
        ):
            start = int.from_bytes(meta[place : place + 8], "little")
            declared += max(
                0, int.from_bytes(body[start : start + 8], "little", signed=True)
            )
    check_growth(file, declared, file.stat().st_size)
    cache.check_memory(declared, f"{file}: its table", "save it without compression")


def _field(meta: bytes, table: int, number: int) -> int:
    """Return the position of what a field of a flatbuffer's table points to; 0: it is
    absent.
    """
    offsets = table - int.from_bytes(meta[table : table + 4], "little", signed=True)
    start = 4 + 2 * number
    size = int.from_bytes(meta[offsets : offsets + 2], "little")
    place = (
        table + int.from_bytes(meta[offsets + start : offsets + start + 2], "little")
        if start < size
        else table
    )
    return (
        place + int.from_bytes(meta[place : place + 4], "little")
        if place > table
        else 0
    )


def _samples(
    path: Path,
    table: Any,
    features: Mapping[str, Any],
    options: Options,
    labelled: bool,
) -> UserData:
    kinds = {
        name: found.get("_type")
        for name, found in features.items()
        if isinstance(found, dict)
    }
    images = tuple(name for name, kind in kinds.items() if kind == "Image")
    given = {
        name: features[name].get("names")
        for name, kind in kinds.items()
        if kind == "ClassLabel"
    }
    labels = {
        name: tuple(map(str, each))
        for name, each in given.items()
        if isinstance(each, list)
    }
    if not options.target and len(labels) == 1:
        options = Options(target=tuple(labels)).over(options)
    return from_arrow(
        str(path), table, options, labelled, images=images, label_names=labels
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
    """Return the images or lists of numbers in a column of an Arrow table, converted
    when they are selected.

    Selecting them raises UserError for a cell that is missing or cannot be read.
    """

    def cell(row: int) -> Array:
        where = f"{source}, row {row + 1}"
        value = column[row].as_py()
        if images:
            content = value.get("bytes") if isinstance(value, dict) else None
            if not content:
                raise UserError(
                    f"{where}: expected an image stored in the table, found none; embed"
                    " the files"
                )
            return decode(io.BytesIO(content), where, colour)
        try:
            return np.asarray(value, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{where}: expected lists of numbers of equal length, found"
                f" {quoted(value)}"
            ) from error

    return LazySamples(len(column), cell)


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
    for name in (*options.inputs, *filter(None, extra), *options.columns):
        if name not in names and labelled:
            raise unknown_name("column", name, names, f"({source})")
    inputs = [
        name
        for name in options.inputs or names
        if name in names and name not in (*target, *extra)
    ]
    inputs = [name for name in inputs if options.columns.get(name) != "drop"]
    cells = [
        name
        for name in inputs
        if name in images or types.is_nested(table.schema.field(name).type)
    ]
    x, kind, notes = _inputs(source, table, inputs, cells, images, options)
    y = _targets(source, table, target) if labelled else None
    if (
        len(target) == 1
        and y is not None
        and (known := (label_names or {}).get(target[0]))
    ):
        y = _named(y, known)
    groups, times, splits = (
        _values(source, table, name) if name in names and labelled else None
        for name in extra
    )
    return UserData(
        x=x,
        y=y,
        kind_hint=kind,
        source=source,
        target_names=target,
        notes=notes,
        groups=groups,
        times=times,
        splits=splits,
        keys=(
            {}
            if labelled
            else keys_of(table.select([name for name in names if name not in target]))
        ),
    )


def keys_of(table: pa.Table) -> dict[str, Array]:
    """Return the columns of whole numbers, text or times that differ in all rows, as
    ids do, by name.
    """
    kinds = (
        types.is_integer,
        types.is_string,
        types.is_large_string,
        types.is_date,
        types.is_timestamp,
    )
    return {
        name: column.to_numpy()
        for name, column in zip(table.column_names, table.columns, strict=True)
        if any(kind(column.type) for kind in kinds)
        and not column.null_count
        and len(column.unique()) == len(column)
    }


def _check_expanded(source: str, table: pa.Table, stored: int) -> None:
    """Raise UserError if dictionary-encoded text takes too much for the memory, or for
    its ``stored`` bytes.
    """
    expanded = sum(map(encoded_text_bytes, table.columns))
    check_growth(Path(source), expanded, stored, ", text")
    cells = _CELL_BYTES * table.num_rows * table.num_columns
    cache.check_memory(
        2.0 * expanded + cells, f"{source}: its table", "give fewer rows or columns"
    )


def _check_unusable(source: str, table: pa.Table) -> None:
    names = table.column_names
    if bad := [name for name in names if not name.strip() or names.count(name) > 1]:
        raise UserError(
            f"{source}: column {quoted(bad[0])} has no name, or another has the same;"
            " name each column"
        )
    if not table.num_rows:
        raise UserError(f"{source}: expected rows, found none")
    _check_expanded(source, table, table.nbytes)
    if broken := [field.name for field in table.schema if types.is_binary(field.type)]:
        raise UserError(
            f"{source}, column {quoted(broken[0])}: expected text in UTF-8 or numbers,"
            " found other bytes"
        )


def _named(y: Array, known: tuple[str, ...]) -> Array:
    """Return the names of class numbers ``y`` [N]; None for a missing number, and for
    one without a name.
    """
    numbers = [
        -1 if number is None or np.isnan(number) else int(number)
        for number in y.tolist()
    ]
    return np.array(
        [known[number] if 0 <= number < len(known) else None for number in numbers],
        dtype=object,
    )


def _target(
    source: str, names: list[str], options: Options, labelled: bool
) -> tuple[str, ...]:
    given = options.target or tuple(
        [name for name in names if name.lower() in TARGET_NAMES][:1]
    )
    if missing := [name for name in given if name not in names]:
        if labelled:
            raise unknown_name("target column", missing[0], names, f"({source})")
        return (
            tuple(name for name in given if name in names)
            if len(missing) < len(given)
            else ()
        )
    if not given and labelled:
        listed = shorten(", ".join(map(printable, names)))
        raise UserError(
            f"{source}: which column is the target? Name it with --target; columns:"
            f" {listed}"
        )
    return given


def _inputs(
    source: str,
    table: pa.Table,
    inputs: list[str],
    cells: list[str],
    images: tuple[str, ...],
    options: Options,
) -> tuple[Inputs, Kind, tuple[str, ...]]:
    if not inputs:
        raise UserError(
            f"{source}: no column is left to predict from besides target, group and"
            " time"
        )
    if not cells:
        return to_frame(source, table.select(inputs)), "table", ()
    if len(cells) > 1:
        raise UserError(
            f"{source}: columns {', '.join(cells)} hold lists or images; choose one"
            " with --inputs"
        )
    others = [name for name in inputs if name not in cells]
    notes = (
        (f"columns not used beside {cells[0]}: {', '.join(others)}",) if others else ()
    )
    image = cells[0] in images
    colour = options.colour or "rgb"
    x = _cells(
        table.column(cells[0]),
        f"{source}, column {printable(cells[0])}",
        colour,
        images=image,
    )
    return x, "images" if image else "array", notes


def to_frame(source: str, table: pa.Table) -> pd.DataFrame:
    """Return a data frame: numbers as float64, times as time stamps, all else as
    objects, None where missing.

    Times keep microseconds. Raises UserError, with the column, for values that cannot
    be converted.
    """
    columns: dict[str, Any] = {}
    for name in table.column_names:
        try:
            columns[name] = _converted(table.column(name))
        except (pa.ArrowException, ValueError, OverflowError) as error:
            expected = (
                f"expected values of type {table.column(name).type}, found damaged ones"
            )
            raise UserError(
                f"{source}, column {quoted(name)}: {expected}: {shorten(error)}"
            ) from error
    return pd.DataFrame(columns)


def _converted(column: Any) -> Any:
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if types.is_decimal(column.type):
        column = column.cast("float64")
    kind = column.type
    if types.is_integer(kind) or types.is_floating(kind):
        return column.cast("float64", safe=False).to_numpy(zero_copy_only=False)
    if (
        types.is_temporal(kind)
        and not types.is_duration(kind)
        and not types.is_time(kind)
    ):
        nanoseconds = getattr(kind, "unit", "") == "ns"
        return column.cast("timestamp[us]", safe=not nanoseconds).to_numpy(
            zero_copy_only=False
        )
    return pd.Series(
        column.to_pylist(), dtype=object
    )  # pandas 3 would make it another type


def _values(source: str, table: pa.Table, name: str) -> Array:
    return np.asarray(to_frame(source, table.select([name]))[name])


def _targets(source: str, table: pa.Table, names: tuple[str, ...]) -> Array | None:
    if not names:
        return None
    if len(names) == 1 and types.is_nested(table.schema.field(names[0]).type):
        cells = _cells(
            table.column(names[0]), f"{source}, column {names[0]}", "", images=False
        )[:]
        if len({cell.shape for cell in cells}) > 1:
            raise UserError(
                f"{source}, column {names[0]}: targets have unequal lengths; give"
                " fields of one size"
            )
        return np.stack(cells)
    values = [_values(source, table, name) for name in names]
    if len(names) == 1:
        return values[0]
    for name, each in zip(names, values, strict=True):
        if each.dtype.kind not in "biuf" and not all(
            isinstance(value, bool) for value in each
        ):
            expected = (
                "several targets must be numbers or true and false; give dates as"
                " numbers, such as days"
            )
            raise UserError(f"{source}, column {quoted(name)}: {expected}")
    return np.stack([each.astype(np.float64) for each in values], axis=1)
