"""Readers of lists and tables in text files."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from orca_ray.errors import UserError


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 text file, without white space at their ends and without empty ones.

    Raises:
        UserError: when it cannot be read, is not text, or has no line.
    """
    lines = [line.strip() for line in _text(path).split("\n")]
    if not any(lines):
        raise UserError(f"{path}: expected one entry a line, found an empty file")
    return [line for line in lines if line]


def read_csv(path: Path, columns: Sequence[str]) -> dict[str, list[str]]:
    """Return the named columns of a comma-separated table with a header, values as text.

    Raises:
        UserError: for a file that cannot be read or is not text, a column that is missing or named twice, a row of
            another length than the header, with its line, or no row at all.
    """
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        header = next(reader, [])
        _refuse_columns(path, header, columns)
        rows = []
        for row in reader:
            if row and len(row) != len(header):
                raise UserError(
                    f"{path}, line {reader.line_num}: expected {len(header)} values ({', '.join(header)}), "
                    f"found {len(row)}"
                )
            rows += [row] if row else []
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: expected a comma-separated table, {error}") from error
    if not rows:
        raise UserError(f"{path}: expected rows below the header, found none")
    return {name: [row[header.index(name)] for row in rows] for name in columns}


def _refuse_columns(path: Path, header: list[str], columns: Sequence[str]) -> None:
    counts = Counter(header)
    if bad := [name for name in columns if counts[name] != 1]:
        found = ", ".join(header)[:200] or "an empty file"
        raise UserError(f"{path}: expected column {bad[0]!r} once in the header, found {counts[bad[0]]}: {found}")


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected text in UTF-8, found byte {content[error.start]:#04x}") from error
    if "\0" in text:
        raise UserError(f"{path}: expected text, found a zero byte; the file is damaged, fetch it again")
    return text
