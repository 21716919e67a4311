"""Damaged and hostile stores, and file systems that fail.

Messages name file and row, but no credential.
"""

import errno
import itertools
import logging
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest

from orca_ray.errors import UserError
from orca_ray.paths import public_uri, secrets_in
from orca_ray.results import faults, parquet
from orca_ray.results.artefacts import MAX_BYTES, ArtefactRow
from orca_ray.results.faults import call_with_retries, explain_errors, is_temporary
from orca_ray.results.folder import LocalFolder, open_folder
from orca_ray.results.marker import MARKER
from orca_ray.results.parquet import encode
from orca_ray.results.store import ResultsStore, check_writable
from orca_ray.results.tables import (
    ARTEFACTS,
    JOURNAL,
    RECORDS,
    Table,
    from_rows,
)
from orca_ray.sweep.executors import make_executor
from orca_ray.sweep.run.driver import run_sweep
from tests.results.factories import files_of, make_point, make_record, make_suggestion


@pytest.fixture
def store(tmp_path: Path) -> ResultsStore:
    store = ResultsStore(tmp_path / "results", create=True)
    store.append([make_record("good")], [make_point()])
    return store


def _plant(store: ResultsStore, table: Any) -> Path:
    """Replace the records of a store by a file whose name has no checksum."""
    (old,) = files_of(store)
    path = old.rename(old.with_name("planted.parquet"))
    path.write_bytes(encode(table))
    return path


TWO = from_rows([make_record("a").to_row(), make_record("b").to_row()], RECORDS)
TIME = TWO.schema.field("finished_at").type
GOOD = {
    RECORDS.directory: make_record().to_row(),
    JOURNAL.directory: make_suggestion().to_row(),
    ARTEFACTS.directory: (
        ArtefactRow("pocket/quick", "k0", "field", "first", "{}").to_row()
    ),
}


@pytest.mark.parametrize(
    ("table", "changes", "message"),
    [
        (
            RECORDS,
            {"status": "excellent"},
            "status 'excellent'; allowed are completed, stopped_early",
        ),
        (
            RECORDS,
            {"protocol": "\x1b[31mred"},
            r"protocol '\\x1b\[31mred'; allowed are held-out, paper",
        ),
        (
            RECORDS,
            {"test_score": float("nan")},
            "test_score 'nan'; allowed are finite numbers",
        ),
        (
            RECORDS,
            {"hyperparameters": "[" * 100_000},
            r"hyperparameters '\[{80}'; allowed are JSON objects",
        ),
        (JOURNAL, {"number": -1}, "number '-1'; allowed are integers from 0 on"),
        (JOURNAL, {"values": "[1]"}, r"values '\[1\]'; allowed are JSON objects"),
        (JOURNAL, {"known": "{}"}, "known '{}'; allowed are JSON lists of ranges"),
        (JOURNAL, {"known": "[" * 90_000}, r"known '\[+'; allowed"),
        (
            ARTEFACTS,
            {"payload": "x" * (MAX_BYTES + 1)},
            f"payload .* at most {MAX_BYTES} bytes",
        ),
    ],
)
def test_an_invalid_row_is_named(
    store: ResultsStore, table: Table, changes: dict[str, Any], message: str
) -> None:
    good = GOOD[table.directory]
    path = Path(store.uri) / table.directory / f"{1:020d}-a.parquet"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(encode(from_rows([good, good | changes], table)))
    reopened = ResultsStore(store.uri)
    readers: dict[str, list[Callable[[], object]]] = {
        "records": [
            store.records,
            lambda: store.load("pocket/quick"),
            reopened.records,
        ],
        "journal": [lambda: store.journal("pocket/quick")],
        "artefacts": [store.artefacts],
    }
    for read in readers[table.directory]:
        with pytest.raises(
            UserError,
            match=f"{path} is damaged: row 2 has {message}.*Move the file out of the",
        ):
            read()


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("seed", pa.array(["1", "2"]), "differs in the columns seed"),
        ("colour", pa.array(["red", "blue"]), "differs in the columns colour"),
        ("epochs", pa.array([[1], [2]]), "is truncated or damaged"),
        ("task", pa.array(["a", None]), "is truncated or damaged"),
        (
            "task",
            pa.array([b"a", b"\xff\xfe"]).view(pa.string()),
            "is truncated or damaged",
        ),
        (
            "finished_at",
            pa.array([0, -(2**62)]).cast(TIME),
            "row 2 has finished_at .*; allowed are times in the years",
        ),
    ],
)
def test_wrong_column_types_are_named(
    store: ResultsStore, column: str, values: Any, message: str
) -> None:
    if column in TWO.column_names:
        place = TWO.schema.get_field_index(column)
        table = TWO.set_column(place, column, values)
    else:
        table = TWO.append_column(column, values)
    path = _plant(store, table)
    with pytest.raises(UserError, match=f"{path} .*{message}"):
        store.records()


