"""Fitted distances, whose source terms are cached on disk: one trial computes them for all."""

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
"""The least recently used terms are removed from the disk beyond either."""
_in_process: OrderedDict[tuple[str, str], Distance] = OrderedDict()


def fitted_distance(name: str, source: SourceFeatures, device: torch.device | str = "cpu") -> Distance:
    """Return the distance called ``name``, fitted to ``source`` and ready for calls on ``device``.

    The last few are cached in the process, and their source terms on disk, safe against concurrent processes. A damaged
    file is computed again, and a full or read-only disk costs time only: both are logged. Raises UserError for an
    unknown name, or a source that the distance cannot be fitted to.
    """
    distance = get_distance(name)
    device = torch.device(device)
    key = (_digest(distance, source, device), str(device))
    if key not in _in_process:
        _in_process[key] = _fitted(distance, source.to(device), key[0])
    _in_process.move_to_end(key)
    on_device = [other for other in _in_process if other[1] == key[1]]
    for other in on_device[: -4 if device.type == "cpu" else -1]:  # trials need the memory of other devices
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
