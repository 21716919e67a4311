"""Downloads a data set of OpenML: its description, ``<id>/description.json``, and its table, ``<id>/data.arff``.

The description is the server's unchanged answer to ``/api/v1/json/data/<id>``. It has the URL and the MD5 of the table.
Both files are downloaded by `orca_ray.data.fetch`, which resumes, retries, and compares hashes with recorded ones.
scikit-learn's client does not resume or record hashes, and OpenML's own client by default reads pickles from its cache.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orca_ray.data.cache import read_json
from orca_ray.data.download import Patience
from orca_ray.data.fetch import fetch as fetch_files
from orca_ray.data.raw import RawFile
from orca_ray.errors import UserError, quoted

SERVER = "https://www.openml.org"
_PATIENCE = Patience()
_FORMATS = r"(?i)arff|sparse_arff"  # the same reader reads both


def raw_files(dataset_id: int, server: str = SERVER) -> tuple[RawFile, RawFile]:
    """Return the raw files of a data set: its description, and its table, whose URL is given in the description."""
    url = f"{server}/api/v1/json/data/{dataset_id}"
    description = RawFile(path=f"{dataset_id}/description.json", urls=(url,), num_bytes=10_000)
    return description, RawFile(path=f"{dataset_id}/data.arff", made_by=f"orca-sweep data fetch openml/{dataset_id}")


def fetch(
    dataset_id: int,
    raw: Path,
    progress: Callable[[str], None] | None = None,
    *,
    server: str = SERVER,
    patience: Patience = _PATIENCE,
) -> None:
    """Download the missing files of a data set into the directory ``raw``; verify and record hashes of both files.

    Raises UserError as `orca_ray.data.fetch.fetch` does, and as `read_description` does.
    """
    description, table = raw_files(dataset_id, server)
    fetch_files((description,), raw, progress, patience=patience)
    described = read_description(raw / description.path, dataset_id)
    urls = (described.url, f"{server}/data/v1/download/{described.file_id}")
    fetch_files((RawFile(path=table.path, urls=urls, md5=described.md5),), raw, progress, patience=patience)


@dataclass(frozen=True)
class Description:
    """Fields of a description that are needed to download and to read the table: its URL, id on the server, MD5, …."""

    url: str
    file_id: str
    md5: str
    target: str
    """Name of the column to predict."""
    left_out: frozenset[str]
    """Names of columns that are not features: row ids, and columns that the uploader marked as to be ignored."""


def read_description(path: Path, dataset_id: int) -> Description:
    """Read the description at ``path``, which must be that of the data set ``dataset_id``.

    Raises UserError if the file is not JSON, is an error message of the server, belongs to another data set, lacks a
    field, or describes a table that is not ARFF.
    """
    fields = _fields(path)
    _text(path, fields, "format", _FORMATS)
    if (found := _text(path, fields, "id", r"[0-9]+")) != str(dataset_id):
        raise UserError(f"{path} describes data set {found}, expected {dataset_id}; fetch it again")
    return Description(
        url=_text(path, fields, "url", r"https?://.+"),
        file_id=_text(path, fields, "file_id", r"[0-9]+"),
        md5=_text(path, fields, "md5_checksum", r"[0-9a-fA-F]{32}").lower(),
        # This field is used as in ORCA's code, although the server's list of features may name another target.
        target=_text(path, fields, "default_target_attribute", r"[^,]+"),
        left_out=frozenset(_names(path, fields, "row_id_attribute") + _names(path, fields, "ignore_attribute")),
    )


def _fields(path: Path) -> Mapping[str, Any]:
    try:
        content = read_json(path)
    except UserError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise UserError(f"{path} is not the JSON that OpenML answers with: {reason}; fetch it again") from error
    fields = content.get("data_set_description")
    if not isinstance(fields, dict):
        reason = quoted(content)
        raise UserError(f"{path} holds no field data_set_description, but {reason}; fetch it again")
    return fields


def _text(path: Path, fields: Mapping[str, Any], name: str, allowed: str) -> str:
    found = fields.get(name)
    text = quoted(found) if isinstance(found, int) else found  # the server sends ids as text, but may send numbers
    if not isinstance(text, str) or not re.fullmatch(allowed, text):
        raise UserError(f"{path}: field {name} is {quoted(found)}, expected text that matches {allowed!r}")
    return text


def _names(path: Path, fields: Mapping[str, Any], name: str) -> list[str]:
    """Return the column names in the field ``name``: missing, one name, several separated by commas, or a list."""
    found = fields.get(name) or []
    given = [found] if isinstance(found, str) else found
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        raise UserError(f"{path}: field {name} is {quoted(found)}, expected names of columns")
    return [column for each in given for column in each.split(",")]
