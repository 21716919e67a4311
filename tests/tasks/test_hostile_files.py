"""Files made to start programs, fill the memory or break a reader end as errors that name the task and the file."""

import pickle
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from orca_ray.errors import UserError
from orca_ray.tasks.openml._encoding import classes, encode
from orca_ray.tasks.openml._table import Nominal
from orca_ray.tasks.registry import get_task
from tests.twins import twins


def refused(task: str, tmp_path: Path, spoil: Callable[[Path], None], file: str, message: str) -> None:
    """Preparing a spoilt twin names the task and the file, in bounded time, and leaves nothing."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    twins()[task](raw)
    spoil(raw)
    started = time.perf_counter()
    with pytest.raises(UserError, match=message) as caught:
        get_task(task).prepare(raw=raw, out=out)
    assert task in str(caught.value)
    assert file in str(caught.value)
    assert time.perf_counter() - started < 10
    assert not out.exists()


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 64 64
%%EndComments
showpage
%%EOF
"""


def _replace_image(raw: Path, save: Callable[[Path], Any]) -> None:
    first = (raw / "sketch_train_mini.txt").read_text().split()[0]
    save(raw / first)


def test_an_eps_named_png_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_program(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", no_program)
    refused(
        "domainnet/sketch",
        tmp_path,
        lambda raw: _replace_image(raw, lambda path: path.write_bytes(EPS)),
        str(tmp_path / "raw"),
        "expected a whole JPEG or PNG image, found something else",
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_other_formats_are_refused(kind: str, tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8))
    refused(
        "domainnet/sketch",
        tmp_path,
        lambda raw: _replace_image(raw, lambda path: image.save(path, format=kind)),
        str(tmp_path / "raw"),
        "expected a whole JPEG or PNG image, found something else",
    )


def test_an_image_that_declares_many_pixels_is_not_decoded(tmp_path: Path) -> None:
    image = Image.new("1", (10_000, 6_000))
    refused(
        "domainnet/sketch",
        tmp_path,
        lambda raw: _replace_image(raw, lambda path: image.save(path, format="PNG")),
        str(tmp_path / "raw"),
        "expected at most 50,000,000 pixels, found 10000×6000",
    )


def test_a_class_of_5000_digits_is_refused(tmp_path: Path) -> None:
    def spoil(raw: Path) -> None:
        listing = raw / "sketch_train_mini.txt"
        lines = listing.read_text().splitlines()
        lines[0] = f"{lines[0].split()[0]} {'9' * 5000}"
        listing.write_text("\n".join(lines))

    refused("domainnet/sketch", tmp_path, spoil, "sketch_train_mini.txt", "line 1: expected the path of an image")


@pytest.mark.slow
def test_more_categories_than_the_memory_holds_are_refused() -> None:
    """40,000 rows of as many categories, in 200 such columns, would take a terabyte."""
    values = tuple(f"c{i}" for i in range(40_000))
    columns = [Nominal(f"column {i}", values, values) for i in range(200)]
    started = time.process_time()
    with pytest.raises(UserError, match=re.escape("openml/1: column 'column 0' has 40,000 categories")) as caught:
        encode("openml/1", columns, np.arange(10))
    assert "GiB of memory; leave the column out" in str(caught.value)
    labels, occurring = classes("openml/1", columns[0])
    assert len(occurring) == 40_000
    assert len(set(labels.tolist())) == 40_000
    assert time.process_time() - started < 10


def test_deep_json_is_refused(tmp_path: Path) -> None:
    def spoil(raw: Path) -> None:
        (raw / "chunks/lbl_map.json").write_text("[" * 10**6)

    refused("nasbench360/fsd50k", tmp_path, spoil, "lbl_map.json", "expected JSON, found something else")


def _repickled(path: Path, change: Callable[[Any], Any]) -> None:
    path.write_bytes(pickle.dumps(change(pickle.loads(path.read_bytes()))))


@pytest.mark.parametrize("value", ["text", 7, None, b"1", [], [[1], [2, 3]], {"a": 1}])
@pytest.mark.parametrize("field", ["seq", "ss", "sa", "ccmpred"])
def test_other_values_in_a_protein_are_refused(field: str, value: Any, tmp_path: Path) -> None:
    def spoil(raw: Path) -> None:
        path = sorted((raw / "protein/deepcov/features").glob("*.pkl"))[0]
        _repickled(path, lambda content: {**content, field: value})

    refused("nasbench360/psicov", tmp_path, spoil, ".pkl", "expected")


@pytest.mark.parametrize("value", ["text", None, np.arange(3), [1], 10**30])
def test_a_length_of_a_protein_that_is_no_number_is_refused(value: Any, tmp_path: Path) -> None:
    def spoil(raw: Path) -> None:
        path = sorted((raw / "protein/deepcov/distance").glob("*-cb.npy"))[0]
        content = np.load(path, allow_pickle=True)
        content[0] = value
        np.save(path, content)

    refused("nasbench360/psicov", tmp_path, spoil, "-cb.npy", "expected")


@pytest.mark.parametrize(
    "labels",
    [
        ["one"] * 80,
        [[1], [2, 3]] * 40,
        [[[1], [2, 3]]] * 80,
        [None] * 80,
        [10**30] * 80,
        "N" * 80,
        80,
        [float("nan")] * 80,
        [1.5] * 80,
    ],
    ids=["text", "ragged", "deeply ragged", "None", "huge", "letters", "a number", "NaN", "fractions"],
)
def test_labels_that_are_no_numbers_are_refused(labels: Any, tmp_path: Path) -> None:
    def spoil(raw: Path) -> None:
        path = raw / "satellite_train.npy"
        content = np.load(path, allow_pickle=True).item()
        np.save(path, np.array({**content, "label": labels}, dtype=object))

    refused("nasbench360/satellite", tmp_path, spoil, "satellite_train.npy", "label")


def test_a_test_set_larger_than_train_is_refused(tmp_path: Path) -> None:
    """The error is about the file, not about a split of a negative size."""

    def spoil(raw: Path) -> None:
        (raw / "satellite_train.npy").write_bytes((raw / "satellite_test.npy").read_bytes())

    refused(
        "nasbench360/satellite",
        tmp_path,
        spoil,
        "satellite_train.npy",
        "expected more than [0-9]+ training samples, because as many are held out for validation",
    )


def test_one_row_leaves_nothing_to_train_on(tmp_path: Path) -> None:
    def spoil(raw: Path) -> None:
        for field in ("feat", "label"):
            path = raw / f"drug_sep/ctrp_train_{field}.npy"
            np.save(path, np.load(path)[:1])

    refused("drug/ctrp", tmp_path, spoil, "ctrp_train_feat.npy", "expected more than 1 training samples")


def test_too_few_samples_of_a_class_are_told_with_the_file(tmp_path: Path) -> None:
    def spoil(raw: Path) -> None:
        listing = raw / "sketch_train_mini.txt"
        lines = {line.split()[1]: line for line in listing.read_text().splitlines()}
        listing.write_text("\n".join([*lines.values(), listing.read_text().splitlines()[0]]))

    refused("domainnet/sketch", tmp_path, spoil, "sketch_train_mini.txt", "cannot hold out 40 of 41 samples")
