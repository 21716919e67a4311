"""Time of a refine epoch: our loop, the reference's own loop, and a plain PyTorch loop
with the same recipe.

``python benchmarks/bench_refine.py [--samples 256] [--repeats 3] [--layers 2] [--device
cuda] [--json FILE]``, on one thread. ``--layers 12`` is a body of 86 million
parameters, for a GPU.

Four loops train the same model (a random 768-wide BERT over 63 tokens) on the same
samples in the same order, with the same effective batch of 64: "reference", the
function ``train_one_epoch`` of the checkout that ``ORCA_REFERENCE`` names (omitted if
it names none), "plain", the same recipe in this file, and ours in "float32" and in
"auto", the device's default precision. Ratios are to the reference, or else to the
plain loop.

The recipe is that of the published ECG configuration: batches of 4 from a `DataLoader`
with 4 workers, a step every 16 of them, clipping at every batch, unfused SGD,
``.item()`` at every batch. The clip is too large to act, because clipping a partial
gradient differs from clipping the sum. All loops but "auto" must therefore give equal
losses up to rounding, and "auto" similar ones. Epochs alternate.

A fifth row, "products", computes only the products of the layers' weights, forward and
backward, in float32 and in micro-batches as large as ours: a lower bound of the time of
any float32 loop on the same library.
"""

# ruff: noqa: T201 - a benchmark prints its table

import argparse
import json
import os
import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler, TensorDataset

from benchmarks.reference import compile_function, reference_checkout
from orca_ray.data.prepared import Split
from orca_ray.data.rows import Target
from orca_ray.models.crossmodal import CrossModalModel, build_model
from orca_ray.models.modality import EmbedderConfig
from orca_ray.training.config import RefineConfig
from orca_ray.training.evaluate import Objective
from orca_ray.training.numerics import make_generator
from orca_ray.training.refine import RefineLoop

BATCH = 4
ACCUMULATION = 16
CLIP = 1e3
RATE = 1e-3
MOMENTUM = 0.9
SEED = 0
TOLERANCES = {"reference": 1e-4, "float32": 1e-4, "auto": 2e-2}
"""Largest gap of an epoch's mean loss to that of the plain loop."""
TARGET = Target("classes", size=4)
OBJECTIVE = Objective(TARGET, "cross_entropy", "error")


def make_split(num_samples: int) -> Split:
    """Make windows of noise with a tone that tells the class, as many and long as ECG
    windows.
    """
    random = np.random.RandomState(0)
    y = np.arange(num_samples, dtype=np.int64) % TARGET.size
    tones = np.sin(np.arange(1000) / 20.0 * (1 + y[:, None]))
    return Split(
        (random.normal(size=(num_samples, 1, 1000)) + tones[:, None]).astype(
            np.float32
        ),
        y,
    )


def save_body(directory: str, layers: int) -> str:
    """Save a random BERT, 768 wide."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    BertModel(BertConfig(num_hidden_layers=layers)).save_pretrained(directory)
    return directory


def make_model(body: str, device: torch.device) -> CrossModalModel:
    """Build the model; the same one at every call."""
    config = EmbedderConfig(sequence_length=64)
    model = build_model(
        input_shape=(1, 1000),
        target=TARGET,
        body=body,
        pretrained=True,
        config=config,
        seed=0,
    )
    return model.to(device)


class OurOrder(Sampler[int]):
    """The order in which our loop takes the samples, epoch by epoch."""

    def __init__(self, num_samples: int) -> None:
        self._num_samples = num_samples
        self._epoch = 0

    def __iter__(self) -> Iterator[int]:
        """Yield the next epoch's order."""
        order = torch.randperm(
            self._num_samples, generator=make_generator(SEED, "order", self._epoch)
        )
        self._epoch += 1
        yield from order.tolist()


