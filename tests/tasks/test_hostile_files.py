"""Files made to start programs, fill the memory or break a reader end as errors that name the task and the file."""

import pickle
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from orca_ray.errors import UserError
from orca_ray.tasks.openml._encoding import classes, encode
from orca_ray.tasks.openml._table import Nominal
from orca_ray.tasks.registry import get_task
from orca_ray.testing.damages import Writer, rewritten
from tests.twins import twins

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"
LIST = "sketch_train_mini.txt"


def _image(save: Callable[[Path], Any]) -> Writer:
    """Return a damage that replaces the first image of a list."""
    return lambda raw: save(raw / (raw / LIST).read_text().split()[0])


def _listing(change: Callable[[list[str]], list[str]]) -> Writer:
    return lambda raw: _write(raw / LIST, "\n".join(change((raw / LIST).read_text().splitlines())))


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def _one_of_a_class(lines: list[str]) -> list[str]:
    return [*{line.split()[1]: line for line in lines}.values(), lines[0]]


def _protein(field: str, value: Any) -> Writer:
    """Return a damage to the features of a protein, or to its length."""

    def damage(raw: Path) -> None:
        if field == "length":
            path = sorted((raw / "protein/deepcov/distance").glob("*-cb.npy"))[0]
            content = np.load(path, allow_pickle=True)
            content[0] = value
            np.save(path, content)
        else:
            path = sorted((raw / "protein/deepcov/features").glob("*.pkl"))[0]
            path.write_bytes(pickle.dumps({**pickle.loads(path.read_bytes()), field: value}))

    return damage


def _labels(labels: Any) -> Writer:
    """Return a damage to the labels of Satellite."""

    def damage(raw: Path) -> None:
        content = np.load(raw / "satellite_train.npy", allow_pickle=True).item()
        np.save(raw / "satellite_train.npy", np.array({**content, "label": labels}, dtype=object))

    return damage


def _no_larger_than_test(raw: Path) -> None:
    rewritten(raw / "satellite_train.npy", lambda _: (raw / "satellite_test.npy").read_bytes())


def _one_row(raw: Path) -> None:
    for field in ("feat", "label"):
        path = raw / f"drug_sep/ctrp_train_{field}.npy"
        np.save(path, np.load(path)[:1])


SKETCH, FSD50K, PSICOV = "domainnet/sketch", "nasbench360/fsd50k", "nasbench360/psicov"
SATELLITE, DRUG = "nasbench360/satellite", "drug/ctrp"
OTHER_FORMAT = "raw/sketch/.* expected a whole JPEG or PNG image, found something else"
IMAGE = Image.new("RGB", (8, 8))
MANY = Image.new("1", (10_000, 6_000))
FEATURES: list[tuple[str, Any]] = [("seq", 7), ("seq", None), ("ss", [[1], [2, 3]]), ("ss", b"1"), ("sa", {"a": 1})]
LENGTHS: list[Any] = ["text", None, np.arange(3), 10**30]
LABELS: list[Any] = [["one"] * 80, [[[1], [2, 3]]] * 80, [None] * 80, [10**30] * 80, "N" * 80, 80, [float("nan")] * 80]
HOSTILE: list[tuple[str, Writer, str]] = [
    (SKETCH, _image(lambda path: path.write_bytes(EPS)), OTHER_FORMAT),  # Pillow would start Ghostscript
    *((SKETCH, _image(partial(IMAGE.save, format=kind)), OTHER_FORMAT) for kind in ("GIF", "TIFF")),
    (SKETCH, _image(partial(MANY.save, format="PNG")), "raw/.* at most 50,000,000 pixels, found 10000×6000"),
    (SKETCH, _listing(lambda lines: [f"{lines[0].split()[0]} {'9' * 5000}", *lines[1:]]), f"{LIST}, line 1: expected"),
    (SKETCH, _listing(_one_of_a_class), rf"{LIST}.* cannot hold out 40 of 41 samples"),
    (FSD50K, lambda raw: _write(raw / "chunks/lbl_map.json", "[" * 10**6), r"lbl_map\.json.*expected JSON, found some"),
    *((PSICOV, _protein(field, value), r"\.pkl.*expected") for field, value in FEATURES),
    *((PSICOV, _protein("length", value), r"-cb\.npy.*expected") for value in LENGTHS),
    *((SATELLITE, _labels(labels), r"satellite_train\.npy.*label") for labels in LABELS),
    (
        SATELLITE,
        _no_larger_than_test,
        r"satellite_train\.npy.*more than \d+ training samples, because as many are held",
    ),
    (DRUG, _one_row, r"ctrp_train_feat\.npy.*expected more than 1 training samples"),
]


@pytest.mark.parametrize(("task", "spoil", "message"), HOSTILE)
def test_hostile_files_are_refused_by_name_and_start_no_program(
    task: str, spoil: Writer, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_program(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", no_program)
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    twins()[task](raw)
    spoil(raw)
    with pytest.raises(UserError, match=f"(?s){message}") as caught:
        get_task(task).prepare(raw=raw, out=out)
    assert task in str(caught.value)
    assert not out.exists()


@pytest.mark.slow
def test_more_categories_than_the_memory_holds_are_refused() -> None:
    """40,000 rows of as many categories, in 200 such columns, would take a terabyte."""
    values = tuple(f"c{i}" for i in range(40_000))
    columns = [Nominal(f"column {i}", values, values) for i in range(200)]
    with pytest.raises(UserError, match=re.escape("openml/1: column 'column 0' has 40,000 categories")) as caught:
        encode("openml/1", columns, np.arange(10))
    assert "GiB of memory; leave the column out" in str(caught.value)
    labels, occurring = classes("openml/1", columns[0])
    assert len(occurring) == len(set(labels.tolist())) == 40_000
