"""Fetching from a server on loopback that gives OpenML's real answers about iris, sometimes badly."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from orca_ray.data.download import Patience
from orca_ray.data.fetch import verify
from orca_ray.data.raw import PINS
from orca_ray.errors import UserError
from orca_ray.tasks.openml import _table
from orca_ray.tasks.openml.tables import TASKS
from tests.data.faulty_server import Fault, Server, serving
from tests.raw_files.openml import mock_of_iris

IRIS = next(task for task in TASKS if task.name == "openml/61")
HASTY = Patience(tries=3, first_wait=0.01, longest_wait=0.02, connect_seconds=30, silence_seconds=30)
DESCRIPTION, TABLE, MIRROR = "api/v1/json/data/61", "data/v1/download/61/iris.arff", "data/v1/download/61"
CONTENT = mock_of_iris("data-v1-dl-61.arff.gz")


@pytest.fixture
def server() -> Iterator[Server]:
    """Serve the real description, with this server's address in it, and the table at both of its addresses."""
    with serving() as server:
        description = mock_of_iris("api-v1-jd-61.json.gz")
        server.add(DESCRIPTION, description.replace(b"https:\\/\\/www.openml.org", server.url.encode()))
        for path in (TABLE, MIRROR):
            server.add(path, CONTENT)
        yield server


def _fetch(server: Server, raw: Path) -> list[str]:
    told: list[str] = []
    _table.fetch(61, raw, told.append, server=server.url, patience=HASTY)
    return told


def _asked(server: Server) -> list[str]:
    return [request.path for request in server.log]


def _is_whole(raw: Path) -> bool:
    return (raw / "61" / "data.arff").read_bytes() == CONTENT


def test_a_data_set_is_fetched_once_verified_pinned_and_prepared(server: Server, tmp_path: Path) -> None:
    assert [file.urls for file in IRIS.files] == [("https://www.openml.org/api/v1/json/data/61",), ()]
    told = _fetch(server, tmp_path)
    assert _asked(server) == [DESCRIPTION, TABLE]
    assert any("fetching 61/data.arff" in line for line in told)
    assert _is_whole(tmp_path)
    pins = json.loads((tmp_path / PINS).read_text())["files"]
    assert set(pins) == {"61/description.json", "61/data.arff"}
    assert pins["61/data.arff"]["bytes"] == len(CONTENT)
    assert verify(IRIS.files, tmp_path).intact == ["61/data.arff", "61/description.json"]
    _fetch(server, tmp_path)
    assert _asked(server) == [DESCRIPTION, TABLE]


def test_the_task_fetches_into_its_raw_directory(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCA_RAY_HOME", str(tmp_path))
    fetcher = partial(_table.fetch, 61, server=server.url, patience=HASTY)
    replace(IRIS, files=_table.raw_files(61, server.url), fetcher=fetcher).fetch()
    assert _is_whole(tmp_path / "raw" / "openml")
    data = IRIS.prepare()
    assert (len(data.train), len(data.validation), len(data.test)) == (121, 14, 15)


@pytest.mark.parametrize("fault", [Fault(status=404), Fault(flip=99)])
def test_where_the_announced_address_fails_the_file_is_asked_for_by_its_id(
    fault: Fault, server: Server, tmp_path: Path
) -> None:
    server.faults[TABLE] = [fault] * 9
    _fetch(server, tmp_path)
    assert _asked(server)[-1] == MIRROR
    assert _is_whole(tmp_path)


def test_an_unknown_data_set_is_told(server: Server, tmp_path: Path) -> None:
    server.faults[DESCRIPTION] = [Fault(status=412)]
    with pytest.raises(UserError, match=r"61/description\.json cannot be fetched.*\n.*the server answered 412"):
        _fetch(server, tmp_path)
    assert _asked(server) == [DESCRIPTION]
