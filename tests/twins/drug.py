"""Small files in the exact layout of the drug responses: sparse features, responses that depend on a few of them."""

from functools import partial
from pathlib import Path

import numpy as np

from orca_ray.testing.damages import Damage, Hostile, Writer, changed, cut, deleted, garbage, with_item


def write_drug(raw: Path, *, name: str) -> None:
    """Write the four arrays of a screen: 30 training rows and 8 test rows; GDSC's labels have a second axis."""
    random = np.random.RandomState(0)
    (raw / "drug_sep").mkdir(parents=True, exist_ok=True)
    weights = random.normal(0, 0.01, 3840)
    for split, num in (("train", 30), ("test", 8)):
        features = (random.random_sample((num, 1, 3840)) < 0.05).astype(np.float32)
        labels = 0.7 + features[:, 0] @ weights
        np.save(raw / f"drug_sep/{name}_{split}_feat.npy", features)
        shaped = labels[:, None] if name == "gdsc" else labels
        np.save(raw / f"drug_sep/{name}_{split}_label.npy", shaped.astype(np.float32))


def _bad(name: str) -> list[Damage]:
    return [
        (
            "missing",
            deleted(f"drug_sep/{name}_test_label.npy"),
            rf"1 of 4 raw files are not in .*{name}_test_label\.npy",
        ),
        ("truncated", cut(f"drug_sep/{name}_train_feat.npy"), rf"{name}_train_feat\.npy.*truncated"),
        ("garbage", garbage(f"drug_sep/{name}_test_feat.npy"), rf"{name}_test_feat\.npy: expected the header"),
        (
            "no channel axis",
            changed(f"drug_sep/{name}_train_feat.npy", lambda x: x[:, 0]),
            r"expected shape \[any, 1, 3840\], found \[30, 3840\]",
        ),
        (
            "NaN",
            changed(f"drug_sep/{name}_train_feat.npy", lambda x: with_item(x, -1, np.nan)),
            rf"{name}_train_feat\.npy: expected finite numbers",
        ),
        (
            "NaN response",
            changed(f"drug_sep/{name}_test_label.npy", lambda x: with_item(x, -1, np.nan)),
            rf"{name}_test_label\.npy: expected finite numbers",
        ),
        (
            "fewer labels",
            changed(f"drug_sep/{name}_train_label.npy", lambda y: y[1:]),
            rf"{name}_train_label\.npy: expected shape \[30\] or \[30, 1\]",
        ),
        (
            "text",
            changed(f"drug_sep/{name}_test_label.npy", lambda y: y.astype(str)),
            rf"{name}_test_label\.npy: expected an array",
        ),
        (
            "hostile pickle",
            changed(f"drug_sep/{name}_test_feat.npy", lambda x: np.array([Hostile()])),
            rf"{name}_test_feat\.npy: expected an array of numbers, found pickled objects",
        ),
    ]


TWINS: dict[str, Writer] = {f"drug/{name}": partial(write_drug, name=name) for name in ("ctrp", "gdsc")}

BAD: dict[str, list[Damage]] = {f"drug/{name}": _bad(name) for name in ("ctrp", "gdsc")}
