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
from orca_ray.tasks.openml import _client
from orca_ray.tasks.openml.tables import TASKS
from tests.data.faulty_server import Fault, Server, serving
from tests.twins.openml import mock_of_iris

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
    _client.fetch(61, raw, told.append, server=server.url, patience=HASTY)
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
    fetcher = partial(_client.fetch, 61, server=server.url, patience=HASTY)
    replace(IRIS, files=_client.raw_files(61, server.url), fetcher=fetcher).fetch()
    assert _is_whole(tmp_path / "raw" / "openml")
    data = IRIS.prepare()
    assert (len(data.train), len(data.validation), len(data.test)) == (121, 14, 15)


@pytest.mark.parametrize(("path", "fault"), [(DESCRIPTION, Fault(status=503)), (TABLE, Fault(drop_after=99))])
def test_a_passing_fault_is_tried_again(server: Server, tmp_path: Path, path: str, fault: Fault) -> None:
    server.faults[path] = [fault, fault]
    _fetch(server, tmp_path)
    assert _is_whole(tmp_path)
    assert len(server.gets(path)) == 3


def test_a_table_that_is_not_the_published_one_is_not_kept(server: Server, tmp_path: Path) -> None:
    for path in (TABLE, MIRROR):
        server.faults[path] = [Fault(flip=99)] * 9
    told = r"md5 is \w{32} \(\d+ bytes\), expected is ad484452702105cbf3d30f8deaba39a9, the published one"
    with pytest.raises(UserError, match=told) as caught:
        _fetch(server, tmp_path)
    assert f"{server.url}/{TABLE}" in str(caught.value)
    assert not (tmp_path / "61" / "data.arff").exists()
    server.faults.clear()
    _fetch(server, tmp_path)
    assert _is_whole(tmp_path)


def test_where_the_announced_address_fails_the_file_is_asked_for_by_its_id(server: Server, tmp_path: Path) -> None:
    server.faults[TABLE] = [Fault(status=404)]
    _fetch(server, tmp_path)
    assert _asked(server) == [DESCRIPTION, TABLE, MIRROR]
    assert _is_whole(tmp_path)


def test_an_unknown_data_set_is_told(server: Server, tmp_path: Path) -> None:
    server.faults[DESCRIPTION] = [Fault(status=412)]
    with pytest.raises(UserError, match=r"61/description\.json cannot be fetched.*\n.*the server answered 412"):
        _fetch(server, tmp_path)
    assert _asked(server) == [DESCRIPTION]


def test_a_table_that_changed_on_the_disk_is_told(server: Server, tmp_path: Path) -> None:
    _fetch(server, tmp_path)
    (tmp_path / "61" / "data.arff").write_bytes(CONTENT.replace(b"5.1", b"5.2"))
    with pytest.raises(UserError, match=r"data\.arff is not the file that is expected: md5 is \w+"):
        _fetch(server, tmp_path)
    with pytest.raises(UserError, match=r"61/data\.arff is not the file that is expected: sha256 is .* pinned in"):
        verify(IRIS.files, tmp_path)
