"""Find files of Hugging Face bodies in a local directory or in the hub's cache, and check them before they are used."""

import contextlib
import math
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orca_ray.data.cache import read_json
from orca_ray.data.download import Patience, check_answer
from orca_ray.errors import UserError, quoted, shorten

_NAMES = ("model.safetensors", "pytorch_model.bin")
WEIGHT_FILES = tuple(file for name in _NAMES for file in (name, f"{name}.index.json"))
"""Names of weight files, in order of preference: weights are read from the first that exists."""
_PREPROCESSOR = "preprocessor_config.json"
_STATISTICS = (("image_mean", 0.0), ("image_std", 1e-3))
"""Keys of the colours' mean and standard deviation in a preprocessor's file, and the least value of each; up to 1."""
_PATIENCE = Patience()


def local_file(base: str, name: str) -> Path | None:
    """Return the path of the file ``name`` in a local directory, or in the hub's cache; None if it is not there."""
    if Path(base).is_dir():
        path = Path(base) / name
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(base, name)
    except HFValidationError:
        return None
    return Path(cached) if isinstance(cached, str) else None


def check_hub(base: str, *names: str) -> None:
    """Raise download.Failed if no file of ``names`` is on this machine and the hub does not answer.

    With ``HF_HUB_OFFLINE``, nothing is checked. The hub's own client waits for many minutes if a server never answers.
    """
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE and not any(local_file(base, name) for name in names):
        check_answer(constants.ENDPOINT, _PATIENCE)


def _unreadable(base: str, reason: str) -> UserError:
    return UserError(f"cannot read the weights of body {base!r}: {reason}")


def weight_files(base: str) -> list[Path]:
    """Return the weight files of a local directory, or those of a hub name in the hub's cache; may be empty.

    Raises UserError if an index of weight files cannot be read or lists a missing file.
    """
    path = next(filter(None, (local_file(base, name) for name in WEIGHT_FILES)), None)
    if path is None or path.suffix != ".json":
        return [path] if path else []
    shards = read_json_file(base, path, "index of weights").get("weight_map")
    names = sorted(set(map(str, shards.values()))) if isinstance(shards, dict) else [""]
    files = {each: local_file(base, each) for each in names if each == Path(each).name}
    if absent := [each for each in names if files.get(each) is None]:
        reason = f"lists the file {absent[0]!r}, which is not in the same directory; get the missing files"
        raise _unreadable(base, f"{path} {reason}")
    return [file for file in files.values() if file is not None]


def check_weights(base: str) -> None:
    """Raise UserError if weights on this machine cannot be read. Only names and shapes of tensors are read, no values.

    A hub name whose weights are not yet downloaded is accepted.
    """
    paths = weight_files(base)
    if not paths and Path(base).is_dir():
        names = ", ".join(WEIGHT_FILES)
        raise _unreadable(base, f"the directory has none of {names}; save the model with save_pretrained")
    for path in paths:
        (_check_safetensors if path.suffix == ".safetensors" else _check_pickle)(base, path)


def image_statistics(base: str, *, download: bool = False) -> tuple[Tensor, Tensor] | None:
    """Return mean and standard deviation [3, 1, 1] of each colour, by which a body's images were normalised.

    They are read from ``preprocessor_config.json`` next to the weights, for pixel values scaled to 0 … 1, and are 0 and
    1 if that file says that images are not normalised. Return None if there is no such file or it has no statistics.
    ``download``: get the file of a hub name if it is not on this machine.
    Raises UserError if the file is not JSON, too large, or has values that are not three numbers in range.
    """
    path = local_file(base, _PREPROCESSOR)
    if path is None and download and not Path(base).is_dir():
        from huggingface_hub import hf_hub_download

        with contextlib.suppress(Exception):  # no such file, no network or no hub: it raises many types
            path = Path(hf_hub_download(base, _PREPROCESSOR))
    values = {} if path is None else read_json_file(base, path, "image preprocessor")
    if values.get("do_normalize") is False:
        return torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    if not any(name in values for name, _ in _STATISTICS):
        return None
    for name, least in _STATISTICS:
        found: Any = values.get(name)
        numbers = isinstance(found, list) and all(type(each) in (int, float) and least <= each <= 1 for each in found)
        if not (numbers and len(found) == 3):
            raise UserError(
                f"cannot read the image statistics of body {base!r}: {name} in {path} is {quoted(found)}, expected "
                f"three numbers from {least:g} to 1; correct it, or remove the file to use its class's usual values"
            )
    mean, std = (torch.tensor(values[name], dtype=torch.float32).view(3, 1, 1) for name, _ in _STATISTICS)
    return mean, std


def read_json_file(base: str, path: Path, what: str) -> dict[str, Any]:
    """Return the JSON object in a file of the body ``base``; UserError, which calls it ``what``, if unreadable."""
    start = f"cannot read a Hugging Face {what} in {base}"
    if not path.is_file():
        raise UserError(f"{start}: it has no file {path.name}; give a directory with config.json and model.safetensors")
    try:
        return read_json(path)
    except UserError as error:
        raise UserError(f"{start}: {error}; save the model again") from error


def cause(error: Exception) -> str:
    """Return the line with the reason in an error's message; if that line names an unsafe option, the error's type."""
    lines = str(error).strip().splitlines()
    if isinstance(error, KeyError):
        lines = [f"unknown name {error}"]
    elif lines and lines[0].endswith((":", "(")):  # e.g. "Validation error for field 'x':", or a printed module
        lines = [lines[-1].lstrip(") ")]
    if not lines or any(option in lines[0] for option in ("trust_remote_code", "weights_only", "Weights only")):
        return type(error).__name__
    return shorten(lines[0], 500)


def _check_safetensors(base: str, path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            num_values = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _unreadable(base, f"{path} is damaged ({cause(error)}); get the file again") from error
    if not num_values:
        raise _unreadable(base, f"{path} holds no tensors; get the file again")


def _check_pickle(base: str, path: Path) -> None:
    """Raise UserError if a pickle is damaged or holds objects other than tensors; values of tensors are not read."""
    try:
        # torch's older format is not a zip archive and cannot be memory-mapped.
        content = torch.load(path, map_location="meta", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged file raises UnpicklingError, RuntimeError, EOFError or others
        reason = f"holds objects other than tensors, which are never unpickled ({type(error).__name__})"
        advice = "get the file again, or save it as model.safetensors"
        raise _unreadable(base, f"{path} is damaged or {reason}; {advice}") from error
    if not isinstance(content, dict) or not content:
        raise _unreadable(base, f"{path} holds no named tensors; get the file again")
