"""Fetching from OpenML's public interface: what a data set is, then the table that the answer points to.

The two requests are the whole of the interface that is needed, so that downloads go the way of all others here: they
are continued, tried again, verified and pinned by `orca_ray.data.fetch`. Of the clients that there are, scikit-learn's
keeps the answers in a layout of its own and neither continues nor pins them, and OpenML's by default reads pickles from
its cache, which no file that a user names may hold.
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
    """Return the server's answer about a data set, and the table, whose address only that answer tells."""
    url = f"{server}/api/v1/json/data/{dataset_id}"
    answer = RawFile(path=description_path(dataset_id), urls=(url,), num_bytes=10_000)
    return answer, RawFile(path=table_path(dataset_id), made_by=f"orca-sweep data fetch openml/{dataset_id}")


def table_file(description: Description, server: str = SERVER) -> RawFile:
    """Return the table of a data set, as a file to fetch and to hold to the MD5 that the server names."""
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
    """Fetch what is not there of a data set into the raw directory; verify it, and pin its sizes and hashes.

    Args:
        dataset_id: OpenML's id.
        raw: the raw directory of the benchmark.
        progress: told what happens, a line a time.
        server: scheme, host and port.
        patience: with a server that breaks off or is busy.

    Raises:
        UserError: as `orca_ray.data.fetch.fetch` does, or the answer describes no table that can be read.
    """
    answer, _ = raw_files(dataset_id, server)
    fetch_files((answer,), raw, progress, patience=patience)
    described = read_description(raw / answer.path, dataset_id)
    fetch_files((table_file(described, server),), raw, progress, patience=patience)
