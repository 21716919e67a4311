"""Files of tables: text with separators, Parquet, and saved data sets of Hugging Face."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from orca_ray.data import cache
from orca_ray.errors import UserError, quoted, shorten
from orca_ray.own_data.arrow_tables import from_arrow
from orca_ray.own_data.user_data import Format, Options, UserData

MISSING = ("", "?", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "none")
"""Entries that mean a missing value."""
_START_BYTES = 2**16
_GROWTH = 8.0  # memory of a table over the bytes of its text
_NUMBER = re.compile(r"[-+]?\d+([.,]\d+)?([eE][-+]?\d+)?")


def _read_csv(path: Path, options: Options, labelled: bool) -> UserData:
    import pyarrow as pa
    from pyarrow import csv

    size = cache.check_special(path)
    cache.check_memory(_GROWTH * size, f"{path}: its table", "convert it to Parquet, or split it")
    with cache.open_file(path) as stream:
        start = stream.read(_START_BYTES)
    if b"\0" in start:
        raise UserError(f"{path}: expected text, found a zero byte: it is no table of text")
    text = start.decode("utf-8-sig", "replace")
    header, _, rest = text.partition("\n")
    separator = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)
    fields = [field.strip().strip('"') for field in header.split(separator)]
    if all(_NUMBER.fullmatch(field) for field in fields):
        raise UserError(f"{path}: expected the columns' names in line 1, found numbers; add a header line")
    comma = separator == ";" and re.search(r"(^|;)-?\d+,\d+(;|\s)", rest) is not None
    try:
        table = csv.read_csv(
            path,
            parse_options=csv.ParseOptions(delimiter=separator, newlines_in_values=True),
            convert_options=csv.ConvertOptions(
                null_values=list(MISSING), strings_can_be_null=True, decimal_point="," if comma else "."
            ),
        )
        table.column_names  # noqa: B018 - decodes them
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected text in UTF-8, found other bytes in the header; save it as UTF-8") from error
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        expected = f"a table with columns separated by {quoted(separator)}"
        raise UserError(f"{path}: expected {expected}: {shorten(error)}") from error
    return from_arrow(str(path), table, options, labelled)


_CSV = Format("table of text", (".csv", ".tsv"), _read_csv)


def _read_parquet(path: Path, options: Options, labelled: bool) -> UserData:
    import pyarrow as pa
    from pyarrow import parquet

    cache.check_special(path)
    try:
        with parquet.ParquetFile(path) as file:
            meta = file.metadata
            size = sum(meta.row_group(group).total_byte_size for group in range(meta.num_row_groups))
            cells = 64.0 * meta.num_rows * meta.num_columns
            cache.check_memory(max(2.0 * size, cells), f"{path}: its table", "split it")
            table = file.read()
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: expected a Parquet table: {shorten(error)}") from error
    return from_arrow(str(path), table, options, labelled)


_PARQUET = Format("Parquet table", (".parquet", ".pq"), _read_parquet)


_DICT, _STATE = "dataset_dict.json", "state.json"
_SPLITS = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}


def _read_saved_dataset(path: Path, options: Options, labelled: bool) -> UserData:
    import pyarrow as pa

    if not (path / _DICT).is_file():
        table, features = _part(path)
        return _samples(path, table, features, options, labelled)
    names = [str(name) for name in cache.read_json(path / _DICT).get("splits", [])]
    parts = {name: _part(path / Path(name).name) for name in names}
    if not parts:
        raise UserError(f"{path / _DICT}: expected the names of splits, found none")
    try:
        table = pa.concat_tables([table for table, _ in parts.values()])
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: its splits {', '.join(names)} have different columns") from error
    data = _samples(path, table, next(iter(parts.values()))[1], options, labelled)
    if len(parts) == 1 or data.splits is not None:
        return data
    kinds = np.repeat([_SPLITS.get(name, "test") for name in names], [table.num_rows for table, _ in parts.values()])
    return replace(data, splits=kinds)


def _part(folder: Path) -> "tuple[Any, Mapping[str, Any]]":
    import pyarrow as pa

    state, info = cache.read_json(folder / _STATE), cache.read_json(folder / "dataset_info.json")
    files = [folder / Path(str(entry.get("filename", ""))).name for entry in state.get("_data_files", [])]
    tables = []
    for file in files:
        cache.check_special(file)
        try:
            tables.append(pa.ipc.open_stream(pa.memory_map(str(file))).read_all())
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{file}: expected an Arrow file of 'save_to_disk': {shorten(error)}") from error
    if not tables:
        raise UserError(f"{folder / _STATE}: expected names of Arrow files, found none")
    features = info.get("features")
    return pa.concat_tables(tables), features if isinstance(features, dict) else {}


def _samples(path: Path, table: Any, features: Mapping[str, Any], options: Options, labelled: bool) -> UserData:
    kinds = {name: found.get("_type") for name, found in features.items() if isinstance(found, dict)}
    images = tuple(name for name, kind in kinds.items() if kind == "Image")
    labels = {name: tuple(map(str, features[name].get("names", ()))) for name, k in kinds.items() if k == "ClassLabel"}
    if not options.target and len(labels) == 1:
        options = Options(target=tuple(labels)).over(options)
    return from_arrow(str(path), table, options, labelled, images=images, label_names=labels)


_SAVED_DATASET = Format(
    "Hugging Face data set on disk", (".arrow",), _read_saved_dataset, folder=True, markers=(_DICT, _STATE)
)

FORMATS = (_CSV, _PARQUET, _SAVED_DATASET)
