"""Tables as text: comma-, semicolon- or tab-separated, with a header line."""

import re
from pathlib import Path

from orca_ray.data import cache
from orca_ray.errors import UserError, quoted, shorten
from orca_ray.own_data._tables import from_arrow
from orca_ray.own_data.format import Format
from orca_ray.own_data.options import Options
from orca_ray.own_data.user_data import UserData

MISSING = ("", "?", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "none")
"""Entries that mean a missing value."""
_START_BYTES = 2**16
_GROWTH = 8.0  # memory of a table over the bytes of its text
_NUMBER = re.compile(r"[-+]?\d+([.,]\d+)?([eE][-+]?\d+)?")


def _read(path: Path, options: Options, labelled: bool) -> UserData:
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


FORMAT = Format("table of text", (".csv", ".tsv"), _read)