def plain_epochs(
    model: CrossModalModel, split: Split, device: torch.device
) -> Callable[[], float]:
    """Return a function that trains one epoch as the reference does and returns its
    mean loss.
    """
    data = TensorDataset(torch.from_numpy(split.x), torch.from_numpy(split.y))
    order = OurOrder(len(split))
    loader = DataLoader(data, batch_size=BATCH, sampler=order, num_workers=4)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=RATE, momentum=MOMENTUM, foreach=False, fused=False
    )
    loss_function = torch.nn.CrossEntropyLoss()

    def epoch() -> float:
        model.train()
        total = 0.0
        optimizer.zero_grad()
        for number, (x, y) in enumerate(loader, start=1):
            loss = loss_function(model(x.to(device)), y.to(device))
            (loss / ACCUMULATION).backward()
            if CLIP > 0:
                torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            if number % ACCUMULATION == 0:
                optimizer.step()
                optimizer.zero_grad()
            total += loss.item() * len(x)
        return total / len(split)

    return epoch


def reference_epochs(
    model: CrossModalModel, split: Split, device: torch.device, checkout: Path
) -> Callable[[], float]:
    """Return a function that trains one epoch with the reference's own code and returns
    its mean loss.

    It sums the gradients of a step where the plain loop takes their mean: an SGD rate
    as much smaller makes up for it.
    """
    train = compile_function(
        checkout / "src" / "main.py", "train_one_epoch", {"torch": torch}
    )
    data = TensorDataset(torch.from_numpy(split.x), torch.from_numpy(split.y))
    loader = DataLoader(
        data, batch_size=BATCH, sampler=OurOrder(len(split)), num_workers=4
    )
    rate = RATE / ACCUMULATION
    optimizer = torch.optim.SGD(
        model.parameters(), lr=rate, momentum=MOMENTUM, foreach=False, fused=False
    )
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    told = types.SimpleNamespace(
        device=device,
        dataset="ECG",
        clip=CLIP * ACCUMULATION,
        accum=ACCUMULATION,
        lr_sched_iter=True,
    )
    loss = torch.nn.CrossEntropyLoss()
    return lambda: float(
        train(
            None, told, model, optimizer, scheduler, loader, loss, len(split) // BATCH
        )
    )


def our_loop(
    model: CrossModalModel,
    split: Split,
    device: torch.device,
    epochs: int,
    precision: str,
) -> RefineLoop:
    """Return our loop over the same data; it validates on one sample, since validation
    is not measured.
    """
    config = RefineConfig(
        epochs=epochs,
        learning_rate=RATE,
        optimizer="sgd",
        momentum=MOMENTUM,
        weight_decay=0.0,
        batch_size=BATCH,
        accumulation=ACCUMULATION,
        schedule="constant",
        warmup_epochs=0,
        clip=CLIP,
        precision=precision,
    )
    few = Split(split.x[:1], split.y[:1])
    return RefineLoop(
        model,
        model.parameters(),
        split,
        few,
        OBJECTIVE,
        config,
        seed=SEED,
        device=device,
    )


def bare_products(
    model: CrossModalModel, split: Split, device: torch.device, micro_batch: int
) -> Callable[[], None]:
    """Return a function that computes an epoch's products of the linear layers'
    weights, in whole micro-batches.
    """
    shapes: list[tuple[int, int, int]] = []

    def note(
        layer: torch.nn.Linear, inputs: tuple[torch.Tensor, ...], _: torch.Tensor
    ) -> None:
        shapes.append(
            (inputs[0].shape[:-1].numel(), layer.in_features, layer.out_features)
        )

    layers = [
        module for module in model.body.modules() if isinstance(module, torch.nn.Linear)
    ]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    with torch.no_grad():
        model(torch.from_numpy(split.x[:micro_batch]).to(device))
    for hook in hooks:
        hook.remove()
    assert len(shapes) == len(layers)

    def tensors(rows: int, wide: int, out: int) -> list[torch.Tensor]:
        return [
            torch.randn(shape, device=device)
            for shape in ((rows, wide), (out, wide), (rows, out))
        ]

    sides = [(tensors(*shape), tensors(*shape)) for shape in shapes]

    def epoch() -> None:
        for _ in range(round(len(split) / micro_batch)):
            for (x, weight, y), (dx, dweight, dy) in sides:
                torch.mm(x, weight.T, out=y)
                torch.mm(dy, weight, out=dx)
                torch.mm(dy.T, x, out=dweight)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return epoch


