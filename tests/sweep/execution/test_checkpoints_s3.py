"""Checkpoints of a store on an S3 server, and data that nodes share there."""

from pathlib import Path

import pytest

from orca_ray.results.folder import open_folder
from orca_ray.sweep.worker import checkpoints
from orca_ray.sweep.worker.checkpoints import Checkpoints
from orca_ray.sweep.worker.staging.shared_folder import SharedFolder
from tests.results.test_s3 import server, uri  # noqa: F401 (fixtures)
from tests.sweep.execution.test_checkpoints import ENDED, KEY, OTHER, RUNNING, restored, writes

pytestmark = pytest.mark.slow


def test_checkpoints_on_s3_come_back_and_are_removed(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    store, state = Checkpoints(uri), b"weights" * 3_000_000  # several parts of an upload
    assert restored(store) is None
    store.save(KEY, RUNNING, writes(state))
    store.save_outcome(OTHER, ENDED)
    again = Checkpoints(uri)
    assert restored(again) == state
    assert again.outcome(OTHER) == ENDED
    monkeypatch.setattr(checkpoints, "SCHEMA", 99)
    assert restored(again) is None
    again.remove(KEY)
    assert open_folder(uri).names("checkpoints", hidden=True) == [f"{OTHER}.outcome"]


def test_files_are_shared_on_s3(uri: str, tmp_path: Path) -> None:  # noqa: F811
    shared = SharedFolder(uri)
    source = tmp_path / "here" / "prepared" / "task"
    source.mkdir(parents=True)
    for name in ("meta.json", "train_x.npy"):
        (source / name).write_text(name)
    (source / "empty.npy").touch()
    assert not shared.bring("prepared/task", tmp_path / "there", pytest.fail)
    shared.publish("prepared/task", tmp_path / "here", replace=False)
    assert shared.names("prepared") == ["task"]
    assert shared.bring("prepared/task", tmp_path / "there", pytest.fail)
    copied = tmp_path / "there" / "prepared" / "task"
    assert {path.name: path.read_text() for path in copied.iterdir()} == {
        "meta.json": "meta.json", "train_x.npy": "train_x.npy", "empty.npy": "",
    }  # fmt: skip
