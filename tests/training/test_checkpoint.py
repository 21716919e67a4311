"""Checkpoints: whole or not there."""

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from orca_ray.training import checkpoint

from .training_toys import files_of_at_most

SMALL = {"epoch": 3, "score": 0.1, "best": None, "names": ["x", "y"]}
WEIGHTS = {"a": torch.arange(1000, dtype=torch.float32), "b": torch.tensor(3, dtype=torch.int64)}
STATE: dict[str, Any] = {"weights": WEIGHTS, **SMALL}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Path of a checkpoint of `STATE`, in a directory of its own."""
    path = tmp_path / "deeper" / "trial.ckpt"
    checkpoint.save(path, STATE)
    return path


def assert_whole(path: Path) -> None:
    loaded = checkpoint.load(path)
    assert loaded is not None
    assert all(torch.equal(loaded["weights"][name], value) for name, value in WEIGHTS.items())
    assert {key: loaded[key] for key in SMALL} == SMALL
    assert os.listdir(path.parent) == ["trial.ckpt"]


def test_round_trip(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert_whole(path)
    assert checkpoint.load(path.parent / "none") is None
    assert not caplog.records


def test_every_damage_is_noticed(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = path.read_bytes()
    flips = range(0, len(content), 97)
    damaged = [content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] for at in flips]
    damaged += [content[:length] for length in (0, 3, 11, 12, 100, len(content) - 1)]
    damaged += [content + b"x", b"not a checkpoint at all"]
    with caplog.at_level(logging.WARNING):
        for number, wrong in enumerate(damaged):
            path.write_bytes(wrong)
            assert checkpoint.load(path) is None, number
    assert len(caplog.records) == len(damaged)
    assert "starting again" in caplog.text


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    checkpoint.save(tmp_path / "evil", {"a": Evil()})
    assert checkpoint.load(tmp_path / "evil") is None
    assert "cannot be decoded" in caplog.text
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("num_bytes", [5, 2000, 300_000])
def test_a_full_disk_is_an_os_error_and_keeps_the_previous_one(num_bytes: int, path: Path) -> None:
    """torch alone turns it into a RuntimeError about a position in its archive."""
    with files_of_at_most(num_bytes), pytest.raises(OSError, match="too large"):
        checkpoint.save(path, {**STATE, "large": torch.zeros(100_000)})
    assert_whole(path)


def test_interrupted_before_the_rename(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, {"epoch": 4})
    assert_whole(path)
