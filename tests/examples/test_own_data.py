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
from orca_ray.predictor import Predictor, load
from orca_ray.serving.formats import JSON, Formats

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "own-data.md").read_text()
WALKS = [
    block.splitlines() for block in re.findall(r"^```\n(orca-sweep adapt my-data.*?)^```$", PAGE, re.DOTALL | re.M)
]
"""Lines of the code block of each kind of data."""
KINDS = {
    "wine.csv": (178, "gradient_boosting"), "basic_motions.npz": (80, "minirocket"), "digits": (600, "linear_probe"),
    "darcy.h5": (300, "fno"), "tones": (120, "linear_probe"),
}  # fmt: skip
"""Data sets, their number of samples, and the method that adapts to them here: often the one that wins."""
SMALL = ["--executor", "inline", "--minutes", "1"]


def typed(walk: list[str], command: str) -> list[str]:
    """Return the words after ``orca-sweep`` of the line of a walk-through that calls a command."""
    (line,) = [line for line in walk if line.startswith(f"orca-sweep {command} ")]
    return shlex.split(line, comments=True)[1:]


def test_the_page_has_a_walk_through_for_each_data_set() -> None:
    assert [typed(walk, "adapt")[1].removeprefix("my-data/") for walk in WALKS] == list(KINDS)
    for walk in WALKS:
        assert len(walk) <= 10
        model = typed(walk, "adapt")[typed(walk, "adapt").index("--out") + 1]
        assert [typed(walk, command)[1] for command in ("predict", "export", "serve")] == [model] * 3
        (request,) = [shlex.split(line)[-1] for line in walk if line.startswith("python -c ")]
        assert shlex.split(walk[-1])[-1] == f"@{request}"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "walk",
    [pytest.param(walk, marks=pytest.mark.exhaustive if number else []) for number, walk in enumerate(WALKS)],
    ids=list(KINDS),
)
def test_a_data_set_becomes_a_model_that_predicts_elsewhere(
    walk: list[str], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(data)
    words = typed(walk, "adapt")
    out = words[words.index("--out") + 1]
    given = words[: words.index("--minutes")]
    samples, method = KINDS[Path(words[1]).name]
    assert run([*given, "--methods", method, *SMALL, "--json"]) == 0, capfd.readouterr().err
    answer = json.loads(capfd.readouterr().out)
    assert answer["model"] == out
    assert 0 <= answer["record"]["test_score"] < 1
    assert Path(answer["page"]).read_text().startswith("<!doctype html>")
    predict = typed(walk, "predict")
    source, predictions = predict[2], predict[-1]
    assert run([*predict, "--quiet"]) == 0
    assert len(pd.read_parquet(predictions)) == samples
    assert run(typed(walk, "export")) == 0
    assert "largest difference from the model" in capfd.readouterr().out
    assert answered(walk, load(out, device="cpu")) > 0
    (data / out).rename(tmp_path / "moved")
    code = f"""
import sys
sys.modules |= dict.fromkeys(["ray", "optuna", "arff"])  # of the extra sweep
import numpy as np, pandas as pd, orca_ray
found = np.asarray(orca_ray.load("moved").predict({str(data / source)!r}))
stored = pd.read_parquet({str(data / predictions)!r})["prediction"]
stored = np.stack([np.asarray(each.tolist() if hasattr(each, "tolist") else each) for each in stored])
stored = stored.reshape(found.shape) if found.dtype.kind == "f" else stored
assert np.allclose(found, stored, rtol=1e-4, atol=1e-5) if found.dtype.kind == "f" else (found == stored).all()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def answered(walk: list[str], model: Predictor) -> int:
    """Return the number of predictions for the request that a walk-through sends to the server."""
    (line,) = [line for line in walk if line.startswith("python -c ")]
    subprocess.run(line.replace("python", shlex.quote(sys.executable), 1), shell=True, check=True)
    inputs, warnings = Formats(model, 10).read(JSON, Path(shlex.split(line)[-1]).read_bytes())
    assert warnings == []
    return len(model.decide(model.outputs_of(inputs)))


def test_a_folder_of_something_else_is_refused_before_training(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert run(["adapt", str(tmp_path / "missing.csv"), "--target", "y", "--out", str(tmp_path)]) == 2
    assert "has files and is no model folder" in capfd.readouterr().err
