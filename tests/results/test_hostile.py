"""Damaged and hostile stores: a message that names file and row, never a traceback or a wrong leaderboard."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from orca_ray.errors import UserError
from orca_ray.results.folder import open_folder
from orca_ray.results.marker import MARKER
from orca_ray.results.record import Record, Status
from orca_ray.results.store import ResultsStore
from orca_ray.results.tables import RECORDS, encode, from_rows
from tests.results.factories import files_of, make_point, make_record


@pytest.fixture
def store(tmp_path: Path) -> ResultsStore:
    store = ResultsStore(tmp_path / "results", create=True)
    store.append([make_record("good")], [make_point()])
    return store


def _plant(store: ResultsStore, table: Any) -> Path:
    """Replace the records of a store by a table."""
    (path,) = files_of(store)
    path.write_bytes(encode(table))
    return path


def _rows(**changes: Any) -> Any:
    """Return records as a table whose second row is changed, whatever `Record` would say to it."""
    rows = [make_record("a").to_row(), make_record("b").to_row() | changes]
    return from_rows(rows, RECORDS)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"status": "excellent"}, "row 2 has status 'excellent'; allowed are completed, stopped_early"),
        ({"protocol": "\x1b[31mred"}, r"row 2 has protocol '\\x1b\[31mred'; allowed are held-out, paper"),
        ({"test_score": float("nan")}, "row 2 has test_score 'nan'; allowed are finite numbers"),
        ({"hyperparameters": "[" * 100_000}, r"row 2 has hyperparameters '\[{80}'; allowed are JSON objects"),
        ({"hyperparameters": "3"}, "row 2 has hyperparameters '3'; allowed are JSON objects"),
    ],
)
def test_an_invalid_row_is_named(store: ResultsStore, changes: dict[str, Any], told: str) -> None:
    path = _plant(store, _rows(**changes))
    for read in (store.records, lambda: store.load("pocket/quick"), ResultsStore(store.uri).records):
        with pytest.raises(UserError, match=f"{path} is damaged: {told}.*Move the file out of the directory"):
            read()


def test_a_failed_trial_keeps_its_odd_score(store: ResultsStore) -> None:
    _plant(store, _rows(status=Status.FAILED_NAN.value, test_score=float("nan")))
    assert len(store.records()) == 2


@pytest.mark.parametrize("microseconds", [-(2**62)])
def test_a_time_that_python_cannot_hold_is_named(store: ResultsStore, microseconds: int) -> None:
    table = _rows()
    index = table.schema.get_field_index("finished_at")
    times = pa.array([0, microseconds], pa.int64()).cast(table.schema.field(index).type)
    _plant(store, table.set_column(index, table.schema.field(index), times))
    with pytest.raises(UserError, match=r"row 2 has finished_at .*; allowed are times in the years 1 to 9999"):
        store.load("pocket/quick")


@pytest.mark.parametrize(
    ("column", "values", "told"),
    [
        ("seed", pa.array(["1", "2"]), "differs in the columns seed"),
        ("epochs", pa.array([[1], [2]]), "is truncated or damaged"),
        ("task", pa.array(["a", None]), "is truncated or damaged"),
        ("task", pa.array([b"a", b"\xff\xfe"]).view(pa.string()), "is truncated or damaged"),
    ],
)
def test_wrong_column_types_are_named(store: ResultsStore, column: str, values: Any, told: str) -> None:
    table = _rows()
    table = table.set_column(table.schema.get_field_index(column), column, values)
    path = _plant(store, table)
    with pytest.raises(UserError, match=f"{path} .*{told}"):
        store.records()


def test_a_large_file_is_not_read(store: ResultsStore) -> None:
    (path,) = files_of(store)
    os.truncate(path, 2**40)  # sparse
    with pytest.raises(UserError, match=rf"{path} has 1024\.0 GiB, more than the 1 GiB"):
        store.records()
    os.truncate(Path(store.uri) / MARKER, 2**21)
    with pytest.raises(UserError, match=f"{MARKER} has 2.0 MiB, more than the 1 MiB"):
        ResultsStore(store.uri)


@pytest.mark.parametrize("uri", ["file://%00", "file://elsewhere/results"])
def test_a_file_uri_of_another_host_is_refused(uri: str) -> None:
    with pytest.raises(UserError, match=r"names the host '.*give a path"):
        open_folder(uri)


@pytest.mark.parametrize("name", [MARKER, "records/x.parquet"])
def test_a_pipe_among_the_files_does_not_hang(store: ResultsStore, name: str) -> None:
    path = Path(store.uri) / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(UserError, match=f"{path}: expected a regular file, found a named pipe; remove it"):
        ResultsStore(store.uri).records()


@pytest.mark.parametrize("uri", ["/proc/self/results", "/dev/null"])
def test_system_paths_are_no_stores(uri: str) -> None:
    with pytest.raises(UserError, match=r"the results store .* is (inside|a) "):
        ResultsStore(uri, create=True)


def test_records_that_are_written_are_valid(store: ResultsStore) -> None:
    early, late = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
    store.append([make_record("early", started_at=early, finished_at=late)])
    assert store.load("pocket/quick")["early"].finished_at == late
    assert isinstance(store.load("pocket/quick")["good"], Record)
