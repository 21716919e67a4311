"""Files, configurations and models of Hugging Face bodies.

They come from local directories and the hub, whose code is never run. Files may come
from strangers and are checked before they are used. A model is only built if it has at
most 1000 layers, fits the host's memory, and does not have far more parameters than its
weight files can hold.
"""

import contextlib
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orca_ray.data.cache import check_memory, read_json
from orca_ray.data.download import Patience, check_answer
from orca_ray.errors import UserError, nearest, quoted, shorten
from orca_ray.models.body import seeded
from orca_ray.models.family import Family, family_of
from orca_ray.models.names import PACKAGED, check_misspelt_body, list_bodies
from orca_ray.models.packaged import body_directory

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Names of weight files; weights are read from the first that exists."""
_PREPROCESSOR = "preprocessor_config.json"
"""Name of the file with a body's image preprocessing."""
_LEAST_STATISTICS = {"image_mean": 0.0, "image_std": 1e-3}
"""Least value of the colours' mean and standard deviation, by key in a preprocessor's
file; the largest value is 1.
"""
_PATIENCE = Patience()
"""Limits of waiting for the hub."""
_MOST_LAYERS = 1000
"""Largest number of layers that a configuration may declare."""
_CLASSIFIER = ("num_labels", "id2label", "label2id", "problem_type")
"""Keys that describe a classification head.

They are dropped: the head is not built, and long lists fill the memory.
"""
_ATTENTION = (None, "eager", "sdpa")
"""Allowed attention implementations, which are part of the Hugging Face library; others
are code from the hub.
"""


_UNSAFE_OPTIONS = ("trust_remote_code", "weights_only", "Weights only")
"""Words in messages of libraries that advise a user to switch a protection off."""
_MOST_CAUSE_CHARACTERS = 500
"""Largest number of characters of another library's message in an error."""


def local_file(base: str, name: str) -> Path | None:
    """Return the path of a file in a local directory or in the hub's cache.

    ``name`` is the name of the file; None if it is not there.
    """
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
    """Raise download.Failed if the hub is needed and does not answer.

    It is needed if no file of ``names`` is on this machine. With ``HF_HUB_OFFLINE``,
    nothing is checked. The hub's own client waits for many minutes if a server never
    answers.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or any(local_file(base, name) for name in names):
        return
    check_answer(constants.ENDPOINT, _PATIENCE)


def _unreadable(base: str, reason: str) -> UserError:
    return UserError(f"cannot read the weights of body {base!r}: {reason}")


def weight_files(base: str) -> list[Path]:
    """Return the weight files of a body that are on this machine; may be empty.

    They are in a local directory or, for a hub name, in the hub's cache. Raises
    UserError if an index of weight files cannot be read or lists a missing file.
    """
    candidates = (local_file(base, name) for name in WEIGHT_FILES)
    path = next((path for path in candidates if path is not None), None)
    if path is None:
        return []
    if path.suffix != ".json":
        return [path]
    shards = read_json_file(base, path, "index of weights").get("weight_map")
    names = [""]
    if isinstance(shards, dict):
        names = sorted(set(map(str, shards.values())))
    files = []
    for name in names:
        is_file_name = name == Path(name).name
        file = local_file(base, name) if is_file_name else None
        if file is None:
            reason = (
                f"lists the file {name!r}, which is not in the same directory; get the"
                " missing files"
            )
            raise _unreadable(base, f"{path} {reason}")
        files.append(file)
    return files


def check_weights(base: str) -> None:
    """Raise UserError if weights on this machine cannot be read.

    Only names and shapes of tensors are read, no values. A hub name whose weights are
    not yet downloaded is accepted.
    """
    paths = weight_files(base)
    if not paths and Path(base).is_dir():
        names = ", ".join(WEIGHT_FILES)
        raise _unreadable(
            base,
            f"the directory has none of {names}; save the model with save_pretrained",
        )
    for path in paths:
        if path.suffix == ".safetensors":
            _check_safetensors(base, path)
        else:
            _check_pickle(base, path)


def image_statistics(
    base: str, *, download: bool = False
) -> tuple[Tensor, Tensor] | None:
    """Return mean and deviation of each colour by which images were normalised.

    Both are [3, 1, 1]. They are read from ``preprocessor_config.json`` next to the
    weights, for pixel values scaled to 0 … 1, and are 0 and 1 if that file says that
    images are not normalised. Return None if there is no such file or it has no
    statistics. ``download``: get the file of a hub name if it is not on this machine.
    Raises UserError if the file is not JSON, too large, or has values that are not
    three numbers in range.
    """
    path = local_file(base, _PREPROCESSOR)
    if path is None and download and not Path(base).is_dir():
        from huggingface_hub import hf_hub_download

        # Without such a file, a network or a hub, it raises errors of many types.
        with contextlib.suppress(Exception):
            path = Path(hf_hub_download(base, _PREPROCESSOR))
    if path is None:
        return None
    values = read_json_file(base, path, "image preprocessor")
    if values.get("do_normalize") is False:
        return torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    if not any(name in values for name in _LEAST_STATISTICS):
        return None
    for name, least in _LEAST_STATISTICS.items():
        colours: Any = values.get(name)
        if not _are_colour_values(colours, least):
            raise UserError(
                f"cannot read the image statistics of body {base!r}: {name} in {path}"
                f" is {quoted(colours)}, expected three numbers from {least:g} to 1;"
                " correct it, or remove the file to use its class's usual values"
            )
    mean, std = (
        torch.tensor(values[name], dtype=torch.float32).view(3, 1, 1)
        for name in _LEAST_STATISTICS
    )
    return mean, std


def _are_colour_values(values: Any, least: float) -> bool:
    """Return whether ``values`` are three numbers from ``least`` to 1."""
    if not isinstance(values, list) or len(values) != 3:
        return False
    # bool is a subclass of int.
    return all(type(value) in (int, float) and least <= value <= 1 for value in values)


def read_json_file(base: str, path: Path, what: str) -> dict[str, Any]:
    """Return the JSON object in a file of the body ``base``.

    Raises UserError, which calls the file ``what``, if it is unreadable.
    """
    start = f"cannot read a Hugging Face {what} in {base}"
    if not path.is_file():
        raise UserError(
            f"{start}: it has no file {path.name}; give a directory with config.json"
            " and model.safetensors"
        )
    try:
        return read_json(path)
    except UserError as error:
        raise UserError(f"{start}: {error}; save the model again") from error


def cause(error: Exception) -> str:
    """Return the line with the reason in an error's message.

    If that line names an unsafe option, return the error's type.
    """
    lines = str(error).strip().splitlines()
    reason = lines[0] if lines else ""
    if isinstance(error, KeyError):
        reason = f"unknown name {error}"
    # E.g. "Validation error for field 'x':", or a printed module.
    elif reason.endswith((":", "(")):
        reason = lines[-1].lstrip(") ")
    names_unsafe_option = any(option in reason for option in _UNSAFE_OPTIONS)
    if not reason or names_unsafe_option:
        return type(error).__name__
    return shorten(reason, _MOST_CAUSE_CHARACTERS)


def _check_safetensors(base: str, path: Path) -> None:
    """Raise UserError if a safetensors file is damaged or has no values."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            num_values = sum(
                math.prod(file.get_slice(name).get_shape()) for name in names
            )
    except (SafetensorError, OSError) as error:
        raise _unreadable(
            base, f"{path} is damaged ({cause(error)}); get the file again"
        ) from error
    if not num_values:
        raise _unreadable(base, f"{path} holds no tensors; get the file again")


