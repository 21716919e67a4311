"""Small files in the exact layout of DomainNet's sketches and of the drug responses.

Sketches are scikit-learn's handwritten digits, drawn large: class k is the digit k mod
10, turned by k div 10 quarters. Drugs have sparse features, and responses that depend
on a few of them.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from orca_ray.testing.tasks import (
    Corruption,
    Writer,
    changed,
    cut,
    deleted,
    garbage,
    rewritten,
    with_item,
)

IMAGES_A_CLASS = {"train": 3, "test": 1}


def write_sketch(raw: Path) -> None:
    """Write ``sketch`` and its lists: 120 training and 40 test images of 80 × 64
    pixels, JPEG, every tenth one grey.
    """
    from sklearn.datasets import load_digits

    random = np.random.RandomState(0)
    pictures, digits = load_digits(return_X_y=True)
    for split, each in IMAGES_A_CLASS.items():
        lines = []
        for number in range(40 * each):
            label = number // each
            name = f"sketch/class_{label}/sketch_{label:03d}_{split}_{number:06d}.jpg"
            picture = pictures[
                random.choice(np.flatnonzero(digits == label % 10))
            ].reshape(8, 8)
            pixels = 255 - np.kron(
                np.rot90(picture, label // 10), np.full((10, 8), 15)
            ).astype(np.uint8)
            (raw / name).parent.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(pixels)
            (image if number % 10 == 0 else image.convert("RGB")).save(
                raw / name, quality=90
            )
            lines.append(f"{name} {label}")
        # The published lists end their lines as Windows does.
        (raw / f"sketch_{split}_mini.txt").write_bytes(
            "".join(f"{line}\r\n" for line in lines).encode()
        )


def write_drug(raw: Path, *, name: str) -> None:
    """Write the four arrays of a screen: 30 training rows and 8 test rows; GDSC's
    labels have a second axis.
    """
    random = np.random.RandomState(0)
    (raw / "drug_sep").mkdir(parents=True, exist_ok=True)
    weights = random.normal(0, 0.01, 3840)
    for split, num in (("train", 30), ("test", 8)):
        features = (random.random_sample((num, 1, 3840)) < 0.05).astype(np.float32)
        labels = 0.7 + features[:, 0] @ weights
        np.save(raw / f"drug_sep/{name}_{split}_feat.npy", features)
        shaped = labels[:, None] if name == "gdsc" else labels
        np.save(raw / f"drug_sep/{name}_{split}_label.npy", shaped.astype(np.float32))


class Hostile:
    """An object whose pickle runs a command when an ordinary unpickler reads it."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("true",)


def _one_row(*names: str) -> Writer:
    def corrupt(raw: Path) -> None:
        for name in names:
            changed(name, lambda x: x[:1])(raw)

    return corrupt


def _bad(name: str) -> list[Corruption]:
    train_x, train_y, test_x, test_y = (
        f"drug_sep/{name}_{split}_{field}.npy"
        for split in ("train", "test")
        for field in ("feat", "label")
    )
    return [
        (
            "missing",
            deleted(test_x),
            rf"1 of 4 raw files are not in .*{name}_test_feat\.npy",
        ),
        ("truncated", cut(test_x), rf"{name}_test_feat\.npy"),
        ("garbage", garbage(test_x), rf"{name}_test_feat\.npy"),
        (
            "no channel axis",
            changed(train_x, lambda x: x[:, 0]),
            r"shape \[any, 1, 3840\], found \[30, 3840\]",
        ),
        (
            "NaN",
            changed(train_x, lambda x: with_item(x, -1, np.nan)),
            r"_train_feat\.npy: expected finite numbers",
        ),
        (
            "NaN response",
            changed(test_y, lambda y: with_item(y, -1, np.nan)),
            r"_test_label\.npy: expected finite",
        ),
        (
            "fewer labels",
            changed(train_y, lambda y: y[1:]),
            r"_train_label\.npy: expected shape \[30\] or \[30, 1\]",
        ),
        (
            "one row",
            _one_row(train_x, train_y),
            r"_train_feat\.npy.*expected more than 1 training samples",
        ),
        (
            "text",
            changed(test_y, lambda y: y.astype(str)),
            r"_test_label\.npy: expected an array",
        ),
        (
            "hostile pickle",
            changed(test_x, lambda x: np.array([Hostile()])),
            r"of numbers, found pickled objects",
        ),
    ]


EPS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64"
    b" 64\n%%EndComments\nshowpage\n%%EOF\n"
)


def _image(save: Callable[[Path], object]) -> Writer:
    def corrupt(raw: Path) -> None:
        save(raw / _IMAGE)

    return corrupt


def _appended(line: str) -> Writer:
    return lambda raw: rewritten(
        raw / _LIST, lambda content: content + f"{line}\n".encode()
    )


def _one_of_a_class(raw: Path) -> None:
    path = raw / "sketch_train_mini.txt"
    lines = path.read_text().splitlines()
    path.write_text(
        "\n".join([*{line.split()[1]: line for line in lines}.values(), lines[0]])
    )


_OTHER = r"test_000007\.jpg: expected a whole JPEG or PNG image, found something else"
_IMAGE = "sketch/class_7/sketch_007_test_000007.jpg"
_LIST = "sketch_test_mini.txt"

WRITERS: dict[str, Writer] = {
    "domainnet/sketch": write_sketch,
    **{f"drug/{name}": partial(write_drug, name=name) for name in ("ctrp", "gdsc")},
}

CORRUPTIONS: dict[str, list[Corruption]] = {
    **{f"drug/{name}": _bad(name) for name in ("ctrp", "gdsc")},
    "domainnet/sketch": [
        (
            "missing",
            deleted(_LIST),
            r"1 of 3 raw files are not in .*sketch_test_mini\.txt",
        ),
        (
            "absent image",
            deleted(_IMAGE),
            r"test_mini\.txt, line 8: expected sketch/class_7/.* found no such file",
        ),
        (
            "truncated",
            cut(_IMAGE),
            r"test_000007\.jpg: expected a whole JPEG or PNG image",
        ),
        (
            "garbage",
            garbage(_IMAGE),
            r"test_000007\.jpg: expected a whole JPEG or PNG image",
        ),
        (
            "label 40",
            _appended(f"{_IMAGE} 40"),
            r"test_mini\.txt, line 41: .*0 to 39, found",
        ),
        (
            "no label",
            _appended(f"{_IMAGE}"),
            r"test_mini\.txt, line 41: expected the path of an image",
        ),
        (
            "outside",
            _appended("../key.jpg 3"),
            r"test_mini\.txt, line 41: expected the path of an image",
        ),
        (
            "eps named jpg",
            _image(lambda path: path.write_bytes(EPS)),
            _OTHER,
        ),  # Pillow would start Ghostscript
        ("gif", _image(partial(Image.new("RGB", (8, 8)).save, format="GIF")), _OTHER),
        (
            "many pixels",
            _image(partial(Image.new("1", (10_000, 6_000)).save, format="PNG")),
            "50,000,000 .* 10000×6000",
        ),
        (
            "label of 5000 digits",
            _appended(f"{_IMAGE} {'9' * 5000}"),
            "line 41: expected the path of an image",
        ),
        (
            "few of a class",
            _one_of_a_class,
            r"sketch_train_mini\.txt.* cannot hold out 40 of 41 samples",
        ),
        ("garbage list", garbage("sketch_train_mini.txt"), r"sketch_train_mini\.txt"),
    ],
}
