"""Results computed from an alignment source and cached: features, tokens, and distances that are fitted to features.

Features and tokens are those of labelled samples, embedded by the stem (pretrained embedding) of a body.
"""

import copy
import hashlib
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orca_ray.alignment.distance import Distance, SourceFeatures
from orca_ray.alignment.registry import check_suitable, default_source, get_distance, get_source
from orca_ray.alignment.source import SampleRequest, Source
from orca_ray.alignment.tensor_cache import cached_tensors, environment, tensor_bytes
from orca_ray.data import cache
from orca_ray.errors import UserError
from orca_ray.models.body import Stem
from orca_ray.models.modality import get_modality
from orca_ray.models.names import parse_body_name
from orca_ray.models.weights import body_modality, load_body

logger = logging.getLogger(__name__)
MAX_FILES, MAX_BYTES = 256, 2 * 10**9
"""Limits of the cached terms of distances; beyond either, the least recently used files are removed."""


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
    where = _choose(name, body, image_size, num_tokens, num_samples)
    return _features(cache.home(), *where, body, num_samples, pretrained, seed)


@lru_cache(8)
def _features(home: Path, source: Source, size: tuple[int, int], body: str, *how: Any) -> SourceFeatures:
    return SourceFeatures(*_sample(source, size, body, *how, raw=False)[:2], source.name)


@dataclass(frozen=True)
class SourceTokens:
    """Labelled source samples, embedded as tokens when they are needed."""

    inputs: Tensor
    """[N, ...]: inputs of the stem."""
    y: Tensor
    """[N] class ids from 0 to ``num_classes - 1``."""
    num_classes: int
    stem: Stem

    def __len__(self) -> int:
        """Return the number of samples N."""
        return len(self.y)

    def to(self, device: torch.device) -> "SourceTokens":
        """Return the same samples on ``device``."""
        if self.y.device == device:
            return self
        stem = copy.deepcopy(self.stem).to(device)
        return replace(self, inputs=self.inputs.to(device), y=self.y.to(device), stem=stem)

    def tokens(self, indices: Tensor) -> Tensor:
        """Return the tokens [b, T, D] of the samples ``indices`` [b], without gradient."""
        with torch.no_grad():
            return self.stem.embed_raw(self.inputs[indices])


def source_tokens(
    name: str,
    body: str,
    *,
    image_size: int,
    num_tokens: int,
    num_samples: int,
    pretrained: bool = True,
    seed: int = 0,
    device: torch.device,
) -> SourceTokens:
    """Return the samples of `source_features` before they are embedded, on ``device``; same arguments."""
    where = _choose(name, body, image_size, num_tokens, num_samples)
    return _tokens(cache.home(), *where, body, num_samples, pretrained, seed).to(device)


@lru_cache(2)
def _tokens(home: Path, source: Source, size: tuple[int, int], body: str, *how: Any) -> SourceTokens:
    inputs, labels, stem = _sample(source, size, body, *how, raw=True)
    classes, ids = labels.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    return SourceTokens(inputs, ids, len(classes), stem)


def _choose(name: str, body: str, image_size: int, num_tokens: int, num_samples: int) -> tuple[Source, tuple[int, int]]:
    """Return the source ``name`` (the default one if empty), and the image size and number of tokens of its samples."""
    if num_samples < 1:
        raise UserError(f"source features need at least 1 sample, got {num_samples}")
    modality = body_modality(body)
    source = get_source(name or default_source(modality))
    check_suitable(source.name, modality)
    return source, get_modality(modality).source_size(image_size, num_tokens)


def _sample(
    source: Source, size: tuple[int, int], body: str, num: int, pretrained: bool, seed: int, *, raw: bool
) -> tuple[Tensor, Tensor, Stem]:
    """Return samples x, their labels y and the stem; x and y are read from the disk, or computed and written there."""
    stem = load_body(body, pretrained=pretrained, seed=seed).stem
    request = SampleRequest(stem, parse_body_name(body)[0], *size, num, seed, raw)
    readable = re.sub(r"[^A-Za-z0-9.-]+", "_", f"{source.name}-{Path(request.body).name}-{request.num_samples}")
    path = cache.subdirectory("source") / f"{readable}-{_digest(source, request)}.safetensors"

    def sample() -> dict[str, Tensor]:
        logger.info("sampling the source %s for %s", source.name, request.body)
        with torch.no_grad(), _one_thread():
            x, y = source.sample(request)
        return {"x": x if raw else x.float(), "y": y.long()}

    stored = cached_tensors(path, sample)
    return stored["x"], stored["y"], stem


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
    settings += ["raw"] * request.raw
    parts = [json.dumps(settings).encode()]
    if source.file:
        parts += [source.file.path.encode(), cache.sha256_file(source.path()).encode()]
    digest = hashlib.sha256(b"\0".join(parts))
    for key, tensor in sorted(request.stem.state_dict().items()):
        digest.update(key.encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()[:16]


def fitted_distance(name: str, source: SourceFeatures, device: torch.device | str = "cpu") -> Distance:
    """Return the distance called ``name``, fitted to ``source`` and ready for calls on ``device``.

    The process caches the two distances used last; their source-only terms are cached on disk, safely for concurrent
    processes. Raises UserError for an unknown name or a source that cannot be fitted.
    """
    device = torch.device(device)
    return _fitted(cache.home(), environment(device), name, source, device)


@lru_cache(2)
def _fitted(
    home: Path, circumstances: tuple[str, ...], name: str, source: SourceFeatures, device: torch.device
) -> Distance:
    distance, source = get_distance(name), source.to(device)
    if type(distance)._source_terms is Distance._source_terms:
        return distance.fit(source)
    identity = (name, distance.version, distance.dtype(source.x), source.x.shape, circumstances)
    digest = hashlib.sha256(repr(identity).encode())
    for tensor in (source.x, source.y.long()):
        digest.update(f"{tensor.dtype}".encode())
        digest.update(tensor_bytes(tensor))
    path = cache.subdirectory("source") / "terms" / f"{name}-{digest.hexdigest()[:32]}.safetensors"
    terms = cached_tensors(path, lambda: get_distance(name).fit(source).terms)
    cache.prune(path.parent, ".safetensors", MAX_FILES, MAX_BYTES)
    return distance.fit(source, terms)
