"""Model folders: one directory with all files that predicting needs.

This module writes and verifies such folders, which have these files:

- ``model.safetensors``: the weights; for methods with `Recipe.names_body`, without the
  body's frozen ones.
- ``config.json``: `ModelConfig`, which has the SHA-256 of every other file.
- ``preprocessing.json``: how to convert raw data to inputs; absent if the data are
  arrays already.
- ``conformal.safetensors``: scores of which intervals of single predictions are made;
  absent if `adapt` did not make the model, or if it predicts labels or masks.
- ``README.md``: the model card.

No file is a pickle or contains code. ``config.json`` is written last: a directory
without it is no model folder.
"""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from orca_ray.data import cache
from orca_ray.data.tensor_file import save_tensors
from orca_ray.errors import UserError
from orca_ray.methods.conformal import Conformal
from orca_ray.methods.model_config import (
    ADVICE,
    CARD,
    CONFORMAL,
    PREPROCESSING,
    WEIGHTS,
    ModelConfig,
    config_text,
    parse_config,
)

logger = logging.getLogger(__name__)

CONFIG = "config.json"
"""Name of the file of the configuration."""
_MOST_CONFIG_BYTES = 256 * 2**20
"""Largest size of ``config.json``.

Statistics of a dense target may have a number for each of its points.
"""


def read_config(directory: Path) -> ModelConfig:
    """Return the configuration of a model folder, and verify its files.

    Raises UserError if ``directory`` is no model folder, if its format has another
    version, or if a file is missing, damaged or changed. If the model card is missing
    or changed, only a warning is logged: predictions do not use it.
    """
    path = directory / CONFIG
    advice = (
        "give the folder that 'orca-sweep adapt --out' has written, or models/KEY of a"
        " results store"
    )
    if not directory.is_dir():
        problem = "is no directory" if directory.exists() else "does not exist"
        raise UserError(f"{directory} {problem}: {advice}")
    if not path.is_file():
        raise UserError(
            f"{directory} is no model folder, as it has no {CONFIG}: {advice}"
        )
    config = parse_config(cache.read_bytes(path, _MOST_CONFIG_BYTES), path)
    if WEIGHTS not in config.files:
        raise UserError(f"{path} lists no {WEIGHTS}; {ADVICE}")
    for name, expected_hash in config.files.items():
        if name == CARD:
            _check_card(directory / name, expected_hash)
        else:
            _check_file(directory / name, expected_hash)
    return config


def _check_card(path: Path, expected_hash: str) -> None:
    if not path.is_file() or cache.sha256_file(path) != expected_hash:
        logger.warning("%s is not the model card that was written with the model", path)


def _check_file(path: Path, expected_hash: str) -> None:
    """Raise UserError unless the file ``path`` exists and has the expected hash."""
    if not path.is_file():
        raise UserError(
            f"the model folder {path.parent} has no {path.name}, which its {CONFIG}"
            f" lists; {ADVICE}"
        )
    actual_hash = cache.sha256_file(path)
    if actual_hash != expected_hash:
        raise UserError(
            f"{path} was changed since it was written (sha256 {actual_hash}, expected"
            f" {expected_hash}); {ADVICE}"
        )


def read_preprocessing(directory: Path, config: ModelConfig) -> dict[str, Any] | None:
    """Return the content of ``preprocessing.json``.

    None if ``config.files`` does not list it: inputs are arrays.
    """
    if PREPROCESSING not in config.files:
        return None
    return cache.read_json(directory / PREPROCESSING)


def read_conformal(directory: Path, config: ModelConfig) -> Conformal | None:
    """Return the content of ``conformal.safetensors``.

    None if ``config.files`` does not list it. Raises UserError as `Conformal.read`.
    """
    if CONFORMAL not in config.files:
        return None
    return Conformal.read(directory / CONFORMAL, config.task)


def write_folder(
    directory: Path,
    config: ModelConfig,
    weights: Mapping[str, Any],
    *,
    card: str,
    preprocessing: Mapping[str, Any] | None = None,
    conformal: Conformal | None = None,
) -> ModelConfig:
    """Write a model folder, and return a copy of ``config`` with `ModelConfig.files`.

    An existing model is replaced; files that are not part of it stay. Readers never see
    a mixture of two models.

    Args:
        directory: the folder, which is created if it does not exist.
        config: configuration; it is not changed, and its `ModelConfig.files` is
            ignored.
        weights: tensors on the CPU by name.
        card: content of ``README.md``.
        preprocessing: content of ``preprocessing.json``; None: there is none.
        conformal: content of ``conformal.safetensors``; None: there is none.

    Raises UserError if ``directory`` has files and is no model folder, or if it cannot
    be written.
    """
    check_model_target(directory)
    with cache.scratch_directory(directory) as scratch, cache.disk_errors(directory):
        names = [WEIGHTS]
        save_tensors(scratch / WEIGHTS, weights)
        if preprocessing is not None:
            names.append(PREPROCESSING)
            text = json.dumps(preprocessing, indent=1) + "\n"
            (scratch / PREPROCESSING).write_text(text, encoding="utf-8")
        if conformal is not None:
            names.append(CONFORMAL)
            conformal.save(scratch / CONFORMAL)
        names.append(CARD)
        (scratch / CARD).write_text(card, encoding="utf-8")
        hashes = {name: cache.sha256_file(scratch / name) for name in names}
        complete = replace(config, files=hashes)
        (directory / CONFIG).unlink(missing_ok=True)
        (directory / PREPROCESSING).unlink(missing_ok=True)
        (directory / CONFORMAL).unlink(missing_ok=True)
        for name in names:
            cache.replace_file(scratch / name, directory / name)
            os.chmod(directory / name, 0o644)
        cache.write_text(directory / CONFIG, config_text(complete), durable=True)
    return complete


def check_model_target(directory: Path) -> None:
    """Raise UserError if ``directory`` is a file, or has files and is no model folder.

    A model folder has a ``config.json``.
    """
    if not directory.exists():
        return
    if not directory.is_dir():
        raise UserError(f"{directory} is a file: name a directory for the model")
    if any(directory.iterdir()) and not (directory / CONFIG).is_file():
        raise UserError(
            f"{directory} has files and is no model folder: name a new or empty"
            " directory for the model"
        )
