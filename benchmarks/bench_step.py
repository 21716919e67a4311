"""Time of an optimiser step: our loop, a plain PyTorch loop, and a lower bound.

``python benchmarks/bench_step.py [--layers 12] [--width 768] [--cases 4x1 64x9]
[--precisions float32 bfloat16] [--repeats 3] [--steps 2] [--json FILE]``, on one CPU
thread.

A case is the number of samples of a step and the number of tokens of a sample. Both
loops fine-tune the same model (a random BERT with a linear head) on the same samples in
the same order, with the same precision, AdamW (fused) and clipping. The plain loop runs
transformers' own encoder. All its losses must equal ours up to rounding.

The lower bound is the sum of two times: the products of the linear layers' weights,
forward and backward, and one step of the same AdamW, which is one pass over parameters,
gradients and states.

The times are medians of the CPU time of one step, since another process on the machine
then disturbs less. Loops alternate, epoch by epoch. Each epoch has two more steps than
``--steps``, its first and its last, which are not timed. All loops keep freed memory,
as our trials do (`keep_freed_memory`). With ``--default-allocator`` none does, which
shows what plain loops usually take.
"""

# ruff: noqa: T201 - a benchmark prints its table

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor, nn

from orca_ray.data.prepared import Split
from orca_ray.data.rows import Target
from orca_ray.models.crossmodal import CrossModalModel, build_model
from orca_ray.models.modality import EmbedderConfig
from orca_ray.training.config import RefineConfig
from orca_ray.training.evaluate import Objective
from orca_ray.training.numerics import keep_freed_memory, make_generator
from orca_ray.training.refine import RefineLoop

CASES = ("4x1", "64x1", "64x9", "16x64")
PRECISIONS = ("float32", "bfloat16")
RATE = 1e-4
CLIP = 1.0
WEIGHT_DECAY = 0.01
BETAS = (0.9, 0.98)
SEED = 0
TOLERANCES = {"float32": 1e-4, "bfloat16": 2e-2}
"""Largest gap between an epoch's mean loss in our loop and in the plain loop."""
TARGET = Target("classes", size=4)
OBJECTIVE = Objective(TARGET, "cross_entropy", "error")


@dataclass(frozen=True)
class Case:
    """Sizes of one comparison."""

    samples: int
    """Samples of one optimiser step."""
    tokens: int
    """Tokens of one sample."""
    precision: str


@dataclass(frozen=True)
class Row:
    """Median CPU seconds of one step, and the last losses."""

    case: Case
    micro_batch: int
    """Samples of a forward pass of our loop."""
    plain: float
    ours: float
    products: float
    optimizer: float
    plain_loss: float
    our_loss: float

    @property
    def bound(self) -> float:
        """Seconds of the products and of one pass of the optimiser."""
        return self.products + self.optimizer


