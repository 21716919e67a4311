"""Functions for image sources: decode image files, and embed images as features.

Shapes: N images, C = 3 colours, H x W pixels, D features.
"""

import io
from collections.abc import Iterable
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from orca_ray.alignment.source import SampleRequest
from orca_ray.models.body import Stem
from orca_ray.models.stems import ImageStem

_BATCH = 64


def read_photograph(data: bytes) -> Tensor:
    """Decode the contents of a PNG or JPEG file to a tensor [3, H, W] with values from 0 to 1."""
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    return torch.from_numpy(pixels / 255.0).permute(2, 0, 1)


def embedded_size(stem: Stem, image_size: int) -> int:
    """Return ``image_size`` (pixels per side) rounded to a multiple of the stem's patch size, as in the embedder."""
    assert isinstance(stem, ImageStem), "image sources are for image bodies"
    return max(1, round(image_size / stem.patch_size)) * stem.patch_size


def embed(request: SampleRequest, images: Iterable[Tensor]) -> Tensor:
    """Return features [N, D] of images [3, H, W] in 0 … 1: resized, normalised, embedded, mean over the tokens.

    If the request is ``raw``, return the resized images [N, 3, S, S], in 0 … 255.
    """
    stem, size = request.stem, embedded_size(request.stem, request.image_size)
    assert isinstance(stem, ImageStem)
    resized = (F.interpolate(image[None], (size, size), mode="bilinear", antialias=True)[0] for image in images)
    if request.raw:
        return torch.stack([(255 * image.clamp(0, 1)).round().to(torch.uint8) for image in resized])
    features = []
    while batch := list(islice(resized, _BATCH)):
        features.append(stem.embed_images((torch.stack(batch).clamp(0, 1) - stem.image_mean) / stem.image_std).mean(1))
    return torch.cat(features)
