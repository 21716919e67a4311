"""The conformance suites of tasks.

They test declarations, and data from raw files to a leaderboard.
"""

import re
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any, ClassVar

import numpy as np
import pytest

from orca_ray.data import prepared
from orca_ray.data.prepared import PreparedData
from orca_ray.data.rows import Array
from orca_ray.errors import UserError
from orca_ray.leaderboard import build
from orca_ray.results.record import Status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.executors.inline import InlineExecutor
from orca_ray.sweep.plan.loading import parse_spec
from orca_ray.sweep.run.driver import run_sweep
from orca_ray.tasks.augmentations import get_augmentation
from orca_ray.tasks.losses import get_loss
from orca_ray.tasks.metrics import get_metric
from orca_ray.tasks.registry import get_benchmark, get_task
from orca_ray.tasks.scaling import input_statistics, with_target_statistics
from orca_ray.tasks.task import Task
from orca_ray.testing.suite import SHARED, Suite, made_once, make_home

Writer = Callable[[Path], None]
"""Function that writes the raw files of one task below a directory, or corrupts those
that are there.
"""
Corruption = tuple[str, Writer, str]
"""Name of the corruption, function that corrupts good files, and regular expression
that the error must match.
"""


def deleted(name: str) -> Writer:
    """Return a `Writer` that removes the file or folder ``name``."""

    def delete(raw: Path) -> None:
        path = raw / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

    return delete


