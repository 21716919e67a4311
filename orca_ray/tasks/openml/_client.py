"""Download of OpenML tables: ``<id>/description.json``, the server's description of a data set, and ``<id>/data.arff``.

The description gives the address and the MD5 of the table.

Two requests are needed, which `orca_ray.data.fetch` makes: it resumes, retries, verifies and pins downloads.
scikit-learn's client does not resume or pin, and OpenML's own reads pickles from its cache by default.
"""

from collections.abc import Callable
from pathlib import Path

from orca_ray.data.download import Patience
from orca_ray.data.fetch import fetch as fetch_files
from orca_ray.data.raw import RawFile
from orca_ray.tasks.openml._description import read_description

SERVER = "https://www.openml.org"

_PATIENCE = Patience()


def raw_files(dataset_id: int, server: str = SERVER) -> tuple[RawFile, RawFile]:
    """Return a data set's description and its table, whose address is in the description."""
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
    """Fetch the missing files of a data set from a server into the raw directory; verify and pin them.

    Raises UserError as `orca_ray.data.fetch.fetch` does, or if the description is not of a readable table.
    """
    description, table = raw_files(dataset_id, server)
    fetch_files((description,), raw, progress, patience=patience)
    described = read_description(raw / description.path, dataset_id)
    urls = (described.url, f"{server}/data/v1/download/{described.file_id}")
    fetch_files((RawFile(path=table.path, urls=urls, md5=described.md5),), raw, progress, patience=patience)
