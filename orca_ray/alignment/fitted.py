"""Fitted distances, their source terms kept on disk: what depends on a body alone is computed once, by one trial."""

import hashlib
import logging
import os
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from orca_ray.alignment.circumstances import circumstances
from orca_ray.alignment.distance import Distance
from orca_ray.alignment.features import SourceFeatures
from orca_ray.alignment.registry import get_distance
from orca_ray.data import cache
from orca_ray.errors import UserError

logger = logging.getLogger(__name__)

MOST_FILES = 256
MOST_BYTES = 2 * 10**9
"""The terms not used for longest are removed from the disk beyond either."""

_KEPT = {"cpu": 4}
"""Fitted distances a device; one on others, whose memory trials need."""

_in_process: OrderedDict[tuple[str, str], Distance] = OrderedDict()


def fitted_distance(name: str, source: SourceFeatures, device: torch.device | str = "cpu") -> Distance:
    """Return the distance called ``name``, fitted to ``source`` and ready for calls on ``device``.

    The last few are kept in the process, and terms that are dear to compute on disk: by name and version of the
    distance, precision, `circumstances` and the bytes of the source's features and labels. (Sums of another machine, or
    of other threads, differ in their last digits, and a deterministic trial must not inherit them.) Safe against
    concurrent calls of other processes. A damaged file is computed anew, and a disk that is full or cannot be written
    to costs time only: both are logged.

    Raises:
        UserError: for an unknown name, or a source that the distance cannot be fitted to.
    """
    distance = get_distance(name)
    digest = _digest(distance, source, torch.device(device))
    key = (digest, str(torch.device(device)))
    if key not in _in_process:
        _in_process[key] = _fitted(distance, source, digest, device)
    _in_process.move_to_end(key)
    alike = [other for other in _in_process if other[1] == key[1]]
    for other in alike[: -_KEPT.get(torch.device(device).type, 1)]:
        del _in_process[other]
    return _in_process[key]


def _fitted(distance: Distance, source: SourceFeatures, digest: str, device: torch.device | str) -> Distance:
    placed = source.to(device)
    if type(distance)._source_terms is Distance._source_terms:  # nothing to keep
        return distance.fit(placed)
    with ExitStack() as held:
        path = _locked(f"{distance.name}-{digest}.safetensors", held)
        terms = None if path is None else _read(path)
        if terms is None:
            logger.info("fitting distance %s to source features %s", distance.name, source.name)
        distance.fit(placed, terms)
        if path is not None and terms is None:
            _write(path, distance.terms)
    return distance


def _digest(distance: Distance, source: SourceFeatures, device: torch.device) -> str:
    precision = torch.promote_types(distance.precision, source.x.dtype)
    identity = (distance.name, distance.version, precision, source.x.shape, circumstances(device))
    digest = hashlib.sha256(repr(identity).encode())
    for tensor in (source.x, source.y.long()):
        digest.update(f"{tensor.dtype}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()[:32]


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _checksum(terms: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(terms.items()):
        digest.update(name.encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _locked(file_name: str, held: ExitStack) -> Path | None:
    """Return where the terms are, locked; or None, and a warning, where there can be no such file."""
    try:
        path = cache.source_dir() / "terms" / file_name
        held.enter_context(cache.lock(path))
    except (UserError, OSError) as error:
        logger.warning("source terms are not kept on disk: %s", error)
        return None
    return path


def _read(path: Path) -> dict[str, Tensor] | None:
    try:
        with safe_open(path, framework="pt") as file:
            terms = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            told = (file.metadata() or {}).get("sha256")
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError) as error:
        logger.warning("cannot read %s (%s): computing it again", path, error)
        return None
    if _checksum(terms) != told:
        logger.warning("%s is damaged (its checksum is wrong): computing it again", path)
        return None
    with suppress(OSError):
        os.utime(path)  # pruning takes what was not used for longest
    return terms


def _write(path: Path, terms: Mapping[str, Tensor]) -> None:
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in terms.items()}
    try:
        with cache.scratch_directory(path.parent) as scratch, cache.disk_errors(path.parent):
            save_file(plain, scratch / path.name, metadata={"sha256": _checksum(plain)})
            cache.replace_file(scratch / path.name, path)
        cache.prune(path.parent, ".safetensors", MOST_FILES, MOST_BYTES)
    except (UserError, OSError, SafetensorError) as error:
        logger.warning("source terms are not kept on disk: %s", error)
