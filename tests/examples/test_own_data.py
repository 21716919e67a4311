"""The walk-throughs of docs/own-data.md with a small budget: adapted, predicted, loaded elsewhere, exported."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from orca_ray.cli.app import run

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "own-data.md").read_text()
COMMANDS = re.findall(r"`orca-sweep (adapt my-data/[^`]*)`", PAGE)
KINDS = {"wine.csv": 178, "basic_motions.npz": 80, "digits": 600, "darcy.h5": 300, "tones": 120}
"""Data sets and their number of samples."""
SMALL = ["--methods", "linear_probe", "--executor", "inline", "--minutes", "1"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_the_page_has_a_command_for_each_data_set() -> None:
    assert [shlex.split(command)[1].removeprefix("my-data/") for command in COMMANDS] == list(KINDS)


@pytest.mark.parametrize("command", COMMANDS, ids=list(KINDS))
def test_a_data_set_becomes_a_model_that_predicts_elsewhere(
    command: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(data)
    words = shlex.split(command)
    out = words[words.index("--out") + 1]
    given = words[: words.index("--minutes")]
    assert run([*given, *SMALL, "--json"]) == 0, capfd.readouterr().err
    answer = json.loads(capfd.readouterr().out)
    assert answer["model"] == out
    assert 0 <= answer["record"]["test_score"] < 1
    assert Path(answer["page"]).read_text().startswith("<!doctype html>")
    source = words[1]
    assert run(["predict", out, source, "-o", "predictions.parquet", "--quiet"]) == 0
    table = pd.read_parquet("predictions.parquet")
    assert len(table) == KINDS[Path(source).name]
    (data / out).rename(tmp_path / "moved")
    code = f"""
import sys
sys.modules["ray"] = sys.modules["optuna"] = None
import numpy as np, pandas as pd, orca_ray
found = np.asarray(orca_ray.load("moved").predict({str(data / source)!r}))
stored = pd.read_parquet({str(data / "predictions.parquet")!r})["prediction"]
stored = np.stack([np.asarray(each.tolist() if hasattr(each, "tolist") else each) for each in stored])
stored = stored.reshape(found.shape) if found.dtype.kind == "f" else stored
assert np.allclose(found, stored, rtol=1e-4, atol=1e-5) if found.dtype.kind == "f" else (found == stored).all()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_folder_of_something_else_is_refused_before_training(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert run(["adapt", str(tmp_path / "missing.csv"), "--target", "y", "--out", str(tmp_path)]) == 2
    assert "has files and is no model folder" in capfd.readouterr().err
