"""Sweep files that extend others, and the sweeps that are shipped."""

import hashlib
import json
from pathlib import Path

import pytest

from orca_ray.errors import UserError
from orca_ray.sweep.plan.loading import load_spec, shipped_sweeps
from orca_ray.sweep.plan.searches import plan_searches
from orca_ray.sweep.plan.spec import Overrides

BASE = """\
name: base
benchmark: pocket
methods: [nft, orca]
tasks: [pocket/digits]
settings: {refine.epochs: 3, refine.batch_size: 8}
space:
  refine.batch_size: {choice: [8, 16]}
  refine.epochs: {integer: [1, 5]}
early_stopping: {eta: 3, min_epochs: 2}
budgets:
  full: {search_trials: 2}
"""

FROZEN = {
    "aligning": "252701856a2c4b02",
    "field": "3b482f8d7b55ee16",
    "domainnet": "64ef489cb0bd542e",
    "drug": "5e9ee326de786ff0",
    "nasbench360": "d268c97b22c6ecd2",
    "openml": "dbf4d5f0632ffe6b",
    "pdebench": "9399b0ba588f6077",
    "pdebench_generated": "0f47d75a513b94c5",
    "pocket": "a7b97118df8a23d9",
}
"""Digests of the trial keys of all budgets of the shipped sweeps: records of earlier versions stay theirs."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(BASE)
    return tmp_path


def write(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_spec(path)
    return str(caught.value)


def test_a_file_gives_what_differs_from_its_base(folder: Path) -> None:
    text = """\
extends: base.yaml
name: mine
methods: [scratch]
settings: {refine.epochs: 4}
space: {refine.batch_size: {integer: [8, 32]}}
early_stopping: null
budgets: {quick: {search_trials: 0}}
default_budget: quick
"""
    spec = load_spec(write(folder, text))
    assert (spec.sweep_id, spec.tasks, spec.methods) == ("mine/quick", ("pocket/digits",), ("scratch",))
    assert spec.settings("pocket/digits", "scratch") == {"refine.epochs": 4, "refine.batch_size": 8}
    described = {name: dimension.describe() for name, dimension in spec.space("pocket/digits", "scratch").items()}
    assert described == {"refine.batch_size": "integer [8, 32]", "refine.epochs": "integer [1, 5]"}
    assert spec.file.early_stopping is None
    assert set(spec.file.budgets) == {"full", "quick"}


def test_bases_may_have_bases_and_be_shipped_sweeps(folder: Path) -> None:
    middle = write(folder, "extends: ../base.yaml\nname: middle\nsettings: {refine.epochs: 2}\n", "inner/middle.yaml")
    spec = load_spec(write(folder, f"extends: {middle}\nname: mine\n"))
    assert spec.settings("pocket/digits", "nft") == {"refine.epochs": 2, "refine.batch_size": 8}
    shipped = load_spec(write(folder, "extends: pocket\nname: mine\n"))
    assert shipped.sweep_id == "mine/full"
    assert shipped.tasks == load_spec("pocket").tasks


def test_mistakes_name_the_file_that_makes_them(folder: Path) -> None:
    mine = write(folder, "extends: base.yaml\nname: mine\nsettings: {refine.learning_rate: 1e-3}\n")
    (folder / "base.yaml").write_text(BASE.replace("refine.epochs: {int", "refine.epoch: {int"))
    assert refused(mine).startswith(f"{folder}/base.yaml:8: space.refine.epoch: unknown hyper-parameter")
    (folder / "base.yaml").write_text(BASE)
    mine = write(folder, "extends: base.yaml\nname: mine\nsettings:\n  refine.epochs: 9\n")
    assert refused(mine).startswith(f"{folder}/base.yaml:8: the first trial of pocket/digits")
    mine = write(folder, "extends: base.yaml\nname: mine\nbudgets:\n  full: {search_trial: 2}\n")
    assert refused(mine).startswith(f"{folder}/mine.yaml:4: budgets.full.search_trial: unknown key")
    assert refused(write(folder, "extends: base.yaml\n")).startswith(f"{folder}/mine.yaml:1: name: Field required")


@pytest.mark.parametrize(
    ("extends", "part"),
    [
        ("nowhere.yaml", "unknown sweep file 'nowhere.yaml'"),
        ("mine.yaml", "extends itself"),
        ("loop.yaml", "extends itself"),
        ("[base.yaml]", "got ['base.yaml']"),
        ('"a\\0b"', "got 'a\\x00b'"),
        (".", "is a directory"),
    ],
)
def test_bases_that_cannot_be_read(folder: Path, extends: str, part: str) -> None:
    write(folder, "extends: mine.yaml\n", "loop.yaml")
    message = refused(write(folder, f"name: mine\nextends: {extends}\n"))
    assert part in message
    assert message.startswith((f"{folder}/mine.yaml:2: extends: ", f"{folder}/loop.yaml:1: extends: ")), message


QUICK = ("aligning", "pocket")
"""Sweeps whose keys are compared in every run of the tests: a grid, and one of searches."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.exhaustive) for name in shipped_sweeps()]
)
def test_trial_keys_of_shipped_sweeps_never_change(name: str) -> None:
    keys = []
    for budget in load_spec(name).file.budgets:
        for overrides in (Overrides(), Overrides(trials=1, protocol="paper"), Overrides(deterministic=True)):
            spec = load_spec(name, budget=budget, overrides=overrides)
            for plan in plan_searches(spec, dict.fromkeys(spec.tasks, "0" * 16), gpus=True):
                space = {name: dimension.describe() for name, dimension in spec.space(plan.task, plan.method).items()}
                seeds = (spec.file.seed, *plan.confirm_seeds)
                trials = [plan.trial(each, seed, "confirm").key for seed in seeds for each in plan.configurations]
                keys.append([spec.sweep_id, plan.num_search, space, trials])
    digest = hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()[:16]
    assert digest == FROZEN[name]
