"""The store on a local server that speaks the protocol of S3."""

import itertools
import logging
import random
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import obstore
import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from orca_ray.cli.app import run
from orca_ray.errors import UserError
from orca_ray.results import faults
from orca_ray.results.folder import S3Folder
from orca_ray.results.parquet import ParquetPart
from orca_ray.results.record import Status
from orca_ray.results.store import ResultsStore
from tests.results.factories import make_point, make_record

moto = pytest.importorskip(
    "moto.server",
    reason="the S3 server is a development dependency: moto[s3], flask, flask-cors",
)
# The server and the S3 client start, and break off connections.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    threaded = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    threaded.start()
    host, port = threaded.get_host_and_port()
    address = f"{host}:{port}"
    files = pafs.S3FileSystem(
        access_key="key",
        secret_key="word",
        endpoint_override=address,
        scheme="http",
        allow_bucket_creation=True,
    )
    files.create_dir("bucket")
    yield address
    threaded.stop()


@pytest.fixture
def uri(server: str) -> str:
    options = f"endpoint_override={server}&scheme=http&region=us-east-1"
    return f"s3://key:word@bucket/{uuid.uuid4().hex}/results?{options}"


def test_rows_are_read_back_before_and_after_a_compaction(uri: str) -> None:
    with pytest.raises(UserError, match="no results at s3://bucket/"):
        ResultsStore(uri)
    store = ResultsStore(uri, create=True)
    assert store.records().empty
    lost = make_record("a", status=Status.LOST, test_score=None)
    records = {key: make_record(key, minutes=2) for key in "abc"}
    store.append([lost])
    for key, record in records.items():
        store.append([record], [make_point(key, 1), make_point(key, 2)])
    reopened = ResultsStore(store.uri)
    assert reopened.load("pocket/quick") == records
    assert len(reopened.curves()) == 6
    assert len(store.folder.names("records")) == 4
    assert reopened.compact() == 4 + 3
    assert len(store.folder.names("records")) == 1
    assert len(store.folder.names("curves")) == 1
    assert store.load("pocket/quick") == records
    assert len(store.curves(trial_key="b")) == 2
    assert store.compact() == 0


class Busy:
    """A stream whose reads fail: every third, or all from one read on.

    They fail as those of a busy object store do.
    """

    def __init__(self, stream: Any, reads: Iterator[int], lasting: bool) -> None:
        self._stream = stream
        self._reads = reads
        self._lasting = lasting

    def read_at(self, num_bytes: int, position: int) -> bytes:
        number = next(self._reads)
        if number % 3 == 1 or (self._lasting and number > 3):
            raise OSError("AWS Error SLOW_DOWN during GetObject: (HTTP status 503)")
        return bytes(self._stream.read_at(num_bytes, position))

    def __enter__(self) -> "Busy":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def read_buffer(self) -> Any:
        return pa.py_buffer(self.read_at(self._stream.size(), 0))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@pytest.mark.parametrize("small_bytes", [0, 2**22])
