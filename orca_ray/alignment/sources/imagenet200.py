"""Source ``imagenet200`` for image bodies, used in follow-up work of ORCA: Tiny ImageNet."""

import re
import zipfile

from orca_ray.alignment.source import SampleRequest, Samples, Source, balanced_order, embed_images, read_photograph
from orca_ray.data.raw import RawFile
from orca_ray.errors import UserError

_TRAINING_IMAGE = re.compile(r"tiny-imagenet-200/train/(?P<name>n\d+)/images/[^/]+\.JPEG")


def sample(request: SampleRequest) -> Samples:
    """Return features [N, D] and labels [N] of random training images, with nearly equal numbers per class.

    Class ids follow the order of the WordNet ids. Raises UserError if the file is not the Tiny ImageNet archive.
    """
    import torch

    path = SOURCE.path()
    try:
        with zipfile.ZipFile(path) as archive:
            found = [match for match in map(_TRAINING_IMAGE.fullmatch, archive.namelist()) if match]
            if not found:
                raise UserError(f"{path} contains no training image of Tiny ImageNet (tiny-imagenet-200/train/…)")
            classes = sorted({match["name"] for match in found})
            labels = [classes.index(match["name"]) for match in found]
            chosen = balanced_order(labels, request.seed)[: request.num_samples]
            features = embed_images(request, (read_photograph(archive.read(found[i].string)) for i in chosen))
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path} is not the archive of Tiny ImageNet: {error}") from error
    return features, torch.tensor([labels[i] for i in chosen])


_FILE = RawFile(
    path="tiny-imagenet-200.zip", urls=("http://cs231n.stanford.edu/tiny-imagenet-200.zip",), num_bytes=248_000_000
)
SOURCE = Source(name="imagenet200", modality="image", sample=sample, file=_FILE)
