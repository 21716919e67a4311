"""Checkpoints: whole or not there."""

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from orca_ray.training import checkpoint

from .training_toys import files_of_at_most


@pytest.fixture
def state() -> dict[str, Any]:
    return {
        "weights": {"a": torch.arange(1000, dtype=torch.float32), "b": torch.tensor(3, dtype=torch.int64)},
        "epoch": 3,
        "score": 0.1,
        "best": None,
        "names": ["x", "y"],
    }


def test_round_trip(tmp_path: Path, state: dict[str, Any]) -> None:
    path = tmp_path / "deeper" / "trial.ckpt"
    checkpoint.save(path, state)
    loaded = checkpoint.load(path)
    assert loaded is not None
    assert torch.equal(loaded["weights"]["a"], state["weights"]["a"])
    assert {key: loaded[key] for key in ("epoch", "score", "best", "names")} == {
        "epoch": 3,
        "score": 0.1,
        "best": None,
        "names": ["x", "y"],
    }
    assert os.listdir(path.parent) == ["trial.ckpt"]


def test_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert checkpoint.load(tmp_path / "none") is None
    assert not caplog.records


def test_every_damage_is_noticed(tmp_path: Path, state: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "trial.ckpt"
    checkpoint.save(path, state)
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


def test_failed_save_keeps_the_previous_one(tmp_path: Path, state: dict[str, Any]) -> None:
    path = tmp_path / "trial.ckpt"
    checkpoint.save(path, state)

    class Unwritable:
        def __reduce__(self) -> tuple[Any, ...]:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(path, {**state, "more": Unwritable()})
    loaded = checkpoint.load(path)
    assert loaded is not None
    assert loaded["epoch"] == 3
    assert os.listdir(tmp_path) == ["trial.ckpt"]


@pytest.mark.parametrize("num_bytes", [5, 2000, 300_000])
def test_a_full_disk_is_an_os_error(num_bytes: int, tmp_path: Path, state: dict[str, Any]) -> None:
    """torch alone turns it into a RuntimeError about a position in its archive."""
    with files_of_at_most(num_bytes), pytest.raises(OSError, match="too large"):
        checkpoint.save(tmp_path / "trial.ckpt", {**state, "large": torch.zeros(100_000)})
    assert os.listdir(tmp_path) == []


def test_interrupted_before_the_rename(tmp_path: Path, state: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trial.ckpt"
    checkpoint.save(path, state)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, {"epoch": 4})
    loaded = checkpoint.load(path)
    assert loaded is not None
    assert loaded["epoch"] == 3
    assert os.listdir(tmp_path) == ["trial.ckpt"]
