"""Every task of every benchmark on files of its exact raw format: from the files to a row of a board, and bad files."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orca_ray.data import cache, prepared
from orca_ray.data.prepared import PreparedData
from orca_ray.errors import UserError
from orca_ray.leaderboard import build
from orca_ray.results.record import Status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.execution.driver import run_sweep
from orca_ray.sweep.planning.loading import parse_spec
from orca_ray.sweep.planning.spec import SweepSpec
from orca_ray.tasks.registry import all_tasks, get_task
from orca_ray.tasks.scaling import input_statistics, with_target_statistics
from orca_ray.tasks.task import Task
from tests.models.tiny import save_tiny, save_tokenizer
from tests.twins import Damage, damages, twins

pytestmark = pytest.mark.slow  # in all, about half a minute

LEAST_DAMAGES = 6
UNLIKE = {"cifar100", "advection", "burgers", "diffusion_reaction_2d"}
"""Tasks whose twins have values of another mean than the published files."""
SWEEP = """\
name: twins
benchmark: {benchmark}
methods: [orca]
tasks: [{task}]
bodies: {{sequence: "{bodies}/bert", image: "{bodies}/vit"}}
sources: {{sequence: prose, image: photographs}}
published: true
settings:
  embedder.sequence_length: 16
per_task:
  {task}:
    settings:
      embedder.image_size: 28
      align.distance: l2
      align.source: ""
      align.epochs: 1
      align.samples_per_class: 1
      align.source_samples: 16
      refine.epochs: 1
      refine.batch_size: {batch}
      refine.accumulation: 1
      refine.warmup_epochs: 0
budgets: {{full: {{search_trials: 0, confirm_seeds: [1]}}}}
"""


@pytest.fixture(scope="module")
def raw_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for the good twins, each written once."""
    return tmp_path_factory.mktemp("twins")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory of the test's own, with the packages and bodies of the user's."""
    users, own = cache.home(), tmp_path / "home"
    own.mkdir()
    for name in ("packages", "bodies", "source"):
        (users / name).mkdir(parents=True, exist_ok=True)
        (own / name).symlink_to(users / name)
    monkeypatch.setenv("ORCA_RAY_HOME", str(own))
    return own


def written(name: str, raw_files: Path) -> Path:
    """Return the raw directory of a task's good twin."""
    raw = raw_files / name
    if not raw.exists():
        raw.mkdir(parents=True)
        twins()[name](raw)
    return raw


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with tiny random bodies: what is tested here is the way of the data."""
    root = tmp_path_factory.mktemp("bodies")
    for kind in ("bert", "vit"):
        save_tiny(kind, root)
    save_tokenizer(root / "bert")
    return root


def two_steps(name: str, bodies: Path) -> SweepSpec:
    """Return a sweep of one trial whose training is about two optimiser steps."""
    train = len(get_task(name).prepare().train)
    text = SWEEP.format(benchmark=name.split("/")[0], task=name, batch=-(-train // 2), bodies=bodies)
    return parse_spec(text)


def test_every_task_has_a_twin() -> None:
    packaged = {name for name, task in all_tasks().items() if task.packages or task.benchmark == "pocket"}
    assert set(twins()) == set(all_tasks()) - packaged


def assert_declared_scales_are_measured_ones(task: Task, data: PreparedData) -> None:
    measured = replace(task, input_scale="measured", target_scale="measured")
    inputs = [input_statistics(data.train.x, each.input_scale) for each in (task, measured)]
    assert (inputs[0] is None) == (inputs[1] is None)
    bare = replace(data, y_mean=None, y_std=None)
    targets = [with_target_statistics(each, bare).y_mean for each in (task, measured)]
    assert (targets[0] is None) == (targets[1] is None)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(twins()))
def test_a_twin_becomes_a_row_of_a_board(name: str, home: Path, raw_files: Path, bodies: Path, tmp_path: Path) -> None:
    task = get_task(name)
    task.raw_directory.parent.mkdir(parents=True, exist_ok=True)
    task.raw_directory.symlink_to(written(name, raw_files))
    store = ResultsStore(tmp_path / "results", create=True)
    spec = two_steps(name, bodies)
    if task.short_name not in UNLIKE:
        assert_declared_scales_are_measured_ones(task, task.prepare())
    summary = run_sweep(spec, store, executor="inline")
    (record,) = store.load(spec.sweep_id).values()
    assert record.status == Status.COMPLETED, record.error
    assert summary.ran == 1
    assert record.validation_score is not None
    assert record.test_score is not None
    assert np.isfinite([record.validation_score, record.test_score]).all()
    assert record.align_epochs == 1
    board = build(store.records(), benchmark=task.benchmark)
    assert board.score(name, "orca").mean == record.test_score


@pytest.mark.parametrize(("name", "damage"), damages(), ids=lambda value: value if isinstance(value, str) else value[0])
def test_a_bad_file_is_told_and_leaves_nothing_behind(
    name: str, damage: Damage, home: Path, raw_files: Path, tmp_path: Path
) -> None:
    _, spoil, message = damage
    raw, out = tmp_path / "raw", tmp_path / "out" / "prepared"
    shutil.copytree(written(name, raw_files), raw)
    spoil(raw)
    with pytest.raises(UserError, match=message):
        get_task(name).prepare(raw=raw, out=out)
    assert not out.exists()
    assert not list(out.parent.glob(".partial*"))


def test_every_reader_is_given_bad_files() -> None:
    counts = Counter(name for name, _ in damages())
    readers = {get_task(name).build.__module__ for name in twins()}
    fed = {get_task(name).build.__module__ for name, count in counts.items() if count >= LEAST_DAMAGES}
    assert readers == fed


@pytest.mark.parametrize("name", sorted(name for name in twins() if get_task(name).paper_splits))
def test_paper_splits_share_test_rows_with_nobody(name: str, home: Path, raw_files: Path, tmp_path: Path) -> None:
    task = get_task(name)
    raw = written(name, raw_files)
    held_out = task.prepare(raw=raw, out=tmp_path / "held-out")
    paper = task.prepare("paper", raw=raw, out=tmp_path / "paper")
    assert prepared.directory_of(name, task.version, "paper").name == f"{task.version}-paper"
    assert paper.fingerprint != held_out.fingerprint
