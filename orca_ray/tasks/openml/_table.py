"""Download and read a data set of OpenML.

The files of a data set are ``<id>/description.json`` and the table, ``<id>/data.arff``.
The description is the server's unchanged answer to ``/api/v1/json/data/<id>``. It has
the URL and the MD5 of the table. Both files are downloaded by `orca_ray.data.fetch`,
which resumes, retries, and compares hashes with recorded ones. scikit-learn's client
does not resume or record hashes, and OpenML's own client by default reads pickles from
its cache.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from orca_ray.data import cache
from orca_ray.data.archives import check_growth
from orca_ray.data.cache import read_json
from orca_ray.data.download import Patience
from orca_ray.data.fetch import fetch as fetch_files
from orca_ray.data.raw import RawFile, Workspace
from orca_ray.data.readers import check_not_finite
from orca_ray.data.rows import Array
from orca_ray.errors import UserError, quoted, shorten

if TYPE_CHECKING:
    import pandas as pd

SERVER = "https://www.openml.org"
_PATIENCE = Patience()
_FORMATS = r"(?i)arff|sparse_arff"  # the same reader reads both


def raw_files(dataset_id: int, server: str = SERVER) -> tuple[RawFile, RawFile]:
    """Return the raw files of a data set: its description and its table.

    The description gives the URL of the table.
    """
    url = f"{server}/api/v1/json/data/{dataset_id}"
    description = RawFile(
        path=f"{dataset_id}/description.json", urls=(url,), num_bytes=10_000
    )
    return description, RawFile(
        path=f"{dataset_id}/data.arff",
        made_by=f"orca-sweep data fetch openml/{dataset_id}",
    )


def fetch(
    dataset_id: int,
    raw: Path,
    progress: Callable[[str], None] | None = None,
    *,
    server: str = SERVER,
    patience: Patience = _PATIENCE,
) -> None:
    """Download what is missing of a data set's description and table into ``raw``.

    Verify and record their hashes. Raises the UserErrors of `orca_ray.data.fetch.fetch`
    and of `read_description`.
    """
    description, table = raw_files(dataset_id, server)
    fetch_files((description,), raw, progress, patience=patience)
    described = read_description(raw / description.path, dataset_id)
    urls = (described.url, f"{server}/data/v1/download/{described.file_id}")
    fetch_files(
        (RawFile(path=table.path, urls=urls, md5=described.md5),),
        raw,
        progress,
        patience=patience,
    )


@dataclass(frozen=True)
class Description:
    """Fields of a description that downloading and reading its table needs."""

    url: str
    file_id: str
    md5: str
    target: str
    """Name of the column to predict."""
    left_out: frozenset[str]
    """Names of columns that are not features: row ids, and columns that the uploader
    marked as to be ignored.
    """


def read_description(path: Path, dataset_id: int) -> Description:
    """Return the description in the file ``path``.

    It must describe the data set ``dataset_id``. Raises UserError if the file is not
    JSON, is an error message of the server, belongs to another data set, lacks a field,
    or describes a table that is not ARFF.
    """
    fields = _fields(path)
    _text(path, fields, "format", _FORMATS)
    stored_id = _text(path, fields, "id", r"[0-9]+")
    if stored_id != str(dataset_id):
        raise UserError(
            f"{path} describes data set {stored_id}, expected {dataset_id}; fetch it"
            " again"
        )
    return Description(
        url=_text(path, fields, "url", r"https?://.+"),
        file_id=_text(path, fields, "file_id", r"[0-9]+"),
        md5=_text(path, fields, "md5_checksum", r"[0-9a-fA-F]{32}").lower(),
        # This field is used as in ORCA's code, although the server's list of features
        # may name another target.
        target=_text(path, fields, "default_target_attribute", r"[^,]+"),
        left_out=frozenset(
            _names(path, fields, "row_id_attribute")
            + _names(path, fields, "ignore_attribute")
        ),
    )


def _fields(path: Path) -> Mapping[str, Any]:
    """Return the fields of the description in the file ``path``."""
    try:
        content = read_json(path)
    except UserError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise UserError(
            f"{path} is not the JSON that OpenML answers with: {reason}; fetch it again"
        ) from error
    fields = content.get("data_set_description")
    if not isinstance(fields, dict):
        reason = quoted(content)
        raise UserError(
            f"{path} holds no field data_set_description, but {reason}; fetch it again"
        )
    return fields


def _text(path: Path, fields: Mapping[str, Any], name: str, allowed: str) -> str:
    """Return the text in the field ``name`` of a description.

    Raises UserError unless it matches the regular expression ``allowed``.
    """
    value = fields.get(name)
    # The server sends ids as text, but may send numbers.
    text = quoted(value) if isinstance(value, int) else value
    if not isinstance(text, str) or not re.fullmatch(allowed, text):
        raise UserError(
            f"{path}: field {name} is {quoted(value)}, expected text that matches"
            f" {allowed!r}"
        )
    return text


def _names(path: Path, fields: Mapping[str, Any], name: str) -> list[str]:
    """Return the column names in the field ``name`` of a description.

    The field may be missing, one name, several separated by commas, or a list.
    """
    value = fields.get(name) or []
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UserError(
            f"{path}: field {name} is {quoted(value)}, expected names of columns"
        )
    return [column for text in texts for column in text.split(",")]


Row = Sequence[Any]
Attribute = tuple[str, str | list[str]]
"""Declaration of a column: its name, and its type or its categories."""

NUMERIC = ("NUMERIC", "REAL", "INTEGER")
"""Types of columns of numbers."""
_CELL_BYTES = 40.0
"""Memory of one number in the lists that the ARFF reader makes."""
_MISSING = (None, "?")
"""Missing values.

