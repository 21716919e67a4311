"""Files of tables: text with separators, Parquet, and saved data sets of Hugging Face.

Each file becomes an Arrow table, and each table becomes samples (`arrow_tables`).
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet, types

from orca_ray.data import cache
from orca_ray.data.archives import check_growth
from orca_ray.data.readers import decode_text, encoding_of
from orca_ray.errors import UserError, quoted, shorten
from orca_ray.own_data import (
    Format,
    Options,
    UserData,
)
from orca_ray.own_data.arrow_tables import (
    CELL_BYTES,
    NUMBER_BYTES,
    check_expanded,
    from_arrow,
)
from orca_ray.own_data.numbered_columns import is_header_of_steps

MISSING = ("", "?", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "none")
"""Entries that mean a missing value."""
_GROWTH = 8.0
"""Ratio of the memory of a table to the bytes of its text."""
_NUMBER = re.compile(r"[-+]?\d+([.,]\d+)?([eE][-+]?\d+)?")


def _read_csv(path: Path, options: Options, labelled: bool) -> UserData:
    """Return the rows of a text table as samples.

    ``labelled``: whether targets are read. Raises UserError for a file that is no such
    table, or too large for the memory.
    """
    size = cache.check_special(path)
    cache.check_memory(
        _GROWTH * size, f"{path}: its table", "convert it to Parquet, or split it"
    )
    with cache.open_file(path) as stream:
        start = stream.read(2**16)  # the header and the first rows
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
        decode_text(path, cache.read_bytes(path, size))  # raises an error with the line
        raise UserError(f"{expected}, found other bytes")
    return from_arrow(str(path), table, options, labelled)


def _csv_marks(path: Path, text: str) -> tuple[str, str]:
    """Return the column separator and decimal mark of a file that begins with ``text``.

    Raises UserError for zero bytes, and for a header of numbers that are no steps.
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
    is_numbers = all(_NUMBER.fullmatch(field) for field in fields)
    if is_numbers and not is_header_of_steps(fields):
        raise UserError(
            f"{path}: expected the columns' names in line 1, found numbers; add a"
            " header line"
        )
    # Numbers such as 1,5 need another separator than the comma.
    has_commas = separator == ";" and re.search(r"(^|;)-?\d+,\d+(;|\s)", rows)
    return separator, "," if has_commas else "."


def _read_parquet(path: Path, options: Options, labelled: bool) -> UserData:
    """Return the rows of a Parquet file as samples.

    ``labelled``: whether targets are read. Raises UserError for a damaged file, and for
    a table that is too large.
    """
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
                check_expanded(str(path), encoded, stored)
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
    # Equal numbers in a row are stored once.
    numbers = NUMBER_BYTES * meta.num_rows * meta.num_columns
    check_growth(path, max(size, numbers), stored)
    cells = CELL_BYTES * meta.num_rows * meta.num_columns
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
    """Return the samples of a data set that Hugging Face's ``save_to_disk`` wrote.

    The splits of a dictionary of data sets become declared splits.

    ``labelled``: whether targets are read.
    """
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
    """Return names of files without folders; raise UserError for other values."""
    if not isinstance(names, list) or not names or not all(map(_is_name, names)):
        raise UserError(
            f"{where}: expected names of files or splits, found {quoted(names)}"
        )
    return [Path(name).name for name in names]


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value.isprintable()


def _check_unfolded(file: Path) -> None:
    """Raise UserError if compressed buffers of an Arrow stream declare too large sizes.

    pyarrow allocates the declared sizes. A record batch is a flatbuffer: field 2 lists
    the buffers, and field 3 is present if they are compressed. A dictionary's record
    batch is field 1 of its header. The list of buffers is a count of 4 bytes, then 16
    bytes for each buffer. A compressed buffer begins with its uncompressed size.
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
    """Return the position to which a field of a flatbuffer's table points.

    Returns 0 if the field is absent.
    """
    offsets = table - _integer(meta, table, signed=True)
    # Offsets of fields have 2 bytes each, and follow 4 bytes of sizes.
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