@pytest.mark.parametrize(("rows", "text"), [(100_000, "x"), (200, "x" * 100_000)])
def test_what_would_expand_far_is_not_read(
    store: ResultsStore, monkeypatch: pytest.MonkeyPatch, rows: int, text: str
) -> None:
    """Equal rows and long equal texts take a few KB in Parquet, and much memory."""
    row = from_rows([make_record(error=text).to_row()], RECORDS)
    path = _plant(store, row.take(pa.array(np.zeros(rows, np.int64))))
    assert path.stat().st_size < 500_000
    monkeypatch.setattr(parquet, "MAX_TABLE_BYTES", 10_000_000)
    with pytest.raises(
        UserError, match=f"{path} holds {rows} rows, which take .* GiB of memory"
    ):
        store.records()


def test_a_large_file_is_not_read(store: ResultsStore) -> None:
    (path,) = files_of(store)
    os.truncate(path, 2**40)  # sparse
    with pytest.raises(
        UserError, match=rf"{path} has 1024\.0 GiB, more than the 1 GiB"
    ):
        store.records()
    os.truncate(Path(store.uri) / MARKER, 2**21)
    with pytest.raises(UserError, match=f"{MARKER} has 2.0 MiB, more than the 1 MiB"):
        ResultsStore(store.uri)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("file://%00", "names the host '.*give a path"),
        ("file://elsewhere/results", "names the host '.*give a path"),
        ("/proc/self/results", "the results store .* is inside /proc"),
        ("/dev/null", "the results store .* is inside /dev"),
    ],
)
def test_hosts_and_system_paths_are_no_stores(uri: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ResultsStore(uri, create=True)


@pytest.mark.parametrize("name", [MARKER, "records/x.parquet"])
def test_a_pipe_among_the_files_does_not_hang(store: ResultsStore, name: str) -> None:
    path = Path(store.uri) / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(
        UserError,
        match=f"{path}: expected a regular file, found a named pipe; remove it",
    ):
        ResultsStore(store.uri).records()


def test_a_store_that_cannot_be_written_ends_a_sweep_before_data_are_prepared(
    store: ResultsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(Path(store.uri).iterdir())
    check_writable(store)
    check_writable(f"{store.uri}-missing")
    assert sorted(Path(store.uri).iterdir()) == before
    monkeypatch.setattr(
        LocalFolder,
        "_write",
        mock.Mock(side_effect=OSError(errno.EROFS, "Read-only file system")),
    )
    for results in (store, store.uri):
        with pytest.raises(
            UserError, match=f"cannot write {store.uri}.*Read-only file system"
        ):
            run_sweep(mock.Mock(), results, executor=make_executor("ray"))


PASSING = [
    OSError(
        "When uploading part: AWS Error NETWORK_CONNECTION during PutObject: curlCode:"
        " 28, Timeout was reached"
    ),
    OSError(
        "AWS Error SLOW_DOWN during GetObject operation: Please reduce your request"
        " rate."
    ),
    OSError(
        "AWS Error UNKNOWN (HTTP status 503) during ListObjectsV2 operation: No"
        " response body."
    ),
    OSError(
        "AWS Error INTERNAL_FAILURE during PutObject operation: We encountered an"
        " internal error"
    ),
    OSError("google::cloud::Status(UNAVAILABLE: Retry policy exhausted)"),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    OSError(errno.ETIMEDOUT, "Connection timed out"),
]
LASTING = [
    OSError("AWS Error ACCESS_DENIED during PutObject operation: Access Denied."),
    OSError(
        "AWS Error NO_SUCH_BUCKET during PutObject operation: The specified bucket does"
        " not exist (HTTP 404)"
    ),
    OSError("AWS Error INVALID_ACCESS_KEY_ID during HeadObject: connection closed"),
    OSError(
        "AWS Error UNKNOWN (HTTP status 400) during HeadObject operation: No response"
        " body."
    ),
    OSError(errno.ENOSPC, "No space left on device"),
    FileNotFoundError("gone"),
]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "FIRST_PAUSE_SECONDS", 0.0001)


@pytest.mark.parametrize("error", PASSING)
def test_an_error_may_pass(error: OSError) -> None:
    assert is_temporary(error)


@pytest.mark.parametrize("error", LASTING)
def test_an_error_lasts(error: OSError) -> None:
    assert not is_temporary(error)


def test_an_error_that_passes_is_not_seen() -> None:
    errors = itertools.islice(itertools.cycle(PASSING), faults.ATTEMPTS - 1)
    flaky = mock.Mock(side_effect=[*errors, 7])
    assert call_with_retries(flaky, "s3://bucket") == 7
    assert flaky.call_count == faults.ATTEMPTS


def test_a_failure_of_one_folder_makes_others_of_its_place_impatient(
    tmp_path: Path,
) -> None:
    first = ResultsStore(tmp_path / "results", create=True).folder
    second = ResultsStore(tmp_path / "results", create=True).folder
    broken = mock.Mock(side_effect=PASSING[0])
    with pytest.raises(UserError):
        first._try("write", "one", broken)
    assert broken.call_count == faults.ATTEMPTS
    with pytest.raises(UserError):
        second._try("write", "one", broken)
    assert broken.call_count == faults.ATTEMPTS + 1


SECRET = "pa55/w+rd"
URIS = [
    f"s3://AKIA:{SECRET}@bucket/run?region=eu-west-1&endpoint_override=127.0.0.1:9000&scheme=http",
    "s3://AKIA:pa55%2Fw%2Brd@bucket/run?region=eu-west-1",
    f"s3://bucket/run?access_key=AKIA&secret_key={SECRET}&session_token={SECRET}&region=eu-west-1",
    "s3://bucket/run?secret_key=pa55%2Fw%2Brd",
    f"hdfs://someone:{SECRET}@bucket:8020/run",
    f"gs://AKIA:{SECRET}@bucket/run?endpoint_override=http://AKIA:{SECRET}@127.0.0.1:1",
]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", "?retry_limit_seconds={}"),
        ("?scheme=http", "?scheme=http&retry_limit_seconds={}"),
        ("?retry_limit_seconds=3", "?retry_limit_seconds=3"),
    ],
)
def test_requests_to_google_are_not_repeated_for_minutes(
    options: str, expected: str
) -> None:
    uri = f"gs://anonymous@bucket/run{options}"
    folder = open_folder(uri)
    assert folder.uri == f"gs://anonymous@bucket/run{expected.format(15)}"


