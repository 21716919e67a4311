"""Download of OpenML tables: the description of a data set, then the table at the address that it gives.

Two requests are needed, which `orca_ray.data.fetch` makes: it resumes, retries, verifies and pins downloads.
scikit-learn's client does not resume or pin, and OpenML's own reads pickles from its cache by default.
"""

from collections.abc import Callable
from pathlib import Path

from orca_ray.data.download import Patience
from orca_ray.data.fetch import fetch as fetch_files
from orca_ray.data.raw import RawFile
from orca_ray.tasks.openml._description import Description, read_description
from orca_ray.tasks.openml._table import description_path, table_path

SERVER = "https://www.openml.org"

Progress = Callable[[str], None]
_PATIENCE = Patience()


def raw_files(dataset_id: int, server: str = SERVER) -> tuple[RawFile, RawFile]:
    """Return a data set's description and its table, whose address is in the description."""
    url = f"{server}/api/v1/json/data/{dataset_id}"
    answer = RawFile(path=description_path(dataset_id), urls=(url,), num_bytes=10_000)
    return answer, RawFile(path=table_path(dataset_id), made_by=f"orca-sweep data fetch openml/{dataset_id}")


def table_file(description: Description, server: str = SERVER) -> RawFile:
    """Return the table of a data set as a raw file with the MD5 of its description."""
    urls = (description.url, f"{server}/data/v1/download/{description.file_id}")
    return RawFile(path=table_path(description.dataset_id), urls=urls, md5=description.md5)


def fetch(
    dataset_id: int,
    raw: Path,
    progress: Progress | None = None,
    *,
    server: str = SERVER,
    patience: Patience = _PATIENCE,
) -> None:
    """Fetch the missing files of a data set into the raw directory; verify and pin them.

    Args:
        dataset_id: OpenML's id.
        raw: the raw directory of the benchmark.
        progress: called with one line for each event.
        server: scheme, host and port.
        patience: retries for a server that breaks off or is busy.

    Raises:
        UserError: as `orca_ray.data.fetch.fetch` does, or the description is not of a readable table.
    """
    answer, _ = raw_files(dataset_id, server)
    fetch_files((answer,), raw, progress, patience=patience)
    described = read_description(raw / answer.path, dataset_id)
    fetch_files((table_file(described, server),), raw, progress, patience=patience)