def train_seconds(loop: RefineLoop) -> tuple[float, float]:
    """Run one of our epochs; return seconds of training and its mean loss."""
    epoch = loop.step()
    return epoch.seconds - epoch.validation_seconds, epoch.loss


def compare(
    body: str, num_samples: int, repeats: int, device: torch.device
) -> dict[str, Any]:
    """Time epochs in turns; return medians, losses and rates by loop."""
    split = make_split(num_samples)
    theirs = {"plain": plain_epochs(make_model(body, device), split, device)}
    if checkout := reference_checkout():
        theirs["reference"] = reference_epochs(
            make_model(body, device), split, device, checkout
        )
    ours = {
        name: our_loop(make_model(body, device), split, device, repeats, name)
        for name in ("float32", "auto")
    }
    micro_batch = ours["float32"].micro_batch
    products = bare_products(make_model(body, device), split, device, micro_batch)
    seconds: dict[str, list[float]] = {
        name: [] for name in (*theirs, *ours, "products")
    }
    losses: dict[str, list[float]] = {name: [] for name in (*theirs, *ours)}
    for _ in range(repeats):
        for name, train in theirs.items():
            begin = perf_counter()
            losses[name].append(train())
            seconds[name].append(perf_counter() - begin)
        for name, loop in ours.items():
            taken, loss = train_seconds(loop)
            seconds[name].append(taken)
            losses[name].append(loss)
        begin = perf_counter()
        products()
        seconds["products"].append(perf_counter() - begin)
    rows: dict[str, Any] = {
        name: {
            "seconds": median(taken),
            "samples_per_second": num_samples / median(taken),
        }
        for name, taken in seconds.items()
    }
    for name, found in losses.items():
        rows[name]["losses"] = found
    rows["products"]["micro_batch"] = micro_batch
    for name, loop in ours.items():
        # Over all epochs, including the first, so it is scaled to the median rate.
        rates = loop.throughput()
        faster = rows[name]["samples_per_second"] / rates.samples_per_second
        rows[name]["tokens_per_second"] = faster * (rates.tokens_per_second or 0.0)
        rows[name] |= {
            "precision": loop.precision.name,
            "micro_batch": loop.micro_batch,
        }
    return rows


def check(rows: dict[str, Any]) -> None:
    """Refuse figures of loops that did not train alike."""
    for name, tolerance in TOLERANCES.items():
        if name not in rows:
            continue
        gaps = np.abs(
            np.array(rows[name]["losses"]) - np.array(rows["plain"]["losses"])
        )
        assert gaps.max() < tolerance, (
            name,
            rows[name]["losses"],
            rows["plain"]["losses"],
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--samples",
        type=int,
        default=256,
        help="rounded up to whole steps, of 64 samples each",
    )
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()
    # The recipe drops the gradient of a step cut short.
    wanted.samples += -wanted.samples % (BATCH * ACCUMULATION)
    warnings.filterwarnings(
        "ignore", message="This DataLoader will create 4 worker processes"
    )
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="orca-ray-bench-") as directory:
        rows = compare(
            save_body(directory, wanted.layers),
            wanted.samples,
            wanted.repeats,
            torch.device(wanted.device),
        )
    check(rows)
    print(
        f"one epoch of {wanted.samples} samples, {wanted.layers} layers, effective"
        f" batch {BATCH * ACCUMULATION}"
    )
    print(
        f"{'':12}{'precision':>10}{'micro':>6}{'seconds':>9}{'samples/s':>11}{'loss':>9}{'ratio':>7}"
    )
    for name, row in rows.items():
        found = row.get("losses")
        print(
            f"{name:12}{row.get('precision', 'float32'):>10}"
            f"{row.get('micro_batch', BATCH):>6}{row['seconds']:9.2f}"
            f"{row['samples_per_second']:11.1f}"
            f"{'' if found is None else f'{found[-1]:.4f}':>9}"
            f"{rows.get('reference', rows['plain'])['seconds'] / row['seconds']:7.2f}"
        )
    if wanted.json:
        wanted.json.write_text(
            json.dumps(
                {"arguments": vars(wanted) | {"json": None}, "loops": rows}, indent=1
            )
        )


if __name__ == "__main__":
    main()
