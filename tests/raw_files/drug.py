"""Small files in the exact layout of the drug responses, as users bring them.

Features are sparse, and responses depend on a few of them.
"""

from functools import partial
from pathlib import Path

import numpy as np

from orca_ray.testing.tasks import (
    Corruption,
    Writer,
    changed,
    cut,
    deleted,
    garbage,
    with_item,
)
from tests.raw_files import Hostile


def write_drug(raw: Path, *, name: str) -> None:
    """Write the four arrays of a screen: 30 training rows and 8 test rows.

    GDSC's labels have a second axis.
    """
    random = np.random.RandomState(0)
    (raw / "drug_sep").mkdir(parents=True, exist_ok=True)
    weights = random.normal(0, 0.01, 3840)
    for split, num_rows in (("train", 30), ("test", 8)):
        features = (random.random_sample((num_rows, 1, 3840)) < 0.05).astype(np.float32)
        labels = (0.7 + features[:, 0] @ weights).astype(np.float32)
        if name == "gdsc":
            labels = labels[:, None]
        np.save(raw / f"drug_sep/{name}_{split}_feat.npy", features)
        np.save(raw / f"drug_sep/{name}_{split}_label.npy", labels)


def _one_row(*names: str) -> Writer:
    def corrupt(raw: Path) -> None:
        for name in names:
            changed(name, lambda x: x[:1])(raw)

    return corrupt


def _corruptions(name: str) -> list[Corruption]:
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


SCREENS = ("ctrp", "gdsc")

WRITERS: dict[str, Writer] = {
    f"drug/{name}": partial(write_drug, name=name) for name in SCREENS
}
CORRUPTIONS: dict[str, list[Corruption]] = {
    f"drug/{name}": _corruptions(name) for name in SCREENS
}