@pytest.mark.parametrize("lasting", [False, True])
def test_reads_of_a_busy_store_are_repeated(
    uri: str, small_bytes: int, lasting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orca_ray.results.store.SMALL_BYTES", small_bytes)
    monkeypatch.setattr(faults, "FIRST_PAUSE_SECONDS", 0.01)
    store = ResultsStore(uri, create=True)
    records = {key: make_record(key) for key in "abcdef"}
    for record in records.values():
        store.append([record], [make_point(record.trial_key, 1)])
    open_stream = S3Folder._open
    reads = itertools.count()

    def open_busy(folder: S3Folder, path: str) -> Busy:
        return Busy(open_stream(folder, path), reads, lasting)

    monkeypatch.setattr(S3Folder, "_open", open_busy)
    if lasting:
        message = r"cannot read s3://bucket/.*/results/.*503"
        with pytest.raises(UserError, match=message) as caught:
            ResultsStore(uri).load("pocket/quick")
        assert "damaged" not in str(caught.value)
    else:
        assert ResultsStore(uri).load("pocket/quick") == records
        assert len(ResultsStore(uri).curves()) == 6
        assert store.compact() == 12
        assert next(reads) > 20


_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Reduce the rate.</Message></Error>"


class BusyServer:
    """WSGI application before that of ``moto`` that answers a share with 503."""

    def __init__(self) -> None:
        self.share = 0.0
        self._answer = moto.DomainDispatcherApplication(moto.create_backend_app)
        self._random = random.Random(0)

    def __call__(self, request: Any, start: Callable[..., Any]) -> Any:
        if self._random.random() >= self.share:
            return self._answer(request, start)
        start("503 Slow Down", [("Content-Type", "application/xml")])
        return [] if request["REQUEST_METHOD"] == "HEAD" else [_SLOW_DOWN]


@pytest.fixture
def busy() -> Iterator[tuple[BusyServer, str]]:
    """Server, and the URI of a store on it."""
    from werkzeug.serving import make_server

    application = BusyServer()
    http = make_server("127.0.0.1", 0, application, threaded=True)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    address = f"127.0.0.1:{http.server_port}"
    options = f"endpoint_override={address}&scheme=http&region=us-east-1"
    pafs.FileSystem.from_uri(
        f"s3://key:word@bucket?{options}&allow_bucket_creation=true"
    )[0].create_dir("bucket")
    yield application, f"s3://key:word@bucket/results?{options}"
    http.shutdown()
    thread.join()
    http.server_close()


def test_a_server_that_refuses_a_third_of_requests_is_read(
    busy: tuple[BusyServer, str], capsys: pytest.CaptureFixture[str]
) -> None:
    server, uri = busy
    store = ResultsStore(uri, create=True)
    records = {key: make_record(key) for key in "abcdefgh"}
    for record in records.values():
        store.append([record])
    server.share = 0.3
    assert ResultsStore(uri).load("pocket/quick") == records
    assert run(["leaderboard", "pocket", "--results", uri]) == 0
    server.share = 1.0
    capsys.readouterr()
    assert run(["leaderboard", "pocket", "--results", uri]) == 75
    message = capsys.readouterr().err
    assert "cannot reach s3://bucket/results" in message
    assert "run the same command again later" in message
    assert "word" not in message


def test_files_that_a_compaction_deletes_while_they_are_read_are_listed_again(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Files are read piece by piece.
    monkeypatch.setattr("orca_ray.results.store.SMALL_BYTES", 0)
    store = ResultsStore(uri, create=True)
    for key in "abc":
        store.append([make_record(key)], [make_point(key, 1)])
    read = ParquetPart.read
    keys_to_come = ["d", "e"]

    def read_after_a_compaction(part: ParquetPart, *args: Any, **options: Any) -> Any:
        if keys_to_come:
            key = keys_to_come.pop()
            with monkeypatch.context() as patch:
                patch.setattr(ParquetPart, "read", read)
                ResultsStore(uri).append([make_record(key)])
                ResultsStore(uri).compact()
        return read(part, *args, **options)

    monkeypatch.setattr(ParquetPart, "read", read_after_a_compaction)
    assert sorted(store.load("pocket/quick")) == ["a", "b", "c", "d", "e"]
    keys_to_come.append("f")
    assert sorted(store.scan().values("sweep")) == ["pocket/quick"]
    assert not keys_to_come
    assert not store.scan().warnings


def test_a_small_file_is_written_in_one_request(
    uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = ResultsStore(uri, create=True).folder
    caplog.clear()
    with caplog.at_level(logging.INFO, "werkzeug"):
        folder.write("live/a.json", pa.py_buffer(b"{}"))
    requests = [
        record.getMessage() for record in caplog.records if record.name == "werkzeug"
    ]
    assert len(requests) == 1, requests
    assert bytes(folder.read("live/a.json")) == b"{}"


def test_a_large_upload_that_breaks_off_is_never_read(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder: Any = ResultsStore(uri, create=True).folder
    content = pa.py_buffer(bytes(12 * 2**20))
    broken = mock.Mock(wraps=folder._files)
    broken.move.side_effect = OSError("connection broken")
    broken.delete_file.side_effect = OSError("connection broken")
    with monkeypatch.context() as patch:  # a move is the last step of a write
        patch.setattr(folder, "_files", broken)
        message = r"cannot write s3://bucket/.*connection broken"
        with pytest.raises(UserError, match=message):
            folder.write("records/large", content)
    assert folder.names("records") == []
    names = folder.names("records", hidden=True)
    assert any(name.startswith(".tmp-") for name in names)
    folder.delete_temporary("records", -60)
    assert folder.names("records", hidden=True) == []
    folder.write("records/large", content)
    assert folder.read("records/large") == content


def test_a_prefix_of_something_else_is_refused(uri: str, server: str) -> None:
    store = ResultsStore(uri, create=True)
    above = uri.replace("/results?", "?")
    with pytest.raises(UserError, match="is not a results store"):
        ResultsStore(above, create=True)
    with pytest.raises(UserError, match="is a file, not a results store"):
        ResultsStore(uri.replace("/results?", "/results/orca-ray-results.json?"))
    assert store.records().empty


@pytest.mark.parametrize("in_uri", [True, False])
def test_conditional_writes_reach_an_endpoint_without_tls(
    server: str,
    in_uri: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    if not in_uri:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server}")
    options = f"?endpoint_override=http%3A%2F%2F{server}" if in_uri else ""
    folder = S3Folder(f"s3://key:word@bucket/{uuid.uuid4().hex}{options}")
    assert folder.write_new("live/a.json", pa.py_buffer(b"one"))
    assert not folder.write_new("live/a.json", pa.py_buffer(b"other"))
    assert "no conditional writes" not in caplog.text


ONE = pa.py_buffer(b"one")
OTHER = pa.py_buffer(b"other")


def test_a_file_is_created_once_by_a_conditional_write(
    uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = S3Folder(uri)
    assert folder.write_new("live/a.json", ONE)
    assert not folder.write_new("live/a.json", OTHER)
    assert folder.write_new("live/a.json", ONE), "as after a lost reply"
    # Another driver's file comes between the check and the write.
    monkeypatch.setattr(folder, "_is_absent", lambda path: True)
    assert not folder.write_new("live/a.json", OTHER)
    assert folder.read("live/a.json") == ONE
    assert "conditional" not in caplog.text


def test_without_conditional_writes_what_stays_in_the_end_counts(
    uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("orca_ray.results.folder._SETTLE_SECONDS", 0.01)
    put = obstore.put

    def put_always(store: Any, path: str, content: bytes, mode: str) -> None:
        put(store, path, content)

    monkeypatch.setattr(obstore, "put", put_always)
    folder = S3Folder(uri)
    for name in "bc":
        assert folder.write_new(f"live/{name}.json", ONE)
    warning = "no conditional writes (the server ignores If-None-Match)"
    assert caplog.text.count(warning) == 1
    assert "word" not in caplog.text


def test_after_an_error_the_file_of_another_driver_is_not_replaced(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = obstore.put

    def put_other_and_fail(store: Any, path: str, content: bytes, mode: str) -> None:
        put(store, path, b"other")
        raise obstore.exceptions.GenericError("503 Slow Down")

    monkeypatch.setattr(obstore, "put", put_other_and_fail)
    folder = S3Folder(uri)
    assert not folder.write_new("live/d.json", ONE)
    assert folder.read("live/d.json") == OTHER
