"""Fitted distances. Their source-only terms are cached on disk, so that only one trial computes them."""

import hashlib
import logging
from collections import OrderedDict
from contextlib import ExitStack
from pathlib import Path

import torch

from orca_ray.alignment.distance import Distance, SourceFeatures
from orca_ray.alignment.registry import get_distance
from orca_ray.alignment.tensor_cache import environment, read_tensors, tensor_bytes, write_tensors
from orca_ray.data import cache
from orca_ray.errors import UserError

logger = logging.getLogger(__name__)
MAX_FILES, MAX_BYTES = 256, 2 * 10**9
"""Limits of the disk cache; beyond either, the least recently used files are removed."""
_in_process: OrderedDict[tuple[str, str], Distance] = OrderedDict()


def fitted_distance(name: str, source: SourceFeatures, device: torch.device | str = "cpu") -> Distance:
    """Return the distance called ``name``, fitted to ``source`` and ready for calls on ``device``.

    The process caches the distances used last (4 on a CPU, 1 per other device); their source-only terms are cached on
    disk, safely for concurrent processes. If a cached file is damaged, or the disk is full or read-only, a warning is
    logged and the terms are computed. Raises UserError for an unknown name or a source that cannot be fitted.
    """
    distance = get_distance(name)
    device = torch.device(device)
    key = (_digest(distance, source, device), str(device))
    if key not in _in_process:
        _in_process[key] = _fitted(distance, source.to(device), key[0])
    _in_process.move_to_end(key)
    on_device = [other for other in _in_process if other[1] == key[1]]
    for other in on_device[: -4 if device.type == "cpu" else -1]:  # on other devices, trials need the memory
        del _in_process[other]
    return _in_process[key]


def _fitted(distance: Distance, source: SourceFeatures, digest: str) -> Distance:
    if type(distance)._source_terms is Distance._source_terms:
        return distance.fit(source)
    with ExitStack() as stack:
        path: Path | None = None
        try:
            path = cache.subdirectory("source") / "terms" / f"{distance.name}-{digest}.safetensors"
            stack.enter_context(cache.lock(path))
        except (UserError, OSError) as error:
            logger.warning("source terms are not cached on disk: %s", error)
            path = None
        terms = None if path is None else read_tensors(path)
        if terms is None:
            logger.info("fitting distance %s to source features %s", distance.name, source.name)
        distance.fit(source, terms)
        if path is not None and terms is None:
            try:
                write_tensors(path, distance.terms)
                cache.prune(path.parent, ".safetensors", MAX_FILES, MAX_BYTES)
            except (UserError, OSError) as error:
                logger.warning("source terms are not cached on disk: %s", error)
    return distance


def _digest(distance: Distance, source: SourceFeatures, device: torch.device) -> str:
    identity = (distance.name, distance.version, distance.dtype(source.x), source.x.shape, environment(device))
    digest = hashlib.sha256(repr(identity).encode())
    for tensor in (source.x, source.y.long()):
        digest.update(f"{tensor.dtype}".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()[:32]
