"""A new body family, task, method or statistic is one new file, which is found without a second edit."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from orca_ray.errors import UserError
from orca_ray.leaderboard.statistics import get_statistic
from orca_ray.methods.registry import get_method
from orca_ray.models.family import all_families
from orca_ray.tasks.registry import get_benchmark, get_task
from tests.plug_in_packages import EXAMPLE, forget

Drop = Callable[[str, str, str], None]


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


def test_a_task(drop: Drop) -> None:
    with pytest.raises(UserError, match="unknown task"):
        get_task("example/tones")
    drop("orca_ray.tasks", "example/tones.py", example("tones"))
    assert [task.name for task in get_benchmark("example")] == ["example/tones"]
    assert get_task("example/tones").num_samples == (60, 20, 20)


def test_a_method_a_family_of_bodies_and_a_statistic(drop: Drop) -> None:
    drop("orca_ray.methods.recipes", "l2sp.py", example("l2sp"))
    assert get_method("l2sp").stage_names
    drop("orca_ray.models.families", "gpt_neo.py", example("gpt_neo"))
    assert "GPT-Neo" in all_families()
    drop("orca_ray.leaderboard.statistics", "worst_rank.py", example("worst_rank"))
    scores = pd.DataFrame({"task": ["t", "u"], "method": ["nft", "orca"], "seed": 0, "score": [0.25, 0.5]})
    scores = pd.concat([scores, scores.assign(method=["orca", "nft"], score=0.3)])
    assert get_statistic("worst_rank").compute(scores)["value"].to_dict() == {"nft": 1, "orca": 2}
