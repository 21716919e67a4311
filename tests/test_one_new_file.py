"""A new body family, task, method or statistic is one new file, which is found without a second edit."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from orca_ray.errors import UserError
from orca_ray.leaderboard.statistics import get_statistic
from orca_ray.methods.registry import get_method
from orca_ray.models.family import all_families
from orca_ray.tasks.registry import get_benchmark, get_task
from tests.plug_in_packages import EXAMPLE, forget

Drop = Callable[[str, str, str], None]

TASK = '''
"""A task of two classes that differ in their mean."""

import numpy as np

from orca_ray.data.rows import Target
from orca_ray.tasks.task import Task


def build(workspace):
    x = np.linspace(-1, 1, 60, dtype=np.float32).reshape(20, 1, 3)
    parts = {"train": slice(0, 20, 2), "validation": slice(1, 20, 4), "test": slice(3, 20, 4)}
    y = (x.mean(axis=(1, 2)) > 0).astype(np.int64)
    return {f"{split}_{axis}": array[part] for split, part in parts.items() for axis, array in (("x", x), ("y", y))}


TASK = Task(
    name="fresh/halves", title="Halves", domain="time series", input_shape=(1, 3), target=Target("classes", size=2),
    loss="cross_entropy", metric="error", num_samples=(10, 5, 5), licence="CC0", citation="nobody",
    reference="https://example.org", input_scale="standardised", build=build,
)
'''


def example(name: str) -> str:
    """Return a file of the example package, which may as well be a file of this one."""
    return (EXAMPLE / "orca_ray_example" / f"{name}.py").read_text()


@pytest.fixture
def drop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Drop]:
    """Write a module into a directory that is appended to a package's path."""
    before = set(sys.modules)

    def write(package: str, path: str, text: str) -> None:
        root = tmp_path / package
        file = root / path
        file.parent.mkdir(parents=True)
        if file.parent != root:
            (file.parent / "__init__.py").touch()
        file.write_text(text)
        module = importlib.import_module(package)
        monkeypatch.setattr(module, "__path__", [*module.__path__, str(root)])
        forget()

    yield write
    monkeypatch.undo()
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[name]
    forget()


def test_a_task(drop: Drop, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown task"):
        get_task("fresh/halves")
    drop("orca_ray.tasks", "fresh/halves.py", TASK)
    assert [task.name for task in get_benchmark("fresh")] == ["fresh/halves"]
    data = get_task("fresh/halves").prepare(out=tmp_path / "prepared")
    assert np.bincount(data.train.y).tolist() == [5, 5]


def test_a_method_a_family_of_bodies_and_a_statistic(drop: Drop) -> None:
    drop("orca_ray.methods.recipes", "l2sp.py", example("l2sp"))
    assert get_method("l2sp").stage_names
    drop("orca_ray.models.families", "gpt_neo.py", example("gpt_neo"))
    assert "GPT-Neo" in all_families()
    drop("orca_ray.leaderboard.statistics", "worst_rank.py", example("worst_rank"))
    scores = pd.DataFrame({"task": ["t", "u"], "method": ["nft", "orca"], "seed": 0, "score": [0.25, 0.5]})
    scores = pd.concat([scores, scores.assign(method=["orca", "nft"], score=0.3)])
    assert get_statistic("worst_rank").compute(scores)["value"].to_dict() == {"nft": 1, "orca": 2}