class PlainModel(nn.Module):
    """The model in plain PyTorch: embedder, transformers' encoder, mean, linear layer.

    Only the encoder computes in lower precision.
    """

    def __init__(self, model: CrossModalModel, body: str, precision: str) -> None:
        """Take over the embedder and the head of ``model``."""
        super().__init__()
        from transformers import BertModel

        self.embedder = model.embedder
        body_model = BertModel.from_pretrained(body, add_pooling_layer=False)
        self.encoder: Any = body_model.encoder
        for dropout in self.encoder.modules():
            if isinstance(dropout, nn.Dropout):
                dropout.p = 0.0
        self.head: Any = model.head.output
        self._autocast = precision == "bfloat16"

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of inputs [B, 1, T]."""
        tokens = self.embedder(x)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._autocast):
            features = self.encoder(tokens).last_hidden_state
        logits: Tensor = self.head(features.float().mean(dim=1))
        return logits


class StepClock:
    """Clock that notes the CPU time at the end of each optimiser step."""

    def __init__(self) -> None:
        self._ends: list[float] = []

    def __call__(self) -> None:
        """Note the end of a step."""
        self._ends.append(process_time())

    def take(self) -> list[float]:
        """Return the seconds between ends of steps, and forget them."""
        seconds = np.diff(self._ends).tolist()
        self._ends = []
        return seconds


def save_body(directory: str, layers: int, width: int) -> str:
    """Save a random BERT with few words, whose embeddings are not trained."""
    from transformers import BertConfig, BertModel
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=1000,
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(directory)
    return directory


def make_model(body: str, tokens: int) -> CrossModalModel:
    """Build the model; the same one at every call."""
    return build_model(
        input_shape=(1, tokens),
        target=TARGET,
        body=body,
        pretrained=True,
        config=EmbedderConfig(sequence_length=tokens),
        seed=0,
    )


def make_split(num_samples: int, tokens: int) -> Split:
    """Make samples of noise, shifted by the class."""
    random = np.random.RandomState(0)
    y = np.arange(num_samples, dtype=np.int64) % TARGET.size
    x = random.normal(size=(num_samples, 1, tokens)) + y[:, None, None]
    return Split(x.astype(np.float32), y)


def plain_epochs(
    model: PlainModel, split: Split, case: Case, clock: StepClock
) -> Callable[[], float]:
    """Return a function that trains one epoch and returns its mean loss."""
    x = torch.from_numpy(split.x)
    y = torch.from_numpy(split.y)
    optimizer = torch.optim.AdamW(
        model.parameters(), RATE, BETAS, weight_decay=WEIGHT_DECAY, fused=True
    )
    loss_function = nn.CrossEntropyLoss()
    epochs_done = 0

    def epoch() -> float:
        nonlocal epochs_done
        model.train()
        generator = make_generator(SEED, "order", epochs_done)
        order = torch.randperm(len(y), generator=generator)
        losses = []
        for indices in torch.split(order, case.samples):
            loss = loss_function(model(x[indices]), y[indices])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            clock()
        epochs_done += 1
        return float(np.mean(losses))

    return epoch


def our_loop(
    model: CrossModalModel, split: Split, case: Case, epochs: int, clock: StepClock
) -> RefineLoop:
    """Return our loop over the same data; it validates on one sample, since validation
    is not measured.
    """
    config = RefineConfig(
        epochs=epochs,
        learning_rate=RATE,
        weight_decay=WEIGHT_DECAY,
        batch_size=case.samples,
        schedule="constant",
        warmup_epochs=0,
        clip=CLIP,
        precision=case.precision,
    )
    trained = [value for value in model.parameters() if value.requires_grad]
    return RefineLoop(
        model,
        trained,
        split,
        Split(split.x[:1], split.y[:1]),
        OBJECTIVE,
        config,
        seed=SEED,
        device=torch.device("cpu"),
        on_step=clock,
    )


def bare_products(encoder: nn.Module, case: Case) -> Callable[[], None]:
    """Return a function that computes the products of a step's linear layers."""
    dtype = getattr(torch, case.precision)
    rows = case.samples * case.tokens
    layers = [
        (
            torch.randn(rows, layer.in_features, dtype=dtype),
            torch.randn(layer.out_features, layer.in_features, dtype=dtype),
            torch.randn(rows, layer.out_features, dtype=dtype),
        )
        for layer in encoder.modules()
        if isinstance(layer, nn.Linear)
    ]
    buffers = [[torch.empty_like(tensor) for tensor in layer] for layer in layers]

    def step() -> None:
        for (x, weight, dy), (dx, dweight, y) in zip(layers, buffers, strict=True):
            torch.mm(x, weight.T, out=y)
            torch.mm(dy, weight, out=dx)
            torch.mm(dy.T, x, out=dweight)

    return step


def bare_optimizer(model: nn.Module) -> Callable[[], object]:
    """Return a function that makes a step of AdamW, with constant gradients."""
    parameters = [value.detach().clone() for value in model.parameters()]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimizer = torch.optim.AdamW(
        parameters, RATE, BETAS, weight_decay=WEIGHT_DECAY, fused=True
    )
    return optimizer.step


