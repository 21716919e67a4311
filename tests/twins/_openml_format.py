"""Writes tables the way OpenML's server answers: description.json and data.arff; and ways to damage them."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orca_ray.testing.damages import Writer, replaced, rewritten

Kind = str | tuple[str, ...]
"""Of a column: NUMERIC, REAL, INTEGER, STRING, or categories."""


@dataclass(frozen=True)
class TwinTable:
    """One table; ``rows`` [N][L] of numbers, categories and None."""

    name: str
    columns: Sequence[tuple[str, Kind]]
    rows: Sequence[Sequence[Any]]
    target: str
    row_id: str = ""
    ignored: tuple[str, ...] = ()
    sparse: bool = False


def write_table(raw: Path, dataset_id: int, table: TwinTable) -> None:
    write_bytes(raw, dataset_id, table, arff_text(table).encode())


def write_bytes(raw: Path, dataset_id: int, table: TwinTable, arff: bytes) -> None:
    directory = raw / str(dataset_id)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "data.arff").write_bytes(arff)
    md5 = hashlib.md5(arff, usedforsecurity=False).hexdigest()
    (directory / "description.json").write_text(description_text(dataset_id, table, md5))


def description_text(dataset_id: int, table: TwinTable, md5: str) -> str:
    """The server escapes slashes, gives numbers as text, and leaves out fields that are empty."""
    fields = {
        "id": str(dataset_id),
        "name": table.name,
        "version": "1",
        "description": f"**Author**: nobody  \n**Source**: a twin of {table.name}",
        "format": "Sparse_ARFF" if table.sparse else "ARFF",
        "upload_date": "2014-04-06T23:23:39",
        "licence": "Public",
        "url": f"https://www.openml.org/data/v1/download/{dataset_id}/{table.name}.arff",
        "file_id": str(dataset_id),
        "default_target_attribute": table.target,
        "row_id_attribute": table.row_id,
        "ignore_attribute": list(table.ignored),
        "tag": ["study_1", "uci"],
        "visibility": "public",
        "status": "active",
        "md5_checksum": md5,
    }
    return json.dumps({"data_set_description": {k: v for k, v in fields.items() if v}}).replace("/", r"\/")


def arff_text(table: TwinTable) -> str:
    lines = [f"% 1. Title: {table.name}", "%", f"@RELATION {_quoted(table.name)}", ""]
    for name, kind in table.columns:
        told = kind if isinstance(kind, str) else "{" + ",".join(map(_quoted, kind)) + "}"
        lines.append(f"@ATTRIBUTE {_quoted(name)} {told}")
    lines += ["", "@DATA"]
    for row in table.rows:
        values = [_value(value) for value in row]
        if not table.sparse:
            lines.append(",".join(values))
            continue
        zero = [0 if isinstance(kind, str) else kind[0] for _, kind in table.columns]
        present = [f"{i} {values[i]}" for i in range(len(row)) if row[i] != zero[i]]
        lines.append("{" + ", ".join(present) + "}")
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "?"
    return _quoted(value) if isinstance(value, str) else repr(float(value)).removesuffix(".0")


def _quoted(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_.+<>=-]+", text):
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def edit_table(dataset_id: int, edit: Callable[[str], str]) -> Writer:
    """A damage that a checksum does not show: the description names the MD5 of what the table became."""

    def damage(raw: Path) -> None:
        path = raw / str(dataset_id) / "data.arff"
        old, new = path.read_bytes(), edit(path.read_text()).encode()
        assert new != old
        path.write_bytes(new)
        was, is_now = (hashlib.md5(each, usedforsecurity=False).hexdigest() for each in (old, new))
        replaced(f"{dataset_id}/description.json", was, is_now)(raw)

    return damage


def edit_description(dataset_id: int, edit: Callable[[str], str]) -> Writer:
    path = f"{dataset_id}/description.json"
    return lambda raw: rewritten(raw / path, lambda content: edit(content.decode()).encode())