def cut(name: str) -> Writer:
    """Return a `Writer` that cuts the file ``name`` to its first half."""
    return lambda raw: rewritten(
        raw / name, lambda content: content[: len(content) // 2]
    )


def garbage(name: str) -> Writer:
    """Return a `Writer` that overwrites the file ``name`` with random bytes."""
    return lambda raw: rewritten(
        raw / name, lambda content: np.random.RandomState(0).bytes(len(content))
    )


def changed(name: str, change: Callable[[Array], Any]) -> Writer:
    """Return a `Writer` that changes the array in the ``.npy`` file ``name``.

    ``change`` may return objects.
    """
    return lambda raw: np.save(
        raw / name, change(np.load(raw / name)), allow_pickle=True
    )


def rewritten(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Replace the content of a file by ``change(content)``."""
    path.write_bytes(change(path.read_bytes()))


def with_item(array: Array, index: int | tuple[int, ...], value: float) -> Array:
    """Return a copy of ``array`` in which all items at ``index`` are ``value``."""
    copy = array.copy()
    copy[index] = value
    return copy


_SWEEP = Template(
    (resources.files("orca_ray.testing") / "raw_files.yaml").read_text(encoding="utf-8")
)


class TaskSuite(Suite):
    """Test class of the declarations of tasks; set `names` to full names of tasks.

    The tests read no data.
    """

    def test_it_is_complete(self, name: str) -> None:
        task = get_task(name)
        assert task.name == name
        assert task in get_benchmark(task.benchmark)
        for field in (task.title, task.domain, task.body, task.licence, task.citation):
            assert field.strip()
        assert task.reference.startswith("https://")
        assert get_loss(task.loss)
        assert get_metric(task.metric)
        assert get_metric(task.under("paper").metric)
        assert get_augmentation(task.augmentation) or not task.augmentation
        assert all(
            re.fullmatch(r"[0-9a-f]{64}", package.sha256) and package.licence
            for package in task.packages
        )
        assert not (task.target.kind == "dense" and task.loss == "cross_entropy")

    def test_its_raw_files_are_named_once_and_hashes_are_hashes(
        self, name: str
    ) -> None:
        files = get_task(name).files
        assert len({file.path for file in files}) == len(files)
        for file in files:
            assert re.fullmatch(r"([0-9a-f]{64})?", file.sha256)
            assert re.fullmatch(r"([0-9a-f]{32})?", file.md5)
            assert all(re.match(r"https?://", url) for url in file.urls)


class RawFilesSuite(Suite):
    """Test class of the data of tasks, from raw files to a leaderboard.

    Set `writers` and `corruptions`, not `names`. The tests use small files of the exact
    format of the raw files, and corrupted ones. For a task without raw files, the
    writer does nothing. The first run downloads the alignment sources ``prose`` and
    ``photographs`` (45 MB) into the user's cache.
    """

    writers: ClassVar[Mapping[str, Writer]]
    """Functions that write small versions of all raw files of a task below a directory,
    by the task's full name.
    """
    corruptions: ClassVar[Mapping[str, Sequence[Corruption]]] = {}
    """Corruptions of the written files, by the task's full name; at least six for one
    task of each reading module.
    """
    unlike: ClassVar[Collection[str]] = ()
    """Names of tasks whose declared scales of inputs or targets do not hold for the
    small written files.
    """
    published: ClassVar[bool] = False
    """Whether hyper-parameters that the suite does not set are the published ones of
    the task.
    """

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Parametrise tests by the names of their arguments.

        A test with the argument ``corruption`` runs once for each corruption, and gets
        the ``name`` of the corrupted task. Any other test with the argument ``name``
        runs once for each task that has a writer.
        """
        if "corruption" in metafunc.fixturenames:
            pairs = [
                (name, corruption)
                for name in sorted(self.corruptions)
                for corruption in self.corruptions[name]
            ]
            metafunc.parametrize(
                ("name", "corruption"),
                pairs,
                ids=[f"{name}-{corruption[0]}" for name, corruption in pairs],
            )
        elif "name" in metafunc.fixturenames:
            metafunc.parametrize("name", sorted(self.writers))

    @pytest.fixture(autouse=True)
    def home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Set the cache directory to a new one for the test, and return it."""
        home = make_home(tmp_path / "home", (*SHARED, "source"))
        monkeypatch.setenv("ORCA_RAY_HOME", str(home))
        return home

    @pytest.fixture
    def raw(self, name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Return the directory of small raw files that a task's writer wrote."""
        return made_once((type(self), name), tmp_path_factory, self.writers[name])

    def test_raw_files_become_a_row_of_a_board(
        self, name: str, raw: Path, bodies: dict[str, str], tmp_path: Path
    ) -> None:
        task = get_task(name)
        task.raw_directory.parent.mkdir(parents=True, exist_ok=True)
        task.raw_directory.symlink_to(raw)
        if name not in self.unlike:
            _assert_declared_scales_are_measured_ones(task, task.prepare())
        store = ResultsStore(tmp_path / "results", create=True)
        # Half of the samples, rounded up: an epoch has two optimiser steps.
        batch = -(-len(task.prepare().train) // 2)
        published = str(self.published).lower()
        values = {
            "benchmark": task.benchmark,
            "task": name,
            "batch": batch,
            "published": published,
        }
        spec = parse_spec(_SWEEP.substitute(**values, **bodies))
        summary = run_sweep(spec, store, executor=InlineExecutor())
        (record,) = store.load(spec.sweep_id).values()
        assert record.status == Status.COMPLETED, record.error
        assert summary.ran == 1
        assert record.validation_score is not None
        assert record.test_score is not None
        assert np.isfinite([record.validation_score, record.test_score]).all()
        assert record.align_epochs == 1
        assert (
            record.data_fingerprint
            == task.prepare(raw=raw, out=tmp_path / "again").fingerprint
        )
        board = build(store.records(), benchmark=task.benchmark)
        assert board.score(name, "orca").mean == record.test_score

    def test_a_corrupted_file_is_named_and_leaves_nothing_behind(
        self, name: str, corruption: Corruption, raw: Path, tmp_path: Path
    ) -> None:
        _, corrupt, message = corruption
        copy = tmp_path / "raw"
        out = tmp_path / "out" / "prepared"
        shutil.copytree(raw, copy)
        corrupt(copy)
        with pytest.raises(UserError, match=message):
            get_task(name).prepare(raw=copy, out=out)
        assert not out.exists()
        assert not list(out.parent.glob(".partial*"))

    def test_every_reader_is_given_corrupted_files(self) -> None:
        readers = {
            get_task(name).build.__module__
            for name in self.writers
            if get_task(name).files
        }
        enough = [
            name
            for name, corruptions in self.corruptions.items()
            if len(corruptions) >= 6
        ]
        assert readers == {get_task(name).build.__module__ for name in enough}

    def test_paper_splits_are_others(
        self, name: str, raw: Path, tmp_path: Path
    ) -> None:
        task = get_task(name)
        if task.paper_splits:
            held_out = task.prepare(raw=raw, out=tmp_path / "held-out")
            paper = task.prepare("paper", raw=raw, out=tmp_path / "paper")
            assert (
                prepared.directory_of(name, task.version, "paper").name
                == f"{task.version}-paper"
            )
            assert paper.fingerprint != held_out.fingerprint


def _assert_declared_scales_are_measured_ones(task: Task, data: PreparedData) -> None:
    """Assert that declared scales standardise data if and only if measured ones do.

    The statistics of inputs or targets are None if these are not standardised.
    """
    measured = replace(task, input_scale="measured", target_scale="measured")
    inputs = [
        input_statistics(data.train.x, variant.input_scale)
        for variant in (task, measured)
    ]
    assert (inputs[0] is None) == (inputs[1] is None), (
        "the declared input_scale is not that of the written files"
    )
    bare = replace(data, y_mean=None, y_std=None)
    targets = [
        with_target_statistics(variant, bare).y_mean for variant in (task, measured)
    ]
    assert (targets[0] is None) == (targets[1] is None), (
        "the declared target_scale is not that of the written files"
    )
