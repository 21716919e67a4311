"""Source ``imagenet200`` for image bodies, used in follow-up work of ORCA: Tiny ImageNet."""

import re
import zipfile

import numpy as np

from orca_ray.alignment.source import SampleRequest, Samples, Source
from orca_ray.data.raw import RawFile
from orca_ray.errors import UserError

_TRAINING_IMAGE = re.compile(r"tiny-imagenet-200/train/(?P<name>n\d+)/images/[^/]+\.JPEG")


def sample(request: SampleRequest) -> Samples:
    """Return features [N, D] and labels [N] of random training images, as equally many per class as possible.

    Class ids follow the order of the WordNet ids. Raises UserError if the file is not the Tiny ImageNet archive.
    """
    import torch

    from orca_ray.alignment.image_features import embed, read_photograph

    path = SOURCE.path()
    try:
        with zipfile.ZipFile(path) as archive:
            found = [match for match in map(_TRAINING_IMAGE.fullmatch, archive.namelist()) if match]
            if not found:
                raise UserError(f"{path} contains no training image of Tiny ImageNet (tiny-imagenet-200/train/…)")
            classes = sorted({match["name"] for match in found})
            labels = [classes.index(match["name"]) for match in found]
            chosen = _balanced(labels, request.num_samples, request.seed)
            features = embed(request, (read_photograph(archive.read(found[i].string)) for i in chosen))
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path} is not the archive of Tiny ImageNet: {error}") from error
    return features, torch.tensor([labels[i] for i in chosen])


def _balanced(labels: list[int], num_samples: int, seed: int) -> list[int]:
    """Return indices of samples: the first of each class in a random order, then the second of each, and so on."""
    order = np.random.RandomState(seed).permutation(len(labels))
    seen: dict[int, int] = {}
    turns = []
    for index in order:
        turns.append(seen.get(labels[index], 0))
        seen[labels[index]] = turns[-1] + 1
    return [int(order[position]) for position in np.argsort(turns, kind="stable")[:num_samples]]


_FILE = RawFile(
    path="tiny-imagenet-200.zip", urls=("http://cs231n.stanford.edu/tiny-imagenet-200.zip",), num_bytes=248_000_000
)
SOURCE = Source(name="imagenet200", modality="image", sample=sample, file=_FILE)
