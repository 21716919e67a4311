"""Source ``cifar10`` for image bodies, used in the ORCA paper: CIFAR-10."""

import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from orca_ray.alignment.source import SampleRequest, Samples, Source, embed_images
from orca_ray.data import safe_pickle
from orca_ray.data.raw import RawFile
from orca_ray.errors import UserError


def sample(request: SampleRequest) -> Samples:
    """Return features [N, D] (or raw pixels) and labels [N] of random images.

    They are training images of CIFAR-10; see `embed_images`.
    """
    import torch

    pixels_NCHW, labels = read_cifar10(SOURCE.path(), request.num_samples)
    order = np.random.RandomState(request.seed).permutation(len(labels))
    indices = order[: request.num_samples]
    images = (
        torch.from_numpy(pixels_NCHW[index].astype(np.float32) / 255.0)
        for index in indices
    )
    return embed_images(request, images), torch.from_numpy(labels[indices])


def read_cifar10(
    path: Path, num_samples: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Read batches of N >= ``num_samples`` samples: pixels and labels.

    Pixels are [N, 3, 32, 32] uint8, labels [N]. Raises UserError if ``path`` is not the
    CIFAR-10 archive, or its pickles contain anything but arrays and containers.
    """
    pixels: list[np.ndarray[Any, Any]] = []
    labels: list[int] = []
    try:
        with tarfile.open(path, "r:gz") as archive:
            for number in range(1, 6):
                if len(labels) >= num_samples:
                    break
                member = f"cifar-10-batches-py/data_batch_{number}"
                file = archive.extractfile(member)
                assert file is not None
                batch = safe_pickle.load(file, f"{path}, {member}", encoding="bytes")  # type: ignore[arg-type]
                pixels.append(
                    np.asarray(batch[b"data"], dtype=np.uint8).reshape(-1, 3, 32, 32)
                )
                labels += [int(label) for label in batch[b"labels"]]
    except UserError:
        raise
    except Exception as error:  # a damaged archive raises almost anything
        raise UserError(
            f"{path} is not the archive of CIFAR-10 in its Python version: {error}"
        ) from error
    return np.concatenate(pixels), np.asarray(labels, dtype=np.int64)


_FILE = RawFile(
    path="cifar-10-python.tar.gz",
    urls=("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
    md5="c58f30108f718f92721af3b95e74349a",
    num_bytes=170_000_000,
)
SOURCE = Source(name="cifar10", modality="image", sample=sample, file=_FILE)
