"""Checkpoints and outcomes in a results store: versions, foreign files, deletion, and a disk that is nearly full."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from orca_ray.errors import UserError
from orca_ray.methods.reports import EpochProgress
from orca_ray.results.folder import open_folder
from orca_ray.results.record import Status
from orca_ray.sweep.run.messages import TrialReport
from orca_ray.sweep.worker import checkpoints
from orca_ray.sweep.worker.checkpoints import Checkpoints
from tests.results.test_s3 import server, uri  # noqa: F401 (fixtures)

KEY, OTHER = "0123456789abcdef0123", "f" * 20
POINT = EpochProgress(
    stage="refine", epoch=1, epochs=2, loss=1.0, validation_score=0.5, learning_rate=1e-3, seconds=0.1,
)  # fmt: skip
RUNNING = TrialReport(progress=(POINT,))
ENDED = TrialReport(progress=(POINT,), status=Status.COMPLETED)


def writes(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


def restored(store: Checkpoints, key: str = KEY) -> bytes | None:
    """Return the state, or None if there is none."""
    found: list[bytes] = []

    def read(path: Path) -> bool:
        found.append(path.read_bytes())
        return True

    return found[0] if store.restore(key, read) == RUNNING else None


@pytest.mark.parametrize("place", ["a directory", pytest.param("S3", marks=pytest.mark.slow)])
def test_state_and_outcome_come_back(tmp_path: Path, place: str, request: pytest.FixtureRequest) -> None:
    where = str(tmp_path) if place == "a directory" else request.getfixturevalue("uri")
    store, state = Checkpoints(where), b"weights\n" * 3_000_000  # several parts of an upload
    assert restored(store) is None
    assert store.outcome(KEY) is None
    store.save(KEY, RUNNING, writes(state))
    store.save_outcome(OTHER, ENDED)
    again = Checkpoints(where)
    assert restored(again) == state
    assert again.outcome(OTHER) == ENDED
    assert again.restore(KEY, lambda path: False) is None, "a state that is not accepted counts as missing"
    again.remove(KEY)
    assert open_folder(where).names("checkpoints", hidden=True) == [f"{OTHER}.outcome"]


def test_files_of_another_version_or_trial_are_never_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Checkpoints(tmp_path)
    store.save(KEY, RUNNING, writes(b"weights"))
    store.save_outcome(KEY, ENDED)
    for name, value in {"__version__": "99.0", "SCHEMA": 99}.items():
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, name, value)
            assert (restored(store), store.outcome(KEY)) == (None, None), name
    files = {path: path.read_bytes() for path in (tmp_path / "checkpoints").iterdir()}
    for path, content in files.items():
        path.with_stem(OTHER).write_bytes(content)
    assert (restored(store, OTHER), store.outcome(OTHER)) == (None, None), "files of another trial"
    for length, end in ((50, b""), (0, b"[1]\n")):  # torn files, and foreign ones
        for path, content in files.items():
            path.write_bytes(content[:length] + end)
        assert (restored(store), store.outcome(KEY)) == (None, None), length


def test_removing_takes_all_files_of_a_trial_and_no_others(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    store.remove(KEY)  # there is no directory yet
    for key in (KEY, OTHER):
        store.save(key, RUNNING, writes(b"weights"))
        store.save_outcome(key, ENDED)
    directory = tmp_path / "checkpoints"
    for name in (f"{KEY}.pt", f"{KEY}.curve.json", f".tmp-{'0' * 32}-{KEY}.state"):  # of earlier versions, of a kill
        (directory / name).touch()
    store.remove(KEY)
    store.remove_directory()
    assert sorted(path.name for path in directory.iterdir()) == [f"{OTHER}.outcome", f"{OTHER}.state"]
    store.remove(KEY, OTHER)
    store.remove_directory()
    assert not directory.exists()


def test_a_disk_that_is_nearly_full_keeps_room_for_records_and_the_states_that_running_trials_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Checkpoints(tmp_path)
    keys = [f"{number:020x}" for number in range(4)]
    for key in keys:
        store.save(key, RUNNING, writes(b"weights"))
    store.save_outcome(keys[1], ENDED)
    directory = tmp_path / "checkpoints"
    os.utime(directory / f"{keys[2]}.state", (0, 0))
    usage, found = shutil.disk_usage(tmp_path), iter([2**31 - 1] * 3)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=next(found, 2**40)))
    with pytest.raises(UserError, match=r"2\.0 GiB free, less than the 2 GiB that are kept for records"):
        store.save(keys[3], RUNNING, writes(b"new"))
    assert sorted(path.name for path in directory.glob("*.state")) == [f"{keys[0]}.state", f"{keys[3]}.state"]
    assert restored(store, keys[3]) == b"weights"
    store.save(keys[3], RUNNING, writes(b"new"))
    assert restored(store, keys[3]) == b"new"