def test_options_of_a_printed_uri_stay() -> None:
    assert (
        public_uri(URIS[0])
        == "s3://bucket/run?region=eu-west-1&endpoint_override=127.0.0.1:9000&scheme=http"
    )
    assert public_uri("/some/where") == "/some/where"
    assert public_uri("s3://bucket/a@b") == "s3://bucket/a@b"


@pytest.mark.parametrize("uri", URIS)
def test_the_text_of_an_error_holds_no_credential_nor_does_its_traceback(
    uri: str,
) -> None:
    with (
        pytest.raises(UserError) as caught,
        explain_errors("open", public_uri(uri), secrets_in(uri)),
    ):
        raise OSError(f"Cannot parse URI: '{uri}'")
    text = "".join(traceback.format_exception(caught.value))
    assert "cannot open" in text
    assert "pa55" not in text
    for name in (public_uri(uri), public_uri(uri, options=False)):
        assert "pa55" not in name
        assert "AKIA" not in name
        assert "bucket" in name
        assert "/run" in name


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://AKIA:{SECRET}@bucket/run?no_such_option=1",
        f"s3://bucket/run?access_key=AKIA&no_such_option={SECRET}",
        f"s4://AKIA:{SECRET}@bucket/run",
        f"file://someone:{SECRET}@host/run",
        "s3://AKIA:pa55%2Fw@bucket[/run",
        "s3://AKIA:pa55%2Fw@ⓗost℀/run",
    ],
)
def test_a_uri_that_cannot_be_opened_is_named_without_credentials(
    uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(UserError) as caught:
        open_folder(uri)
    text = "".join(traceback.format_exception(caught.value))
    assert "pa55" not in text.replace(f"open_folder({uri!r})", "")
    assert "pa55" not in caplog.text
