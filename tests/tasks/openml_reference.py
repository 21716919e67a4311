"""Runs the reference's own OpenML loader on a table: ``python openml_reference.py CHECKOUT TABLE.json OUT.npz``.

Only the definitions of the loader are taken out of its module, which imports much else. What it calls is stood in
for where that is not there or has changed: the ``openml`` package gives the table of the file, the random split is the
one of the file, and pandas lets a column change its categories in place, as it did when the reference was written.
"""

import ast
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

WANTED = {"load_openml", "prepare_data", "load_openml_dataset", "DataGenerator", "UnitGaussianNormalizer"}


def main(checkout: str, given: str, out: str) -> None:
    table = json.loads(Path(given).read_text())
    sys.modules["openml"] = _openml(table)
    _restore_pandas()
    names = _definitions(Path(checkout) / "src" / "data_loaders.py", table)
    scratch = Path(out).parent
    train, _, test = names["load_openml"](str(scratch), 8, table["id"])
    arrays: dict[str, Any] = {}
    for split, loader in (("train", train), ("test", test)):
        x, y = loader.dataset.tensors
        arrays |= {f"{split}_x": x.numpy(), f"{split}_y": y.numpy()}
    np.savez(out, **arrays)


def _openml(table: dict[str, Any]) -> ModuleType:
    frame, is_nominal = {}, []
    for i, (name, kind) in enumerate(table["columns"]):
        values = [row[i] for row in table["rows"]]
        if isinstance(kind, list):
            frame[name] = pd.Series(pd.Categorical(values, categories=np.array(kind, dtype=object)))
        else:
            frame[name] = pd.Series(values, dtype="float64")
        if name != table["target"]:
            is_nominal.append(isinstance(kind, list))
    y = frame.pop(table["target"])
    data = (pd.DataFrame(frame), y, is_nominal, list(frame))
    found = SimpleNamespace(default_target_attribute=table["target"], get_data=lambda target: data)
    module = ModuleType("openml")
    module.datasets = SimpleNamespace(get_dataset=lambda dataset_id: found)  # type: ignore[attr-defined]
    return module


def _restore_pandas() -> None:
    np.NaN = np.nan  # type: ignore[attr-defined]
    indexer = type(pd.DataFrame().iloc)
    original = indexer.__setitem__

    def set_item(self: Any, key: Any, value: Any) -> None:
        whole_column = isinstance(key, tuple) and key[0] == slice(None) and isinstance(key[1], int)
        if whole_column and isinstance(value, pd.Series) and isinstance(value.dtype, pd.CategoricalDtype):
            self.obj.isetitem(key[1], value)
        else:
            original(self, key, value)

    indexer.__setitem__ = set_item  # type: ignore[method-assign]


def _definitions(path: Path, table: dict[str, Any]) -> dict[str, Any]:
    import torch
    import torch.utils.data
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    class Split:
        def __init__(self, **_: Any) -> None: ...

        def split(self, x: Any, y: Any) -> Any:
            yield np.array(table["dev"]), np.array(table["test"])

    names: dict[str, Any] = {"np": np, "pd": pd, "torch": torch, "os": __import__("os")}
    names |= {"OneHotEncoder": OneHotEncoder, "StandardScaler": StandardScaler, "StratifiedShuffleSplit": Split}
    tree = ast.parse(path.read_text())
    tree.body = [each for each in tree.body if getattr(each, "name", "") in WANTED]
    found = {getattr(each, "name", "") for each in tree.body}
    assert found == WANTED, f"the reference lacks {WANTED - found}"
    exec(compile(tree, str(path), "exec"), names)
    return names


if __name__ == "__main__":
    main(*sys.argv[1:])
