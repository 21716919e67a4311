"""Data sets that Hugging Face's ``save_to_disk`` wrote: Arrow files, memory-mapped, and their features in JSON."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from orca_ray.data import cache
from orca_ray.errors import UserError, shorten
from orca_ray.own_data._tables import from_arrow
from orca_ray.own_data.format import Format
from orca_ray.own_data.options import Options
from orca_ray.own_data.user_data import UserData

_DICT, _STATE = "dataset_dict.json", "state.json"
_SPLITS = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}


def _read(path: Path, options: Options, labelled: bool) -> UserData:
    import pyarrow as pa

    if not (path / _DICT).is_file():
        table, features = _part(path)
        return _samples(path, table, features, options, labelled)
    names = [str(name) for name in cache.read_json(path / _DICT).get("splits", [])]
    parts = {name: _part(path / Path(name).name) for name in names}
    if not parts:
        raise UserError(f"{path / _DICT}: expected the names of splits, found none")
    try:
        table = pa.concat_tables([table for table, _ in parts.values()])
    except pa.ArrowInvalid as error:
        raise UserError(f"{path}: its splits {', '.join(names)} have different columns") from error
    data = _samples(path, table, next(iter(parts.values()))[1], options, labelled)
    if len(parts) == 1 or data.splits is not None:
        return data
    kinds = np.repeat([_SPLITS.get(name, "test") for name in names], [table.num_rows for table, _ in parts.values()])
    return replace(data, splits=kinds)


def _part(folder: Path) -> "tuple[Any, Mapping[str, Any]]":
    import pyarrow as pa

    state, info = cache.read_json(folder / _STATE), cache.read_json(folder / "dataset_info.json")
    files = [folder / Path(str(entry.get("filename", ""))).name for entry in state.get("_data_files", [])]
    tables = []
    for file in files:
        cache.check_special(file)
        try:
            tables.append(pa.ipc.open_stream(pa.memory_map(str(file))).read_all())
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{file}: expected an Arrow file of 'save_to_disk': {shorten(error)}") from error
    if not tables:
        raise UserError(f"{folder / _STATE}: expected names of Arrow files, found none")
    features = info.get("features")
    return pa.concat_tables(tables), features if isinstance(features, dict) else {}


def _samples(path: Path, table: Any, features: Mapping[str, Any], options: Options, labelled: bool) -> UserData:
    kinds = {name: found.get("_type") for name, found in features.items() if isinstance(found, dict)}
    images = tuple(name for name, kind in kinds.items() if kind == "Image")
    labels = {name: tuple(map(str, features[name].get("names", ()))) for name, k in kinds.items() if k == "ClassLabel"}
    if not options.target and len(labels) == 1:
        options = Options(target=tuple(labels)).over(options)
    return from_arrow(str(path), table, options, labelled, images=images, label_names=labels)


FORMAT = Format("Hugging Face data set on disk", (".arrow",), _read, folder=True, markers=(_DICT, _STATE))
