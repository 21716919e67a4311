"""A new body family, task, method or statistic is one new file, which is found without a second edit."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.leaderboard.statistics import all_statistics, get_statistic
from orca_ray.methods import hyperparameters
from orca_ray.methods.registry import all_methods, get_method
from orca_ray.models.crossmodal import build_model
from orca_ray.models.family import all_families
from orca_ray.models.modality import EmbedderConfig
from orca_ray.models.stems import TextStem
from orca_ray.models.weights import body_modality, check_body, load_body
from orca_ray.tasks.registry import all_tasks, get_benchmark, get_task
from orca_ray.testing.bodies import save_bert
from orca_ray.testing.trials import QUICK, copy_of, run, start
from tests.plug_in_packages import EXAMPLE

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
    name="fresh/halves", title="Halves", modality="time series", input_shape=(1, 3), target=Target("classes", size=2),
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
        clear()

    def clear() -> None:
        importlib.invalidate_caches()
        all_tasks.cache_clear()
        all_methods.cache_clear()
        hyperparameters.names.cache_clear()
        all_statistics.cache_clear()
        all_families.cache_clear()

    yield write
    monkeypatch.undo()
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[name]
    clear()


@torch.no_grad()
def test_a_family_of_bodies(drop: Drop, tmp_path: Path) -> None:
    from transformers import GPTNeoConfig, GPTNeoModel

    directory = tmp_path / "body"
    with torch.random.fork_rng(devices=[]):
        model = GPTNeoModel(
            GPTNeoConfig(
                hidden_size=8,
                num_layers=3,
                num_heads=2,
                vocab_size=20,
                max_position_embeddings=16,
                attention_types=[[["global"], 3]],
            )
        ).eval()
    model.save_pretrained(directory)
    with pytest.raises(UserError, match="cannot use a GPTNeoModel as a body"):
        load_body(str(directory))
    drop("orca_ray.models.families", "gpt_neo.py", example("gpt_neo"))
    assert "GPT-Neo" in all_families()
    check_body(str(directory))
    assert body_modality(str(directory)) == "sequence"
    loaded = load_body(str(directory))
    assert isinstance(loaded.stem, TextStem)
    ids = torch.arange(24).view(2, 12) % 20
    features = loaded.body(loaded.stem.embed_tokens(ids))
    torch.testing.assert_close(features, model(ids).last_hidden_state, atol=1e-5, rtol=1e-5)
    adapted = build_model(
        input_shape=(2, 30),
        target=Target("classes", size=3),
        body=f"{directory}:layers=2",
        pretrained=True,
        config=EmbedderConfig(sequence_length=10),
        seed=0,
    )
    assert adapted(torch.zeros(4, 2, 30)).shape == (4, 3)


def test_a_task(drop: Drop, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown task"):
        get_task("fresh/halves")
    drop("orca_ray.tasks", "fresh/halves.py", TASK)
    assert [task.name for task in get_benchmark("fresh")] == ["fresh/halves"]
    data = get_task("fresh/halves").prepare(out=tmp_path / "prepared")
    assert np.bincount(data.train.y).tolist() == [5, 5]


def test_a_method(drop: Drop, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown method"):
        get_method("l2sp")
    source = example("l2sp")
    assert len(source.splitlines()) < 60
    drop("orca_ray.methods", "l2sp.py", source)
    (tmp_path / "bert").mkdir()
    body = save_bert(tmp_path / "bert")
    moved = {}
    for strength in (0.0, 1e3):
        options = {**QUICK, "refine.learning_rate": 1e-4, "l2sp.strength": strength}
        adaptation = start(body, "l2sp", hyperparameters=options)
        before = copy_of(adaptation.model.body)
        reports = run(adaptation)
        assert [report["stage"] for report in reports] == ["refine"] * 3
        after = copy_of(adaptation.model.body)
        moved[strength] = sum(float((after[name] - before[name]).square().sum()) for name in before)
    assert moved[1e3] < moved[0.0] / 2
    nft = start(body, "nft", hyperparameters={**QUICK, "refine.learning_rate": 1e-4})
    free = start(body, "l2sp", hyperparameters={**QUICK, "refine.learning_rate": 1e-4, "l2sp.strength": 0.0})
    assert run(free) == run(nft)


def test_a_statistic(drop: Drop) -> None:
    with pytest.raises(UserError, match="unknown statistic"):
        get_statistic("worst_rank")
    drop("orca_ray.leaderboard.statistics", "worst_rank.py", example("worst_rank"))
    scores = pd.DataFrame({"task": ["t", "u"], "method": ["nft", "orca"], "seed": 0, "score": [0.25, 0.5]})
    scores = pd.concat([scores, scores.assign(method=["orca", "nft"], score=0.3)])
    assert get_statistic("worst_rank").compute(scores)["value"].to_dict() == {"nft": 1, "orca": 2}


def test_nothing_stays_behind() -> None:
    assert "fresh/halves" not in all_tasks()
    assert "l2sp" not in all_methods()
    assert "worst_rank" not in all_statistics()
    assert "GPT-Neo" not in all_families()