The ARFF reader reads a quoted question mark as text, but uploaders mean a missing one.
"""


def read_table(
    workspace: Workspace, dataset_id: int
) -> "tuple[pd.DataFrame, pd.Series[Any]]":
    """Return the features and the target of the data set ``dataset_id``.

    They are read from the raw files. Features are in the order of the file. A column of
    numbers is float64, with NaN for missing values. A categorical column has all
    categories that the header declares, in this order, also those that do not occur.

    Raises UserError if a file is missing, the description is invalid, or the table has
    another MD5 than its description says, is not ARFF, has no rows, lacks the target
    column, or has columns of free text or infinite numbers.
    """
    import pandas as pd

    description_path, path = (
        workspace.file(file.path) for file in raw_files(dataset_id)
    )
    description = read_description(description_path, dataset_id)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False))
    actual_md5 = digest.hexdigest()
    if actual_md5 != description.md5:
        raise UserError(
            f"{path} has MD5 {actual_md5}, expected {description.md5} as"
            " description.json beside it says: it is truncated or changed; remove it"
            " and fetch it again"
        )
    attributes, rows = _parsed(path)
    if not rows:
        raise UserError(f"{path} has no rows")
    names = [name for name, _ in attributes]
    if description.target not in names:
        absent = quoted(description.target)
        raise UserError(
            f"{path} has no column {absent}, the target; its columns: {quoted(names)}"
        )
    left_out = description.left_out - {description.target}
    columns = {
        name: _column(path, attributes[i], [row[i] for row in rows])
        for i, name in enumerate(names)
        if name not in left_out
    }
    table = pd.DataFrame(columns)
    return table, table.pop(description.target)


def _parsed(path: Path) -> tuple[list[Attribute], list[Row]]:
    """Return the declared columns and the rows of an ARFF file.

    Sparse rows are filled with zeros.
    """
    import arff

    try:
        text = cache.read_bytes(path).decode().replace("\r\n", "\n").replace("\r", "\n")
        starts = [line.strip()[:10].upper() for line in text.split("\n")]
        num_sparse_rows = sum(start.startswith("{") for start in starts)
        cells = starts.count("@ATTRIBUTE") * num_sparse_rows
        check_growth(path, 8 * cells, len(text), " as rows with all their zeros")
        cache.check_memory(
            _CELL_BYTES * max(cells, len(text) / 2),
            f"{path}: its table",
            "give a smaller table",
        )
        content = arff.loads(text)
    except (UserError, MemoryError):
        raise
    # The ARFF reader raises other exceptions than it documents.
    except Exception as error:
        reason = shorten(_reason(error))
        raise UserError(f"{path} is not a table in ARFF: {reason}") from error
    return content["attributes"], content["data"]


def _reason(error: Exception) -> str:
    """Return the text of an error of the ARFF reader.

    Such an error fails to print a text with a percent sign.
    """
    message = getattr(error, "message", None)
    if not message:
        return str(error)
    return str(message).replace("%d", str(getattr(error, "line", "?")), 1)


def _column(
    path: Path, attribute: Attribute, values: list[Any]
) -> "pd.Categorical | Array":
    """Return the values of one column: categories, or numbers as float64."""
    import pandas as pd

    name, kind = attribute
    if isinstance(kind, list):
        return pd.Categorical(
            [None if value in _MISSING else value for value in values],
            list(dict.fromkeys(kind)),
        )
    where = f"column {quoted(name)}"
    if kind.upper() not in NUMERIC:
        raise UserError(
            f"{path}: {where} is of type {kind}, expected categories or"
            f" {', '.join(NUMERIC)}"
        )
    numbers = np.array(
        [np.nan if value is None else value for value in values], dtype=np.float64
    )
    check_not_finite(path, where, np.where(np.isnan(numbers), 0.0, numbers))
    return numbers
