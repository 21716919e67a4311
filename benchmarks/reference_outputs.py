"""Embedded tokens, features and predictions of the reference's network, with weights
that both sides can set.

``python benchmarks/reference_outputs.py CHECKOUT OUT.npz`` writes all values; OUT.json
gets about 30 of each array. ``tests/models/reference_outputs.json`` is what it writes.
The bodies are a RoBERTa and a Swin of the published widths with one layer a stage;
their weights, and all that the reference draws at random, are sine waves.
"""

import argparse
import importlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SHAPES = {"sequence": (3, 100), "image": (4, 17, 20)}
"""Inputs of each body, without the batch axis; more than three channels, so that the
patch kernel is repeated.
"""
MOST_TOKENS = 32
"""A series of 100 points becomes 25 tokens, as 4 is the smallest divisor that gives no
more.
"""
TARGETS: Mapping[str, Mapping[str, Any]] = {
    "sequence": {"classes": 5, "dense": (1, 100)},
    "image": {"classes": 5, "dense": 1, "dense4": (1, 4, 17, 20)},
}
"""The reference's ``output_shape`` of each target."""
DECODER = (3e-4, 30.0)
"""Frequency and gain of the decoder's weights; averages over pixels would be close to
zero with those of others.
"""
BODIES = {
    "sequence": "roberta-base",
    "image": "microsoft/swin-base-patch4-window7-224-in22k",
}


def wave(shape: tuple[int, ...], frequency: float) -> Tensor:
    """Return a tensor of ``shape`` with deviation 1 that follows from ``frequency``
    alone.
    """
    steps = torch.arange(math.prod(shape), dtype=torch.float64)
    return (math.sqrt(2) * torch.sin(frequency * (steps + 1))).float().reshape(shape)


def inputs(modality: str) -> Tensor:
    """Return two inputs of `SHAPES`, one noisy, one smooth."""
    shape = SHAPES[modality]
    return torch.stack(
        [wave(shape, 1.37) * wave(shape, 0.011), wave(shape, 0.023) + 0.5]
    )


@torch.no_grad()
def set_layer(layer: nn.Module, frequency: float, gain: float = 1.0) -> None:
    """Set a linear or convolutional layer, whose shape may be either's, to waves."""
    assert isinstance(layer.weight, Tensor)
    fan_in = layer.weight[0].numel()
    layer.weight.copy_(
        wave(tuple(layer.weight.shape), frequency) * (gain / math.sqrt(fan_in))
    )
    assert isinstance(layer.bias, Tensor)
    layer.bias.copy_(0.1 * wave(tuple(layer.bias.shape), frequency + 1))


def write_bodies(folder: Path) -> None:
    """Write the bodies below ``folder`` by the names of `BODIES`."""
    from transformers import RobertaConfig, RobertaModel, SwinConfig, SwinModel

    roberta = RobertaConfig(
        vocab_size=10,
        num_hidden_layers=1,
        intermediate_size=64,
        max_position_embeddings=66,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    swin = SwinConfig(
        embed_dim=128, depths=[1, 1, 1, 1], num_heads=[2, 2, 2, 2], mlp_ratio=0.25
    )
    for modality, model in (
        ("sequence", RobertaModel(roberta)),
        ("image", SwinModel(swin)),
    ):
        _set_body(model)
        model.save_pretrained(folder / BODIES[modality])


@torch.no_grad()
def _set_body(model: nn.Module) -> None:
    for index, (name, parameter) in enumerate(model.named_parameters()):
        values = wave(tuple(parameter.shape), 0.9 + 0.01 * index)
        if "token_type" in name:  # zero in the published RoBERTa, which has no segments
            parameter.zero_()
        elif parameter.dim() > 1:
            parameter.copy_(values / math.sqrt(parameter[0].numel()))
        else:
            parameter.add_(0.1 * values)


def sample(array: npt.NDArray[Any]) -> list[float]:
    """Return about 30 evenly spaced values of an array."""
    return [
        round(float(value), 6) for value in array.ravel()[:: max(1, array.size // 30)]
    ]


def _outputs() -> Iterator[tuple[str, Tensor]]:
    """Yield the reference's arrays by name: modality, initialisation, kind."""
    module = importlib.import_module("embedder")
    for modality, targets in TARGETS.items():
        for start, train_epoch in (("paper", 1), ("random", 0)):
            for target, shape in targets.items():
                x = inputs(modality)
                sequence = modality == "sequence"
                model = (module.wrapper1D if sequence else module.wrapper2D)(
                    (1, *SHAPES[modality]),
                    shape,
                    train_epoch=train_epoch,
                    target_seq_len=MOST_TOKENS,
                    weight="roberta" if sequence else "base",
                ).eval()
                if sequence or start == "random":
                    assert not model.embedder.projection.bias.any()
                    set_layer(model.embedder.projection, 0.7)
                if target == "classes":
                    set_layer(model.predictor, 0.8)
                elif not sequence:
                    set_layer(model.model.decoder[0], *DECODER)
                name = f"{modality}/{start}"
                if target == "classes":
                    yield f"{name}/tokens", model(x)
                    encode = model.model if sequence else model.model.swin
                    given = (
                        {"inputs_embeds": model.embedder(x)}
                        if sequence
                        else {"pixel_values": x}
                    )
                    yield f"{name}/features", encode(**given).last_hidden_state
                model.output_raw = False
                yield f"{name}/{target}", model(x)


def main() -> None:
    """Write the outputs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    from transformers.models.swin.modeling_swin import SwinMaskedImageModelingOutput

    from benchmarks.run_reference import repair

    repair()
    if not hasattr(
        SwinMaskedImageModelingOutput, "logits"
    ):  # its name before transformers 5
        SwinMaskedImageModelingOutput.logits = property(
            lambda self: self.reconstruction
        )
    sources = args.checkout.resolve() / "src"
    out = args.out.resolve()
    sys.path[:0] = [str(sources), str(sources / "otdd")]
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        write_bodies(Path(folder))
        os.chdir(folder)
        arrays = {name: value.numpy() for name, value in _outputs()}
        os.chdir("/")
    if out.suffix == ".json":
        lines = (
            f"{json.dumps(name)}: {json.dumps(sample(array))}"
            for name, array in arrays.items()
        )
        out.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    else:
        np.savez(out, allow_pickle=False, **arrays)


if __name__ == "__main__":
    main()
