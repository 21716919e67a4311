"""Find the files of a folder and their classes: one sub-folder a class, or a table of labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orca_ray.data.readers import read_csv
from orca_ray.data.rows import Array, RowIndex
from orca_ray.errors import UserError, printable, quoted
from orca_ray.own_data.options import Options

_SPLITS = {"train": "train", "training": "train", "val": "validation", "valid": "validation"}
_SPLITS |= {"validation": "validation", "test": "test", "testing": "test"}
_TABLES = ("labels.csv", "metadata.csv")
_FILE_COLUMNS = ("file_name", "file", "filename", "path", "image")


@dataclass(frozen=True)
class FileSamples:
    """One sample a file, read when it is selected."""

    paths: Sequence[Path]
    read: Callable[[Path], Array]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, part: RowIndex) -> list[Array]:
        """Return the samples of the selected files."""
        return [self.read(self.paths[row]) for row in np.arange(len(self))[part]]


@dataclass(frozen=True)
class Listing:
    """The N files of a folder in the order of their names."""

    paths: list[Path]
    names: list[str]
    """Paths relative to the folder."""
    y: Array | None
    splits: Array | None
    notes: tuple[str, ...]


def list_folder(folder: Path, suffixes: Sequence[str], options: Options, labelled: bool) -> Listing:
    """Return the files with these suffixes, and their classes.

    A file's class is the name of the sub-folder that it is in; sub-folders ``train`` and ``test`` around those are
    splits. Files that are not in sub-folders get their labels from the column ``target`` of labels.csv (or
    metadata.csv), whose column ``file_name`` names them. A single file is a sample without a label. Raises UserError if
    there are no labels but ``labelled``.
    """
    if folder.is_file():
        return Listing([folder], [folder.name], None, None, ())
    every = sorted(file for file in folder.rglob("*") if _visible(file.relative_to(folder)) and file.is_file())
    paths = [file for file in every if file.suffix.lower() in suffixes]
    table = next((folder / name for name in _TABLES if (folder / name).is_file()), None)
    chosen = {*paths, table}
    skipped = [file.name for file in every if file not in chosen and file.suffix != ".yaml"]
    notes = [f"{len(skipped)} files of other types are left out, such as {printable(skipped[0])}"] if skipped else []
    parts = [file.relative_to(folder).parts for file in paths]
    splits = None
    heads = {part[0].lower() for part in parts if len(part) > 1}
    if heads and heads <= _SPLITS.keys() and len({_SPLITS[head] for head in heads}) > 1:
        splits = np.array([_SPLITS.get(part[0].lower(), "") for part in parts])
        parts = [part[1:] for part in parts]
    in_folders = [len(part) > 1 for part in parts]
    y: Array | None = None
    if any(in_folders):
        kept = [row for row, inside in enumerate(in_folders) if inside]
        if len(kept) < len(parts):
            notes.append(f"{len(parts) - len(kept)} files outside of the classes' sub-folders are left out")
        paths, parts = [paths[row] for row in kept], [parts[row] for row in kept]
        splits = None if splits is None else splits[kept]
        y = np.array([part[0] for part in parts])
        empty = [each.name for each in sorted(folder.iterdir()) if each.is_dir() and splits is None]
        if lacking := sorted(set(empty) - set(y.tolist()) - {name for name in empty if name.startswith(".")}):
            notes.append(f"sub-folders without files: {', '.join(map(printable, lacking))}")
    elif table is not None:
        y = _labels(table, [file.name for file in paths], options)
    elif labelled:
        raise UserError(f"{folder}: no labels: put the files of each class in a sub-folder, or add labels.csv")
    return Listing(paths, [file.relative_to(folder).as_posix() for file in paths], y, splits, tuple(notes))


def _visible(path: Path) -> bool:
    return not any(part.startswith((".", "__MACOSX")) for part in path.parts)


def _labels(table: Path, names: list[str], options: Options) -> Array:
    with table.open(encoding="utf-8-sig") as stream:
        header = [name.strip() for name in stream.readline().strip().split(",")]
    key = next((name for name in _FILE_COLUMNS if name in header), header[0])
    others = [name for name in header if name != key]
    wanted = options.target[0] if options.target else others[0] if len(others) == 1 else ""
    if wanted not in others:
        raise UserError(f"{table}: which column is the target? Name it with --target; columns: {', '.join(others)}")
    columns = read_csv(table, (key, wanted))
    found = {Path(name).name: label for name, label in zip(columns[key], columns[wanted], strict=True)}
    if missing := [name for name in names if name not in found]:
        raise UserError(f"{table}, column {key}: no row for the file {quoted(missing[0])}; add one, or remove the file")
    labels = np.array([found[name] for name in names])
    try:
        return labels.astype(np.float64)
    except ValueError:
        return labels