def seconds_of(function: Callable[[], object]) -> float:
    """Return the CPU seconds of a call."""
    begin = process_time()
    function()
    return process_time() - begin


def compare(body: str, case: Case, repeats: int, steps: int) -> Row:
    """Time the loops in turns; the first epoch only warms up."""
    split = make_split((steps + 2) * case.samples, case.tokens)
    plain_clock = StepClock()
    our_clock = StepClock()
    plain_model = PlainModel(make_model(body, case.tokens), body, case.precision)
    our_model = make_model(body, case.tokens)
    plain_epoch = plain_epochs(plain_model, split, case, plain_clock)
    loop = our_loop(our_model, split, case, repeats + 1, our_clock)
    products = bare_products(plain_model.encoder, case)
    optimizer = bare_optimizer(plain_model)
    seconds: dict[str, list[float]] = {
        name: [] for name in ("plain", "ours", "products", "optimizer")
    }
    for repeat in range(repeats + 1):
        plain_loss = plain_epoch()
        our_loss = loop.step().loss
        gap = abs(plain_loss - our_loss)
        assert gap < TOLERANCES[case.precision], (case, plain_loss, our_loss)
        taken = {
            "plain": plain_clock.take()[:steps],
            "ours": our_clock.take(),
            "products": [seconds_of(products) for _ in range(steps)],
            "optimizer": [seconds_of(optimizer) for _ in range(steps)],
        }
        if repeat:
            for name, values in taken.items():
                seconds[name] += values
    medians = {name: median(values) for name, values in seconds.items()}
    return Row(
        case,
        loop.micro_batch,
        **medians,
        plain_loss=plain_loss,
        our_loss=our_loss,
    )


def print_row(row: Row) -> None:
    """Print one line of the table."""
    case = row.case
    print(
        f"{f'{case.samples} x {case.tokens}':>8}{case.precision:>10}"
        f"{row.micro_batch:>6}{row.plain:>9.3f}{row.ours:>9.3f}{row.products:>10.3f}"
        f"{row.optimizer:>7.3f}{row.ours / row.plain:>12.2f}"
        f"{row.ours / row.bound:>12.2f}{row.our_loss:>9.4f}{row.plain_loss:>9.4f}",
        flush=True,
    )


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--cases", nargs="+", default=CASES, metavar="SAMPLESxTOKENS")
    parser.add_argument(
        "--precisions", nargs="+", default=PRECISIONS, choices=PRECISIONS
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="timed steps of an epoch")
    parser.add_argument("--default-allocator", action="store_true")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    """Print the table."""
    wanted = parse_arguments()
    torch.set_num_threads(1)
    if not wanted.default_allocator:
        keep_freed_memory()
    print(
        f"CPU seconds of a step, {wanted.layers} layers x {wanted.width}; micro: our"
        " samples of a forward pass; bound: products + AdamW"
    )
    print(
        f"{'':>8}{'precision':>10}{'micro':>6}{'plain':>9}{'ours':>9}{'products':>10}"
        f"{'AdamW':>7}{'ours/plain':>12}{'ours/bound':>12}{'loss':>9}{'plain':>9}"
    )
    rows = []
    with tempfile.TemporaryDirectory(prefix="orca-ray-bench-") as directory:
        body = save_body(directory, wanted.layers, wanted.width)
        for precision in wanted.precisions:
            for sizes in wanted.cases:
                samples, tokens = map(int, sizes.split("x"))
                case = Case(samples, tokens, precision)
                rows.append(compare(body, case, wanted.repeats, wanted.steps))
                print_row(rows[-1])
    if wanted.json:
        rows_as_dicts: list[dict[str, Any]] = [asdict(row) for row in rows]
        wanted.json.write_text(json.dumps(rows_as_dicts, indent=1))


if __name__ == "__main__":
    main()