def _check_pickle(base: str, path: Path) -> None:
    """Raise UserError if a pickle is damaged or holds objects other than tensors.

    Values of tensors are not read.
    """
    try:
        # torch's older format is not a zip archive and cannot be memory-mapped.
        content = torch.load(
            path, map_location="meta", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    # A damaged file raises UnpicklingError, RuntimeError, EOFError or others.
    except Exception as error:
        reason = (
            "holds objects other than tensors, which are never unpickled"
            f" ({type(error).__name__})"
        )
        advice = "get the file again, or save it as model.safetensors"
        raise _unreadable(base, f"{path} is damaged or {reason}; {advice}") from error
    if not isinstance(content, dict) or not content:
        raise _unreadable(base, f"{path} holds no named tensors; get the file again")


def read_config(base: str) -> Any:
    """Return the Hugging Face configuration of ``base``.

    ``base`` is a packaged body, a local directory or a hub name. Raises UserError if
    the configuration does not exist, cannot be read, or asks for Python code from its
    repository.
    """
    from transformers import AutoConfig, PreTrainedConfig

    if base in PACKAGED:
        values = dict(PACKAGED[base].config)
        return AutoConfig.for_model(values.pop("model_type"), **values)
    check_misspelt_body(base)
    if Path(base).is_dir():
        # Raises an error that says what is wrong with the file.
        read_json_file(base, Path(base) / "config.json", "configuration")
    try:
        check_hub(base, "config.json")
        values, _ = PreTrainedConfig.get_config_dict(base)
        return make_config(base, values)
    except UserError:
        raise
    # Both Hugging Face libraries raise many types that they do not document.
    except Exception as error:
        raise _no_config(base, error) from error


def make_config(base: str, values: dict[str, Any]) -> Any:
    """Return the Hugging Face configuration with ``values``.

    The values may come from a stranger. Raises UserError if they ask for code from the
    hub or for too many layers. transformers raises many types of exceptions if it does
    not know ``model_type`` or refuses a value.
    """
    from transformers import CONFIG_MAPPING

    from orca_ray.models.transformers_private import attention_of

    if values.get("auto_map"):
        raise UserError(
            f"body {base!r} comes with Python code of its own (auto_map in its"
            " config.json), which never runs: use a body whose class is part of"
            " transformers; if this one's is, remove auto_map from a local copy"
        )
    values = _check_values(base, values)
    config = CONFIG_MAPPING[str(values.get("model_type"))].from_dict(values)
    attention = attention_of(config)
    if attention not in _ATTENTION:
        raise UserError(
            f"body {base!r} asks for the attention {attention!r} in its config.json,"
            " code from the hub, which never runs: allowed are 'eager' and 'sdpa', or"
            " none"
        )
    return config


def _check_values(base: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return ``values`` without the keys `_CLASSIFIER`, also in nested dictionaries.

    Raises UserError for too many layers.
    """
    for key, value in values.items():
        if "layers" in key and isinstance(value, int) and value > _MOST_LAYERS:
            raise UserError(
                f"body {base!r} declares {shorten(value)} layers: 1 to {_MOST_LAYERS}"
                " are allowed"
            )
    return {
        key: _check_values(base, value) if isinstance(value, dict) else value
        for key, value in values.items()
        if key not in _CLASSIFIER
    }


def check_config(base: str, config: Any) -> Family:
    """Return the family of a configuration.

    Raises UserError if `check_size` fails or the weight files are far too small.
    """
    family, num_parameters = check_size(base, config)
    stored = sum(path.stat().st_size for path in weight_files(base))
    # Even in 4 bits, a parameter takes half a byte.
    if stored and num_parameters > 2 * stored:
        raise UserError(
            f"body {base!r} declares {num_parameters:,} parameters, and its weights are"
            f" only {stored:,} bytes: its config.json belongs to another body, or the"
            " weights are damaged"
        )
    return family


def check_size(base: str, config: Any) -> tuple[Family, int]:
    """Return the family of a configuration and its model's number of parameters.

    The model is built on torch's meta device, which allocates no memory. Raises
    UserError if the configuration belongs to no family, or if the model is too large or
    cannot be built.
    """
    from transformers import AutoModel

    family = family_of(config)
    try:
        depths = family.depths(config)
        num_layers = sum(depths)
        is_allowed = len(depths) <= _MOST_LAYERS and 1 <= num_layers <= _MOST_LAYERS
    except (AttributeError, TypeError) as error:
        raise UserError(
            f"the configuration of body {base!r} has no number of layers"
            f" ({cause(error)})"
        ) from error
    if not is_allowed:
        raise UserError(
            f"body {base!r} declares {num_layers} layers: 1 to {_MOST_LAYERS} are"
            " allowed"
        )
    try:
        with seeded(0), torch.device("meta"), quiet_transformers():
            model = AutoModel.from_config(config, trust_remote_code=False)
    # A constructor may raise anything if sizes in the configuration contradict each
    # other.
    except Exception as error:
        raise UserError(
            f"cannot build body {base!r} from its configuration: {cause(error)}"
        ) from error
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    check_memory(
        4 * num_parameters,  # float32
        f"body {base!r} declares {num_parameters:,} parameters",
        "use a smaller body",
    )
    return family, num_parameters


def read_weights(base: str, config: Any) -> Any:
    """Return the pretrained model, downloaded if needed.

    Raises UserError if the weights are bad or do not fit ``config``.
    """
    from transformers import AutoModel

    is_packaged = base in PACKAGED
    if not is_packaged:
        check_weights(base)
    source = body_directory(PACKAGED[base]) if is_packaged else base
    try:
        if not is_packaged:
            check_hub(base, *WEIGHT_FILES)
        model, report = AutoModel.from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
        )
    except Exception as error:  # safetensors, OS and hub errors alike
        raise UserError(
            f"cannot read the weights of body {base!r}: {cause(error)}"
        ) from error
    missing = [key for key in report["missing_keys"] if not key.startswith("pooler.")]
    misfits = sorted([*missing, *map(str, report["mismatched_keys"])])
    if misfits:
        raise UserError(
            f"the weights of body {base!r} do not fit its configuration: {len(misfits)}"
            f" tensors are missing or have another shape, e.g. {misfits[0]}. A body"
            " with random parts is never called pretrained."
        )
    return model


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Let the Hugging Face library log only errors in the block.

    It shows no progress bars either.
    """
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def _no_config(base: str, error: Exception) -> UserError:
    """Return the message for a configuration that cannot be read, as a UserError."""
    if Path(base).is_dir():
        return UserError(
            f"cannot read a Hugging Face configuration in {base}: {cause(error)}. Its"
            " model_type and values must be those of a class that is part of"
            " transformers."
        )
    listed_name = nearest(base, [body.name for body in list_bodies()])
    if listed_name == base:
        return UserError(
            f"body {base!r} comes from a model hub, which did not provide it"
            f" ({cause(error)}): run 'orca-sweep bodies --fetch {base}' where there is"
            " a network and take $HF_HOME along, or name another body (--body"
            " minilm-l6, for images vit-s14)"
        )
    question = f" Did you mean {listed_name!r}?" if listed_name else ""
    return UserError(
        f"unknown body {base!r}: neither packaged ({', '.join(PACKAGED)}) nor a local"
        f" directory, and the hub did not provide it ({cause(error)}).{question}"
        " Without a hub, give the path of a directory with config.json and"
        " model.safetensors."
    )
