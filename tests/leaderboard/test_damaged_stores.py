"""Boards of damaged stores: what is left out is named and counted."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orca_ray.errors import UserError
from orca_ray.leaderboard import Board, build
from orca_ray.results import scan, store, tables
from orca_ray.results.parquet import encode
from orca_ray.results.record import Record, Status
from orca_ray.results.status import find_trial, sweep_status
from orca_ray.results.store import ResultsStore
from orca_ray.results.tables import RECORDS, from_rows
from tests.results.factories import files_of, make_point, make_record


@pytest.fixture
def good(tmp_path: Path) -> ResultsStore:
    """A store of two confirm trials, with scores 0.1 and 0.3."""
    store = ResultsStore(tmp_path / "results", create=True)
    store.append(
        [make_record("a", test_score=0.1), make_record("b", seed=1, test_score=0.3)],
        [make_point("a")],
    )
    return store


def plant(store: ResultsStore, *changes: dict[str, Any]) -> Path:
    """Add a file of confirm records with seed 2 and ``changes``.

    The changes may be such that `Record` would refuse them.
    """
    rows = [
        make_record(f"odd-{number}", seed=2, test_score=0.8).to_row() | changes_of_row
        for number, changes_of_row in enumerate(changes)
    ]
    path = files_of(store)[0].parent / "9-x.parquet"
    path.write_bytes(encode(from_rows(rows, RECORDS)))
    return path


def board(store: ResultsStore, **options: Any) -> Board:
    return build(ResultsStore(store.uri), benchmark="pocket", **options)


def is_good(board: Board) -> bool:
    """Whether a board shows the two good scores alone."""
    trials = sum(cell.provenance.trials for cell in board.cells.values())
    return board.scores["score"].tolist() == [0.1, 0.3] and trials == 2


def newer(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(
        table.append_column("a_later_column", pa.nulls(len(table), pa.string())), path
    )


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[60] ^= 1  # in the first column
    path.write_bytes(content)


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (torn, "left out: records/9-x.parquet is truncated or damaged"),
        (newer, "differs in the columns a_later_column"),
        (flipped, "9-x.parquet is truncated or damaged"),
    ],
)
def test_a_damaged_file_is_left_out(
    good: ResultsStore,
    damage: Callable[[Path], None],
    message: str,
    whole: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Files are read as a whole, or by row group."""
    monkeypatch.setattr(store, "SMALL_BYTES", 10**6 if whole else 0)
    damage(plant(good, *[{"trial_key": f"key {number}"} for number in range(100)]))
    good_board = board(good)
    assert is_good(good_board)
    (warning,) = good_board.warnings
    assert message in warning


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_score": float("nan")}, "test_score 'nan'; allowed are finite numbers"),
        ({"protocol": "\x1b[31m"}, r"protocol '\x1b[31m'; allowed are held-out, paper"),
        ({"hyperparameters": "[1]"}, "[1]"),
    ],
)
def test_an_invalid_value(
    good: ResultsStore, changes: dict[str, Any], message: str
) -> None:
    plant(good, changes, changes)
    shown_board = board(good)
    assert shown_board.scores["score"].tolist() == [0.1, 0.3]
    (warning,) = shown_board.warnings
    assert "2 record(s)" in warning
    assert message in warning


def test_a_key_twice(good: ResultsStore) -> None:
    good.append([make_record("a", seed=0, test_score=0.1, minutes=9)])
    good.append([make_record("b", status=Status.LOST, test_score=None, minutes=9)])
    equal = board(good)
    assert is_good(equal)
    assert equal.warnings == ()
    good.append([make_record("a", seed=0, test_score=0.2, minutes=0.5)])
    contradictory = board(good)
    assert is_good(contradictory)
    (warning,) = contradictory.warnings
    assert warning.startswith(
        "trial a of pocket/quick has records with different test scores, 0.1 to 0.2:"
        " the one that"
    )


def test_a_task_that_the_benchmark_does_not_have(good: ResultsStore) -> None:
    plant(good, {"task": "pocket/digit"}, {"task": "pocket/digit"})
    assert board(good).tasks == ("pocket/digit", "pocket/digits")
    of_known_tasks = board(good, known_tasks=["pocket/digits", "pocket/wdbc"])
    assert is_good(of_known_tasks)
    assert of_known_tasks.warnings == (
        "2 record(s) of the task 'pocket/digit', which pocket does not have, left out",
    )


