"""Each example runs as its first line says, and so do the walk-throughs.

The walk-throughs are those of docs/own-data.md, with a small budget. Their models are
loaded, also elsewhere, predict, and are exported.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import orca_ray
from orca_ray.cli.app import run
from orca_ray.data.rows import Array
from orca_ray.predictor import Predictor, load
from orca_ray.serving.formats import Formats
from orca_ray.serving.reading import JSON
from orca_ray.testing.suite import make_home

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SCRIPTS = {
    "ecg_csv.py": (
        "recordings-model",
        r"error 0(\.\d+)? expected on new samples\n.*\n0 +Standing",
    ),
    "pde_field.py": (
        "darcy-model",
        (
            r"targets \(16, 16\), relative_l2.*\n.*'relative_l2': 0\.\d+\}\nlargest"
            r" error: 0\."
        ),
    ),
    "table.py": (
        "table-model",
        r"accuracy on test: (1\.000|0\.[89]\d+)\ncolumns: alcohol, ",
    ),
    "audio.py": ("tones-model", r"on new samples\n +sawtooth +sine +square\n"),
}
"""The model that each script writes to ``my-data``, and what it prints."""
SHOW = """
import ast

names = {"__name__": "__main__"}

def show(cell):
    *body, last = ast.parse(cell).body
    exec(compile(ast.Module(body, []), "cell", "exec"), names)
    if not isinstance(last, ast.Expr):
        exec(compile(ast.Module([last], []), "cell", "exec"), names)
        return
    value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    if isinstance(value, names["orca_ray"].Predictor):
        print(value._repr_html_())
    elif value is not None:
        print(value)

"""
"""Runs a cell as Jupyter does: the value of its last expression is shown."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory in which ``my-data`` holds data sets.

    ``examples/make_data.py`` writes them.
    """
    folder = tmp_path_factory.mktemp("own")
    script = EXAMPLES / "make_data.py"
    completed = subprocess.run(
        [sys.executable, script, folder / "my-data"], check=False
    )
    assert completed.returncode == 0
    return folder


def run_in(command: list[str], directory: Path) -> str:
    """Run a command in a directory with a new cache, and return what it prints."""
    home = str(make_home(directory / "home"))
    environment = {
        **os.environ,
        "ORCA_RAY_HOME": home,
        "PYTHONPATH": str(EXAMPLES.parent),
    }
    completed = subprocess.run(
        command,
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


def test_all_are_tested() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == {
        *SCRIPTS,
        "make_data.py",
        "notebook.ipynb",
    }


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script(name: str, data: Path, tmp_path: Path) -> None:
    model, expected = SCRIPTS[name]
    (tmp_path / "my-data").mkdir()
    for file in (data / "my-data").iterdir():
        (tmp_path / "my-data" / file.name).symlink_to(file)
    first_line = (EXAMPLES / name).read_text().partition("\n")[0]
    assert f"``python examples/{name} my-data``" in first_line
    printed = run_in([sys.executable, str(EXAMPLES / name), "my-data"], tmp_path)
    assert re.search(expected, printed), printed
    loaded = orca_ray.load(tmp_path / "my-data" / model, device="cpu")
    assert bool(loaded.label_names) == (name != "pde_field.py")


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.timeout(600)
def test_the_notebook(tmp_path: Path) -> None:
    cells = json.loads((EXAMPLES / "notebook.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in cells if cell["cell_type"] == "code")
    script = SHOW + "\n".join(f"show({cell!r})" for cell in code)
    printed = run_in([sys.executable, "-c", script], tmp_path)
    assert "13 features, 3 classes, (151, 27, 0) samples" in printed
    assert re.search(r"<p>.*error \(lower is better\): ", printed)
    assert re.search(r"^method +linear_probe", printed, re.MULTILINE)
    assert re.search(r"\{'error': 0\.[0-2]\d+\}", printed)
    assert orca_ray.load(tmp_path / "wine-model", device="cpu").label_names == (
        "class_0",
        "class_1",
        "class_2",
    )


PAGE = (EXAMPLES.parent / "docs" / "own-data.md").read_text()
WALKS = [
    block.splitlines()
    for block in re.findall(
        r"^```sh\n(orca-sweep adapt my-data.*?)^```$", PAGE, re.DOTALL | re.M
    )
]
"""Lines of the code block of each kind of data."""
KINDS = {
    "wine.csv": (36, "gradient_boosting"),
    "basic_motions.npz": (16, "minirocket"),
    "digits": (50, "linear_probe"),
    "darcy.h5": (30, "fno"),
    "tones": (12, "linear_probe"),
}
"""Number of new samples of each data set, and the method that adapts to it here.

