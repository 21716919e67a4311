"""Each example runs as its first line says, and its model can be loaded."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import orca_ray
from orca_ray.testing.suite import make_home

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SCRIPTS = {
    "ecg_csv.py": ("recordings-model", r"error 0(\.\d+)? on test\n.*\n0 +Standing"),
    "pde_field.py": (
        "darcy-model",
        r"targets \(16, 16\), relative_l2.*\n.*'relative_l2': 0\.\d+\}\nlargest error: 0\.",
    ),
    "table.py": ("table-model", r"accuracy on test: (1\.000|0\.[89]\d+)\ncolumns: alcohol, "),
    "audio.py": ("tones-model", r"on test\n +sawtooth +sine +square\n"),
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
    elif (shown := eval(compile(ast.Expression(last.value), "cell", "eval"), names)) is not None:
        print(shown._repr_html_() if isinstance(shown, names["orca_ray"].Predictor) else shown)

"""
"""Runs a cell as Jupyter does: the value of its last expression is shown."""

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive, pytest.mark.timeout(600)]


def run(command: list[str], directory: Path) -> str:
    """Run a command in a directory with a cache of its own, and return what it prints."""
    home = str(make_home(directory / "home"))
    environment = {**os.environ, "ORCA_RAY_HOME": home, "PYTHONPATH": str(EXAMPLES.parent)}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_are_tested() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == {*SCRIPTS, "make_data.py", "notebook.ipynb"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script(name: str, data: Path, tmp_path: Path) -> None:
    model, expected = SCRIPTS[name]
    (tmp_path / "my-data").mkdir()
    for file in (data / "my-data").iterdir():
        (tmp_path / "my-data" / file.name).symlink_to(file)
    assert f"``python examples/{name} my-data``" in (EXAMPLES / name).read_text().partition("\n")[0]
    printed = run([sys.executable, str(EXAMPLES / name), "my-data"], tmp_path)
    assert re.search(expected, printed), printed
    assert orca_ray.load(tmp_path / "my-data" / model, device="cpu").label_names or name == "pde_field.py"


def test_the_notebook(tmp_path: Path) -> None:
    cells = json.loads((EXAMPLES / "notebook.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in cells if cell["cell_type"] == "code")
    script = SHOW + "\n".join(f"show({cell!r})" for cell in code)
    printed = run([sys.executable, "-c", script], tmp_path)
    assert "13 features, 3 classes, (124, 27, 27) samples" in printed
    assert "<caption>orca-ray model</caption>" in printed
    assert re.search(r"^method +linear_probe", printed, re.MULTILINE)
    assert re.search(r"\{'error': 0\.[0-2]\d+\}", printed)
    assert orca_ray.load(tmp_path / "wine-model", device="cpu").label_names == ("class_0", "class_1", "class_2")
