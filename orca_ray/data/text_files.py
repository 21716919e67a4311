"""Readers of lists and comma-separated tables in text files.

Tables are read by the ``csv`` module: pandas fills short rows silently, and does not give the line of an error.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from orca_ray.data import cache
from orca_ray.errors import UserError


def read_lines(path: Path) -> list[str]:
    """Return the non-empty lines of a UTF-8 text file without surrounding white space; raises UserError for none."""
    lines = [line.strip() for line in _text(path).split("\n")]
    if not any(lines):
        raise UserError(f"{path}: expected one entry a line, found an empty file")
    return [line for line in lines if line]


def read_csv(path: Path, columns: Sequence[str]) -> dict[str, list[str]]:
    """Return the named columns of a comma-separated table with a header, with values as text.

    Raises UserError for a file that is not text, a column that is missing or named twice, a row (with its line) of
    another length than the header, and no row.
    """
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        header = next(reader, [])
        if bad := [name for name in columns if header.count(name) != 1]:
            found = ", ".join(header)[:200] or "an empty file"
            count = header.count(bad[0])
            raise UserError(f"{path}: expected column {bad[0]!r} once in the header, found {count}: {found}")
        rows = []
        for row in filter(None, reader):
            if len(row) != len(header):
                raise UserError(
                    f"{path}, line {reader.line_num}: expected {len(header)} values ({', '.join(header)}), "
                    f"found {len(row)}"
                )
            rows.append(row)
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: expected a comma-separated table, {error}") from error
    if not rows:
        raise UserError(f"{path}: expected rows below the header, found none")
    return {name: [row[header.index(name)] for row in rows] for name in columns}


def _text(path: Path) -> str:
    with cache.open_file(path) as stream, cache.read_errors(path):
        content = stream.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected text in UTF-8, found byte {content[error.start]:#04x}") from error
    if "\0" in text:
        raise UserError(f"{path}: expected text, found a zero byte; the file is damaged, fetch it again")
    return text
