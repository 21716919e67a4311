"""Configurations and models of Hugging Face bodies, from local directories and the hub, whose code is never run.

Files may come from strangers. Before a model is built, these checks are made: that it has at most 1000 layers, fits the
host's memory, and does not have far more parameters than its weight files can hold.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from orca_ray.data.cache import check_memory
from orca_ray.errors import UserError, nearest, shorten
from orca_ray.models.body import seeded
from orca_ray.models.body_files import WEIGHT_FILES, cause, check_hub, check_weights, read_json_file, weight_files
from orca_ray.models.family import Family, family_of
from orca_ray.models.names import PACKAGED, check_misspelt_body, list_bodies
from orca_ray.models.packaged import body_directory

_MOST_LAYERS = 1000
_CLASSIFIER = ("num_labels", "id2label", "label2id", "problem_type")
"""Keys that describe a classification head. They are dropped: the head is not built, and long lists fill the memory."""
_ATTENTION = (None, "eager", "sdpa")
"""Allowed attention implementations, which are part of the Hugging Face library; others are code from the hub."""


def read_config(base: str) -> Any:
    """Return the Hugging Face configuration of ``base``: a packaged body, a local directory or a hub name.

    Raises UserError if the configuration does not exist, cannot be read, or asks for Python code from its repository.
    """
    from transformers import AutoConfig, PreTrainedConfig

    if base in PACKAGED:
        values = dict(PACKAGED[base].config)
        return AutoConfig.for_model(values.pop("model_type"), **values)
    check_misspelt_body(base)
    if Path(base).is_dir():
        read_json_file(base, Path(base) / "config.json", "configuration")  # names what is wrong with the file
    try:
        check_hub(base, "config.json")
        values, _ = PreTrainedConfig.get_config_dict(base)
        return make_config(base, values)
    except UserError:
        raise
    except Exception as error:  # both Hugging Face libraries raise many types that they do not document
        raise _no_config(base, error) from error


def make_config(base: str, values: dict[str, Any]) -> Any:
    """Return the Hugging Face configuration with ``values``, which may come from a stranger.

    Raises UserError if the values ask for code from the hub or for too many layers. transformers raises many types of
    exceptions if it does not know ``model_type`` or refuses a value.
    """
    from transformers import CONFIG_MAPPING

    if values.get("auto_map"):
        raise UserError(
            f"body {base!r} comes with Python code of its own (auto_map in its config.json), which never runs: use a "
            "body whose class is part of transformers; if this one's is, remove auto_map from a local copy"
        )
    values = _bounded(base, values)
    config = CONFIG_MAPPING[str(values.get("model_type"))].from_dict(values)
    if (attention := attention_of(config)) not in _ATTENTION:
        raise UserError(
            f"body {base!r} asks for the attention {attention!r} in its config.json, code from the hub, which never "
            "runs: allowed are 'eager' and 'sdpa', or none"
        )
    return config


def attention_of(config: Any) -> str | None:
    """Return the attention implementation that a configuration asks for; None: the library's default.

    The attribute is private, because transformers has no public way to read it; it was read in version 5.24.
    """
    attention: str | None = getattr(config, "_attn_implementation", None)
    return attention


def _bounded(base: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return ``values`` without the keys `_CLASSIFIER`, also in nested dictionaries; UserError for too many layers."""
    for key, value in values.items():
        if "layers" in key and isinstance(value, int) and value > _MOST_LAYERS:
            raise UserError(f"body {base!r} declares {shorten(value)} layers: 1 to {_MOST_LAYERS} are allowed")
    return {
        key: _bounded(base, value) if isinstance(value, dict) else value
        for key, value in values.items()
        if key not in _CLASSIFIER
    }


def check_config(base: str, config: Any) -> Family:
    """Return the family of a configuration; UserError if `check_size` fails or the weight files are far too small."""
    family, num_parameters = check_size(base, config)
    stored = sum(path.stat().st_size for path in weight_files(base))
    if stored and num_parameters > 2 * stored:
        raise UserError(
            f"body {base!r} declares {num_parameters:,} parameters, and its weights are only {stored:,} bytes: its "
            "config.json belongs to another body, or the weights are damaged"
        )
    return family


def check_size(base: str, config: Any) -> tuple[Family, int]:
    """Return the family of a configuration and the number of parameters of its model.

    The model is built on torch's meta device, which allocates no memory. Raises UserError if the configuration belongs
    to no family, or if the model is too large or cannot be built.
    """
    from transformers import AutoModel

    family = family_of(config)
    try:
        depths = family.depths(config)
        too_deep = len(depths) > _MOST_LAYERS or not 1 <= sum(depths) <= _MOST_LAYERS
    except (AttributeError, TypeError) as error:
        raise UserError(f"the configuration of body {base!r} has no number of layers ({cause(error)})") from error
    if too_deep:
        raise UserError(f"body {base!r} declares {sum(depths)} layers: 1 to {_MOST_LAYERS} are allowed")
    try:
        with seeded(0), torch.device("meta"), quiet_transformers():
            model = AutoModel.from_config(config, trust_remote_code=False)
    except Exception as error:  # a constructor may raise anything if sizes in the configuration contradict each other
        raise UserError(f"cannot build body {base!r} from its configuration: {cause(error)}") from error
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    check_memory(4 * num_parameters, f"body {base!r} declares {num_parameters:,} parameters", "use a smaller body")
    return family, num_parameters


def read_weights(base: str, config: Any) -> Any:
    """Return the pretrained model, downloaded if needed; UserError if the weights are bad or do not fit ``config``."""
    from transformers import AutoModel

    if base not in PACKAGED:
        check_weights(base)
    source = body_directory(PACKAGED[base]) if base in PACKAGED else base
    try:
        if base not in PACKAGED:
            check_hub(base, *WEIGHT_FILES)
        model, report = AutoModel.from_pretrained(
            source, config=config, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
    except Exception as error:  # safetensors, OS and hub errors alike
        raise UserError(f"cannot read the weights of body {base!r}: {cause(error)}") from error
    missing = [key for key in report["missing_keys"] if not key.startswith("pooler.")]
    if wrong := sorted([*missing, *map(str, report["mismatched_keys"])]):
        raise UserError(
            f"the weights of body {base!r} do not fit its configuration: {len(wrong)} tensors are missing or have "
            f"another shape, e.g. {wrong[0]}. A body with random parts is never called pretrained."
        )
    return model


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """In the block, let the Hugging Face library show no progress bars and log no warnings, only errors."""
    from transformers.utils import logging as transformers_logging

    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def _no_config(base: str, error: Exception) -> UserError:
    if Path(base).is_dir():
        return UserError(
            f"cannot read a Hugging Face configuration in {base}: {cause(error)}. Its model_type and values must be "
            "those of a class that is part of transformers."
        )
    known = nearest(base, [body.name for body in list_bodies()])
    if known == base:
        return UserError(
            f"body {base!r} comes from a model hub, which did not provide it ({cause(error)}): run "
            f"'orca-sweep bodies --fetch {base}' where there is a network and take $HF_HOME along, or name another "
            "body (--body minilm-l6, for images vit-s14)"
        )
    question = f" Did you mean {known!r}?" if known else ""
    return UserError(
        f"unknown body {base!r}: neither packaged ({', '.join(PACKAGED)}) nor a local directory, and the hub did "
        f"not provide it ({cause(error)}).{question} Without a hub, give the path of a directory with "
        "config.json and model.safetensors."
    )
