"""Cached features of alignment sources, and distances fitted to them.

Features are those of labelled samples, embedded by the stem (pretrained embedding) of a
body.
"""

import logging
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from orca_ray.alignment.distance import Distance, SourceFeatures
from orca_ray.alignment.registry import (
    check_suitable,
    default_source,
    get_distance,
    get_source,
)
from orca_ray.alignment.source import SampleRequest, Source
from orca_ray.alignment.tensor_cache import cached_tensors, digest, environment
from orca_ray.data import cache
from orca_ray.models.body import Stem
from orca_ray.models.modality import get_modality
from orca_ray.models.names import parse_body_name
from orca_ray.models.weights import body_modality, load_body

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourceChoice:
    """Which samples of a source are used, and the body whose stem embeds them."""

    name: str
    """Name of the source; empty: the body's `default_source`."""
    body: str
    """Name of the body; ``:layers=N`` is ignored."""
    image_size: int
    """Pixels per side, rounded to whole patches; ignored for sequence bodies."""
    num_tokens: int
    """Number of tokens T of a text, as many as `Embedder.layout` has; ignored for image
    bodies.
    """
    num_samples: int
    pretrained: bool = True
    """Whether the stem has pretrained weights; False: random initialisation."""
    seed: int = 0
    """Seed of the sampling and of the random initialisation."""


def source_features(choice: SourceChoice) -> SourceFeatures:
    """Return the features and labels of the chosen samples, on the CPU.

    If the source has fewer samples, these are all of them. A sample's feature is the
    mean over its tokens, embedded by the body's stem: x [N, D] float32, y [N] int64.
    Results are cached in the process and on disk, safely for concurrent processes.
    Raises UserError if the source is unknown, is for another modality than the body's,
    or cannot be fetched.
    """
    return _features(cache.home(), chosen_source(choice), choice)


@lru_cache(8)
def _features(home: Path, source: Source, choice: SourceChoice) -> SourceFeatures:
    samples = read_samples(source, choice, raw=False)
    return SourceFeatures(samples.x, samples.y, source.name)


def chosen_source(choice: SourceChoice) -> Source:
    """Return the source of a choice.

    Raises UserError if it is unknown, or is for another modality than the body's.
    """
    modality = body_modality(choice.body)
    source = get_source(choice.name or default_source(modality))
    check_suitable(source.name, modality)
    return source


class SourceSamples(NamedTuple):
    """Samples of a source, and the stem of the body that they are for."""

    x: Tensor
    """Features [N, D], or inputs of the stem [N, ...]."""
    y: Tensor
    """Class ids [N], int64."""
    stem: Stem


def read_samples(source: Source, choice: SourceChoice, *, raw: bool) -> SourceSamples:
    """Return the samples of a choice as features or, if ``raw``, as inputs of the stem.

    The samples are read from the cache on disk, or computed and written there.
    """
    stem = load_body(choice.body, pretrained=choice.pretrained, seed=choice.seed).stem
    size = get_modality(source.modality).source_size(
        choice.image_size, choice.num_tokens
    )
    base, _ = parse_body_name(choice.body)
    request = SampleRequest(stem, base, *size, choice.num_samples, choice.seed, raw)
    label = f"{source.name}-{Path(base).name}-{request.num_samples}"
    readable = re.sub(r"[^A-Za-z0-9.-]+", "_", label)
    file_name = f"{readable}-{_digest(source, request)}.tensors"
    path = cache.subdirectory("source") / file_name

    def sample() -> dict[str, Tensor]:
        logger.info("sampling the source %s for %s", source.name, request.body)
        threads = torch.get_num_threads()
        # The last digits of cached features must not depend on the number of threads.
        torch.set_num_threads(1)
        try:
            with torch.no_grad():
                x, y = source.sample(request)
        finally:
            torch.set_num_threads(threads)
        return {"x": x if raw else x.float(), "y": y.long()}

    stored = cached_tensors(path, sample)
    return SourceSamples(stored["x"], stored["y"], stem)


def _digest(source: Source, request: SampleRequest) -> str:
    """Return a hash of everything that the features depend on.

    It includes the stem's weights and the source's file.
    """
    sizes = (
        request.image_size,
        request.num_tokens,
        request.num_samples,
        request.seed,
        request.raw,
    )
    file = None
    if source.file is not None:
        file = (source.file.path, cache.sha256_file(source.path()))
    return digest(request.stem.state_dict(), source.name, sizes, file)[:16]


def fitted_distance(
    name: str, source: SourceFeatures, device: torch.device | str = "cpu"
) -> Distance:
    """Return the distance called ``name``, fitted to ``source``.

    It is ready for calls on ``device``. The process caches the two distances used last;
    `Distance.terms` are cached on disk, safely for concurrent processes. Raises
    UserError for an unknown name or a source that cannot be fitted.
    """
    device = torch.device(device)
    return _fitted(cache.home(), environment(device), name, source, device)


@lru_cache(2)
def _fitted(
    home: Path,
    circumstances: tuple[str, ...],
    name: str,
    source: SourceFeatures,
    device: torch.device,
) -> Distance:
    """Return the result of `fitted_distance`, cached by all arguments.

    ``home`` and ``circumstances`` only tell results apart: the cache directory, and
    what affects the last digits (see `tensor_cache.environment`).
    """
    distance = get_distance(name)
    source = source.to(device)
    # Only distances with expensive terms of the source are cached on disk.
    has_source_terms = type(distance)._source_terms is not Distance._source_terms
    if not has_source_terms:
        return distance.fit(source)
    features = {"x": source.x, "y": source.y.long()}
    identity = digest(
        features, name, distance.version, distance.dtype(source.x), circumstances
    )
    path = cache.subdirectory("source") / "terms" / f"{name}-{identity[:32]}.tensors"
    terms = cached_tensors(path, lambda: get_distance(name).fit(source).terms)
    cache.prune(path.parent, ".tensors")
    return distance.fit(source, terms)