def test_records_of_other_tasks_alone(good: ResultsStore) -> None:
    message = (
        r"all records of 'pocket' are of tasks that it does not have here:"
        r" 'pocket/digits'\. Install the plug-in"
    )
    with pytest.raises(UserError, match=message):
        board(good, known_tasks=["pocket/wdbc"])


def test_what_is_no_part_of_a_store_is_named_once(
    good: ResultsStore, caplog: pytest.LogCaptureFixture
) -> None:
    for place in ("foreign", "records/parts"):
        (Path(good.uri) / place).mkdir()
        (Path(good.uri) / place / "x.parquet").write_bytes(b"")
    (Path(good.uri) / "more.parquet").write_bytes(b"")
    (Path(good.uri) / "notes.md").write_text("mine")
    for _ in range(2):
        assert is_good(board(good))
    places = [
        message.removeprefix(f"{good.uri}/").partition(" is no part of")[0]
        for message in caplog.messages
    ]
    assert places == ["foreign", "more.parquet", "records/parts"]


def test_what_status_leaves_out_is_said(
    good: ResultsStore, caplog: pytest.LogCaptureFixture
) -> None:
    torn(plant(good, {}))
    assert sweep_status(good, "pocket/quick").done == 2
    assert find_trial(good, "a") == ("pocket/quick", "a")
    (message,) = caplog.messages
    assert message.startswith("left out: records/9-x.parquet is truncated or damaged")


def test_warnings_of_many_contradictory_trials_are_few(good: ResultsStore) -> None:
    keys = range(scan.MAX_WARNINGS + 5)
    for minute, score in ((1, 0.1), (2, 0.2)):
        good.append(
            [
                make_record(f"k{key}", seed=key, test_score=score, minutes=minute)
                for key in keys
            ]
        )
    warnings = board(good).warnings
    assert len(warnings) == scan.MAX_WARNINGS + 1
    assert warnings[-1] == "5 more trial(s) have records with different test scores"


def random_record(rng: np.random.Generator, sweep: str) -> Record:
    """Return a record with random values, whose key other records may have, too."""
    return make_record(
        f"{rng.integers(200):x}",
        task=rng.choice(["pocket/a", "pocket/b"]),
        method=rng.choice(["x", "y"]),
        phase=rng.choice(["search", "confirm"]),
        body=rng.choice(["one", "two"]),
        status=[Status.COMPLETED, Status.LOST][rng.integers(2)],
        seed=int(rng.integers(2)),
        metric_version=1,
        minutes=float(rng.random()),
        test_score=float(rng.random()),
        sweep=sweep,
    )


def test_reading_by_row_group_equals_reading_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    results = ResultsStore(tmp_path / "results", create=True)
    for sweep in ("s/0", "s/1", "s/0", "s/1"):
        records = [random_record(rng, sweep) for _ in range(150)]
        points = [
            make_point(record.trial_key, epoch)
            for record in records
            for epoch in (1, 2)
        ]
        results.append(records, points)
    expected = build(results, benchmark="pocket")
    expected_curves = results.curves(trial_key=["1a", "2b"])
    assert len(expected_curves)

    monkeypatch.setattr(store, "SMALL_BYTES", 0)
    small_tables = tuple(
        replace(table, file_rows=200, group_rows=32)
        for table in (RECORDS, tables.CURVES)
    )
    monkeypatch.setattr(store, "_TABLES", small_tables)
    assert results.compact() > 0
    assert len(files_of(results)) == 3
    by_row_group = build(ResultsStore(results.uri), benchmark="pocket")
    assert by_row_group.scores.equals(expected.scores)
    # Cells hold NaN, which equals nothing; repr distinguishes any two other floats.
    assert repr(by_row_group.cells) == repr(expected.cells)
    assert set(by_row_group.warnings) == set(expected.warnings)
    assert results.curves(trial_key=["1a", "2b"]).equals(expected_curves)
