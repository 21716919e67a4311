"""Time the features of series: milliseconds of a sample on one core.

Run it with two versions of the package, one after the other, to compare them. A
checksum says whether the features are equal.
"""

# ruff: noqa: T201 - a benchmark prints its table

import hashlib
import time
from functools import partial

import torch
from torch import Tensor

from orca_ray.models.minirocket import HydraBody, MiniRocketBody, fit_dilations

NUM_SERIES = 64
REPEATS = 3


def draw(number: int, length: int, channels: int) -> Tensor:
    """Return random series as tokens [number, length, channels]."""
    generator = torch.Generator().manual_seed(number)
    return torch.randn(number, length, channels, generator=generator)


@torch.no_grad()
def main() -> None:
    """Print a line for each kind of features and shape of series."""
    torch.set_num_threads(1)
    print("features     channels  length  ms/sample  checksum")
    for length, channels in ((256, 1), (256, 3), (1000, 1)):
        dilations = fit_dilations(length, 9996, 32)
        minirocket = MiniRocketBody(length, channels, dilations, seed=0)
        minirocket.fit(partial(draw, length=length, channels=channels))
        hydra = HydraBody(length, channels, kernels=8, groups=64, seed=0)
        x = draw(NUM_SERIES, length, channels)
        for name, body in (("minirocket", minirocket), ("hydra", hydra)):
            seconds = []
            for _ in range(REPEATS):
                started = time.process_time()
                features = body(x)
                seconds.append(time.process_time() - started)
            checksum = hashlib.sha256(features.numpy().tobytes()).hexdigest()[:8]
            milliseconds = 1000 * min(seconds) / NUM_SERIES
            print(f"{name:12} {channels:8} {length:7} {milliseconds:10.2f}  {checksum}")


if __name__ == "__main__":
    main()
