"""Source features: labelled samples, embedded by the stem (pretrained embedding) of a body, and cached."""

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch

from orca_ray.alignment.distance import SourceFeatures
from orca_ray.alignment.registry import default_source, get_source, require_suitable
from orca_ray.alignment.source import SampleRequest, Source
from orca_ray.alignment.tensor_cache import read_tensors, tensor_bytes, write_tensors
from orca_ray.data import cache
from orca_ray.errors import UserError
from orca_ray.models.modality import get_modality
from orca_ray.models.names import parse_body_name
from orca_ray.models.weights import body_modality, load_body

logger = logging.getLogger(__name__)


def source_features(
    name: str,
    body: str,
    *,
    image_size: int,
    num_tokens: int,
    num_samples: int,
    pretrained: bool = True,
    seed: int = 0,
) -> SourceFeatures:
    """Return features and labels of ``num_samples`` samples (fewer if the source has fewer), on the CPU.

    A sample's feature is the mean over its tokens, embedded by the body's stem, as in ``CrossModalModel.features``:
    x [N, D] float32, y [N] int64. Results are cached in the process and on disk, safely for concurrent processes.
    Raises UserError if the source is unknown or has another modality than the body.

    Args:
        name, body: names of the source ("": the body's `default_source`) and of the body (``:layers=N`` is ignored).
        image_size: pixels per side, rounded to whole patches; ignored for sequence bodies.
        num_tokens: number of tokens T of a text, that of the embedder's `layout`; ignored for image bodies.
        pretrained: whether the stem has pretrained weights; False: random initialisation.
        seed: seed of the sampling and of the random initialisation.
    """
    if num_samples < 1:
        raise UserError(f"source features need at least 1 sample, got {num_samples}")
    modality = body_modality(body)
    name = name or default_source(modality)
    source = get_source(name)
    require_suitable(name, modality)
    size = get_modality(modality).source_size(image_size, num_tokens)
    return _cached(cache.home(), source, body, size, num_samples, pretrained, seed)


@lru_cache(8)
def _cached(
    home: Path, source: Source, body: str, size: tuple[int, int], num: int, pretrained: bool, seed: int
) -> SourceFeatures:
    """Read the features from the disk cache ``home``, or compute and write them, while holding a lock."""
    stem = load_body(body, pretrained=pretrained, seed=seed).stem
    request = SampleRequest(stem, parse_body_name(body)[0], *size, num, seed)
    readable = re.sub(r"[^A-Za-z0-9.-]+", "_", f"{source.name}-{Path(request.body).name}-{request.num_samples}")
    path = cache.subdirectory("source") / f"{readable}-{_digest(source, request)}.safetensors"
    with cache.lock(path):
        stored = read_tensors(path)
        if stored is not None:
            return SourceFeatures(stored["x"], stored["y"], source.name)
        logger.info("computing source features %s for %s", source.name, request.body)
        with torch.no_grad(), _one_thread():
            x, y = source.sample(request)
        features = SourceFeatures(x.float(), y.long(), source.name)
        write_tensors(path, {"x": features.x, "y": features.y})
        return features


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread in the block: the last digits of cached features must not depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _digest(source: Source, request: SampleRequest) -> str:
    """Return a hash of everything that the features depend on, including the stem's weights and the source's file."""
    settings = [4, source.name, request.image_size, request.num_tokens, request.num_samples, request.seed]
    parts = [json.dumps(settings).encode()]
    if source.file:
        parts += [source.file.path.encode(), cache.sha256_file(source.path()).encode()]
    digest = hashlib.sha256(b"\0".join(parts))
    for key, tensor in sorted(request.stem.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()[:16]
