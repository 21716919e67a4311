"""Random streams that depend on the trial's seed and position alone, never on what the process did before.

Every epoch draws from a stream of its own, derived from (seed, stage, epoch). So resuming at an epoch needs no saved
generator state, a reused actor cannot leak randomness from one trial into the next, and torch's global generator is
left as it was found.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(seed: int, *path: int | str) -> int:
    """Return a 63-bit seed for the place ``path`` below ``seed``; the same on every machine and version."""
    text = "/".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def make_generator(seed: int, *path: int | str) -> torch.Generator:
    """Return a fresh CPU generator for the place ``path`` below ``seed``."""
    return torch.Generator().manual_seed(derive_seed(seed, *path))


@contextmanager
def isolated_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Run a block (dropout and the like) from ``seed``, then put torch's global generators back."""
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        with torch.random.fork_rng(devices=[index]):
            torch.manual_seed(seed)
            yield
    else:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            yield
