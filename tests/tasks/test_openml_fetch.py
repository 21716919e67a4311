"""Fetching from a server on loopback that gives OpenML's real answers about iris, sometimes badly."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from orca_ray.data.download import Patience
from orca_ray.data.fetch import verify
from orca_ray.data.raw import PINS
from orca_ray.errors import UserError
from orca_ray.tasks.openml import _client
from orca_ray.tasks.openml.tables import TASKS
from tests.twins.openml import mock_of_iris

IRIS = next(task for task in TASKS if task.name == "openml/61")
HASTY = Patience(tries=3, first_wait=0.01, longest_wait=0.02, connect_seconds=30, silence_seconds=30)


@dataclass
class Answers:
    """What the server does; faults by path are used up one a request."""

    faults: dict[str, list[str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    address: str = ""

    @property
    def description(self) -> bytes:
        """The real one, with this server's address in it."""
        return mock_of_iris("api-v1-jd-61.json.gz").replace(b"https:\\/\\/www.openml.org", self.address.encode())

    @property
    def contents(self) -> dict[str, tuple[str, bytes]]:
        table = ("text/plain", mock_of_iris("data-v1-dl-61.arff.gz"))
        return {
            "/api/v1/json/data/61": ("application/json; charset=utf-8", self.description),
            "/data/v1/download/61/iris.arff": table,
            "/data/v1/download/61": table,
        }


DESCRIPTION, TABLE, MIRROR = "/api/v1/json/data/61", "/data/v1/download/61/iris.arff", "/data/v1/download/61"


def _handler(answers: Answers) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers.asked.append(self.path)
            faults = answers.faults.get(self.path, [])
            fault = faults.pop(0) if faults else ""
            status, kind, content = 200, *answers.contents[self.path]
            body = {"cut": content[: len(content) // 2], "changed": b"%" + content[:-1]}.get(fault, content)
            if fault.isdecimal():
                status, kind = int(fault), "application/json"
                body = content = b'{"error":{"code":"111","message":"Unknown dataset"}}'
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    return Handler


@pytest.fixture
def answers() -> Iterator[Answers]:
    given = Answers()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(given))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    given.address = f"http://127.0.0.1:{server.server_port}"
    yield given
    server.shutdown()
    server.server_close()
    thread.join()


def _fetch(answers: Answers, raw: Path) -> list[str]:
    told: list[str] = []
    _client.fetch(61, raw, told.append, server=answers.address, patience=HASTY)
    return told


def _is_whole(raw: Path) -> bool:
    return (raw / "61" / "data.arff").read_bytes() == mock_of_iris("data-v1-dl-61.arff.gz")


def test_a_data_set_is_fetched_once_verified_pinned_and_prepared(answers: Answers, tmp_path: Path) -> None:
    assert [file.urls for file in IRIS.files] == [("https://www.openml.org/api/v1/json/data/61",), ()]
    told = _fetch(answers, tmp_path)
    assert answers.asked == [DESCRIPTION, TABLE]
    assert any("fetching 61/data.arff" in line for line in told)
    assert _is_whole(tmp_path)
    pins = json.loads((tmp_path / PINS).read_text())["files"]
    assert set(pins) == {"61/description.json", "61/data.arff"}
    assert pins["61/data.arff"]["bytes"] == (tmp_path / "61" / "data.arff").stat().st_size
    assert verify(IRIS.files, tmp_path).intact == ["61/data.arff", "61/description.json"]
    data = IRIS.prepare(raw=tmp_path, out=tmp_path / "out")
    assert (len(data.train), len(data.validation), len(data.test)) == (121, 14, 15)
    assert data.train.x.shape == (121, 1, 4)
    _fetch(answers, tmp_path)
    assert answers.asked == [DESCRIPTION, TABLE]


def test_the_task_fetches_into_its_raw_directory(
    answers: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCA_RAY_HOME", str(tmp_path))
    fetcher = partial(_client.fetch, 61, server=answers.address, patience=HASTY)
    replace(IRIS, files=_client.raw_files(61, answers.address), fetcher=fetcher).fetch()
    assert _is_whole(tmp_path / "raw" / "openml")
    assert len(IRIS.prepare().test) == 15


@pytest.mark.parametrize(("path", "fault"), [(DESCRIPTION, "503"), (TABLE, "cut"), (TABLE, "429")])
def test_a_passing_fault_is_tried_again(answers: Answers, tmp_path: Path, path: str, fault: str) -> None:
    answers.faults[path] = [fault, fault]
    _fetch(answers, tmp_path)
    assert _is_whole(tmp_path)
    assert answers.asked.count(path) == 3


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("503", r"the server answered 503"),
        ("cut", r"the connection broke off after \d+ of 4551 bytes|\d+ bytes came, 4551 were announced"),
        ("changed", r"md5 is \w{32} \(\d+ bytes\), expected is ad484452702105cbf3d30f8deaba39a9, the published one"),
    ],
)
def test_a_lasting_fault_leaves_no_table(answers: Answers, tmp_path: Path, fault: str, told: str) -> None:
    told = told.replace("4551", str(len(mock_of_iris("data-v1-dl-61.arff.gz"))))
    answers.faults = {TABLE: [fault] * 9, MIRROR: [fault] * 9}
    with pytest.raises(UserError, match=told) as caught:
        _fetch(answers, tmp_path)
    assert f"{answers.address}{TABLE}" in str(caught.value)
    assert not (tmp_path / "61" / "data.arff").exists()
    answers.faults.clear()
    _fetch(answers, tmp_path)
    assert _is_whole(tmp_path)


def test_where_the_announced_address_fails_the_file_is_asked_for_by_its_id(answers: Answers, tmp_path: Path) -> None:
    answers.faults[TABLE] = ["404"]
    _fetch(answers, tmp_path)
    assert answers.asked == [DESCRIPTION, TABLE, MIRROR]
    assert _is_whole(tmp_path)


def test_an_unknown_data_set_is_told(answers: Answers, tmp_path: Path) -> None:
    answers.faults[DESCRIPTION] = ["412"]
    with pytest.raises(UserError, match=r"61/description\.json cannot be fetched.*\n.*the server answered 412"):
        _fetch(answers, tmp_path)
    assert answers.asked == [DESCRIPTION]


def test_a_table_that_changed_on_the_disk_is_told(answers: Answers, tmp_path: Path) -> None:
    _fetch(answers, tmp_path)
    path = tmp_path / "61" / "data.arff"
    path.write_bytes(path.read_bytes().replace(b"5.1", b"5.2"))
    with pytest.raises(UserError, match=r"data\.arff is not the file that is expected: md5 is \w+"):
        _fetch(answers, tmp_path)
    with pytest.raises(UserError, match=r"61/data\.arff is not the file that is expected: sha256 is .* pinned in"):
        verify(IRIS.files, tmp_path)
