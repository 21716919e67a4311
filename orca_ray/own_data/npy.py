"""A pair of NumPy files: inputs ``x.npy`` with targets ``y.npy`` beside it, or the file that ``target`` names."""

from pathlib import Path

from orca_ray.data.npy import read_npy
from orca_ray.errors import UserError
from orca_ray.own_data._named import TARGET_NAMES, choose
from orca_ray.own_data.format import Format
from orca_ray.own_data.options import Options
from orca_ray.own_data.user_data import UserData


def _read(path: Path, options: Options, labelled: bool) -> UserData:
    files = {path.stem: path}
    if options.target:
        (given,) = options.target if len(options.target) == 1 else ("",)
        files["target"] = path.parent / given if given else path
    else:
        beside = [path.with_name(f"{_renamed(path.stem, name)}.npy") for name in TARGET_NAMES]
        found = [each for each in beside if each.is_file() and each != path]
        if found:
            files["target"] = found[0]
    if labelled and "target" not in files:
        raise UserError(f"{path}: no targets: put them in y.npy beside it, or name their file with --target")
    if "target" in files and not files["target"].is_file():
        if labelled:
            raise UserError(f"{path}: the target's file {files['target']} does not exist")
        del files["target"]
    arrays = {name: read_npy(file) for name, file in files.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    keys = Options(inputs=(path.stem,), target=("target",) if "target" in files else ())
    return choose(str(path), shapes, arrays.__getitem__, keys, labelled)


def _renamed(stem: str, name: str) -> str:
    """Return the stem of the targets' file: x → y, x_train → y_train, data → labels."""
    parts = stem.split("_")
    return (
        "_".join([name if part.lower() == "x" else part for part in parts]) if "x" in stem.lower().split("_") else name
    )


FORMAT = Format("NumPy pair x.npy and y.npy", (".npy",), _read)
