"""Training throughput (absolute, and relative to the peak of the device) and memory in use."""

import re
from dataclasses import dataclass
from functools import cache
from time import perf_counter

import psutil
import torch

from orca_ray.training.micro_batch import SampleCost
from orca_ray.training.numerics import Precision

_COLUMNS = ("bfloat16", "tf32", "float32")
PEAKS: dict[str, tuple[float | None, float | None, float | None]] = {
    "GB200": (2500, 1250, 80), "B200": (2250, 1100, 75), "GH200": (989, 494, 67),
    "H200": (989, 494, 67), "H200 NVL": (835, 417, 60), "H100 PCIe": (756, 378, 51),
    "H100 NVL": (835, 417, 60), "H100": (989, 494, 67), "A100": (312, 156, 19.5),
    "A800": (312, 156, 19.5), "A40": (150, 75, 37.4), "A30": (165, 82, 10.3),
    "A10": (125, 62.5, 31.2), "A10G": (70, 35, 35), "L40S": (362, 183, 91.6),
    "L40": (181, 90.5, 90.5), "L4": (121, 60, 30.3), "V100": (None, None, 15.7),
    "T4": (None, None, 8.1), "RTX 3090": (71, 35.6, 35.6), "RTX 3090 Ti": (80, 40, 40),
    "RTX 4090": (165, 82.6, 82.6), "RTX 4090 D": (147, 73.5, 73.5), "RTX A6000": (155, 77.4, 38.7),
    "RTX 6000 Ada": (364, 182, 91.1),
}  # fmt: skip
"""Peak TFLOP/s (1e12 floating-point operations per second) in bfloat16, TF32 and float32, without sparsity, from the
makers' data sheets. The key must occur in the name that CUDA reports, as whole words; the longest such key applies."""
_SLOWER_VARIANTS = ("MIG", "Laptop")
"""Words in a device name that mean it is slower than its key in `PEAKS` says; its peak is then unknown."""


@dataclass(frozen=True)
class Throughput:
    """Rates of training in the refine stage; the time of validation and of compilation is excluded."""

    samples_per_second: float
    tokens_per_second: float | None
    """Tokens at the input of the body; None if the body does not run because its features are cached."""
    model_flop_utilisation: float | None
    """Floating-point operations (`SampleCost.flops`, without recomputation) per second, divided by `peak_flops`."""


def throughput(cost: SampleCost, samples: int, seconds: float, precision: Precision, devices: int = 1) -> Throughput:
    """Return the rates if ``devices`` devices took ``seconds`` to train on ``samples`` samples of ``cost`` each."""
    rate = samples / max(seconds, 1e-9)
    peak = peak_flops(precision)
    return Throughput(
        samples_per_second=rate,
        tokens_per_second=None if cost.num_tokens is None else rate * cost.num_tokens,
        model_flop_utilisation=None if peak is None else rate * cost.flops / (peak * devices),
    )


def peak_flops(precision: Precision) -> float | None:
    """Return the device's peak in operations per second: on CUDA from `PEAKS`, on a CPU measured; None if unknown."""
    if precision.device.type == "cpu":
        return _measured_peak(torch.get_num_threads(), precision.name == "bfloat16")
    if precision.device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(precision.device)
    # Whole words, because an RTX A4000 is not an A40.
    found = [word for word in (*PEAKS, *_SLOWER_VARIANTS) if re.search(rf"\b{word}\b", name)]
    if not found or not set(found).isdisjoint(_SLOWER_VARIANTS):
        return None
    rate = PEAKS[max(found, key=len)][_COLUMNS.index(precision.name)]
    return None if rate is None else rate * 1e12


@cache
def _measured_peak(threads: int, bfloat16: bool) -> float:
    """Return the best rate, in operations per second, of matrix products of three shapes; too low on busy CPUs."""
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    return max(product_rate(torch.ones(rows, 768, dtype=dtype), 1024) for rows in (256, 512, 1024))


def product_rate(left: torch.Tensor, columns: int, seconds: float = 0.0) -> float:
    """Return the best rate, in operations per second, of at least four matrix products within ``seconds``."""
    right, rates, begin = left.new_ones(left.shape[1], columns), [0.0], perf_counter()
    while len(rates) <= 4 or perf_counter() - begin < seconds:  # the first is a warm-up
        started = perf_counter()
        torch.mm(left, right)
        if left.is_cuda:
            torch.cuda.synchronize()
        rates.append(2.0 * left.numel() * columns / (perf_counter() - started))
    return max(rates)


def memory_mib(device: torch.device) -> float:
    """Return MiB of memory: on CUDA, the peak allocated since its last reset; else, the process's resident size now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return float(psutil.Process().memory_info().rss) / 2**20