The method is often the one that wins.
"""
SMALL = ["--executor", "inline", "--minutes", "1"]
"""Options of a small budget."""


def typed(walk: list[str], command: str) -> list[str]:
    """Return the words after ``orca-sweep`` in a line of a walk-through.

    The line is the one that calls ``command``.
    """
    (line,) = [line for line in walk if line.startswith(f"orca-sweep {command} ")]
    return shlex.split(line, comments=True)[1:]


def test_the_page_has_a_walk_through_for_each_data_set() -> None:
    sources = [typed(walk, "adapt")[1] for walk in WALKS]
    assert [source.removeprefix("my-data/") for source in sources] == list(KINDS)
    for walk in WALKS:
        assert len(walk) <= 10
        adapt = typed(walk, "adapt")
        model = adapt[adapt.index("--out") + 1]
        for command in ("predict", "export", "serve"):
            assert typed(walk, command)[1] == model
        [line] = [line for line in walk if line.startswith("python -c ")]
        request = shlex.split(line)[-1]
        assert shlex.split(walk[-1])[-1] == f"@{request}"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "walk",
    [
        pytest.param(walk, marks=pytest.mark.exhaustive if number else [])
        for number, walk in enumerate(WALKS)
    ],
    ids=list(KINDS),
)
def test_a_data_set_becomes_a_model_that_predicts_elsewhere(
    walk: list[str],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(data)
    words = typed(walk, "adapt")
    out = words[words.index("--out") + 1]
    adapt = words[: words.index("--minutes")]
    num_samples, method = KINDS[Path(words[1]).name]
    code = run([*adapt, "--methods", method, *SMALL, "--json"])
    printed = capfd.readouterr()
    assert code == 0, printed.err
    answer = json.loads(printed.out)
    assert answer["model"] == out
    assert 0 <= answer["low"] <= answer["score"] <= answer["high"]
    assert Path(answer["page"]).read_text().startswith("<!doctype html>")
    predict = typed(walk, "predict")
    source = predict[2]
    predictions = predict[-1]
    new_data = words[1].replace("my-data/", "my-data/new/")
    assert source == new_data, "no model was trained on them"
    assert run([*predict, "--quiet"]) == 0
    assert len(stored(predictions)) == num_samples
    if source.endswith("wine.csv"):
        assert list(pd.read_parquet(predictions)["bottle"][:2]) == ["W000", "W005"]
    assert run(typed(walk, "export")) == 0
    assert "largest difference from the model" in capfd.readouterr().out
    assert answered(walk, load(out, device="cpu")) > 0
    (data / out).rename(tmp_path / "moved")
    program = f"""
import sys
sys.modules |= dict.fromkeys(["ray", "optuna", "arff"])  # of the extra sweep
import numpy as np, orca_ray
np.save("found.npy", np.asarray(orca_ray.load("moved").predict({str(data / source)!r})))
"""
    completed = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    elsewhere = np.load(tmp_path / "found.npy")
    if elsewhere.dtype.kind == "f":
        assert np.allclose(elsewhere, stored(predictions), rtol=1e-4, atol=1e-5)
    else:
        assert (elsewhere == stored(predictions)).all()


def stored(path: str) -> Array:
    """Return the predictions in a file that `orca-sweep predict` wrote."""
    if path.endswith(".npz"):
        return np.asarray(np.load(path)["prediction"])
    return np.asarray(pd.read_parquet(path)["prediction"])


def answered(walk: list[str], model: Predictor) -> int:
    """Return the number of predictions for the request of a walk-through."""
    (line,) = [line for line in walk if line.startswith("python -c ")]
    command = line.replace("python", shlex.quote(sys.executable), 1)
    subprocess.run(command, shell=True, check=True)
    request = Path(shlex.split(line)[-1]).read_bytes()
    inputs, warnings = Formats(model, 10).reader.read(JSON, request)
    assert warnings == []
    return len(model.decide(model.outputs_of(inputs)))


def test_a_folder_of_something_else_is_refused_before_training(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    data = str(tmp_path / "missing.csv")
    assert run(["adapt", data, "--target", "y", "--out", str(tmp_path)]) == 2
    assert "has files and is no model folder" in capfd.readouterr().err
