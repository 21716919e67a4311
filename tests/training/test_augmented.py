"""Refining on augmented inputs, and with weights of the training split's classes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orca_ray.models.crossmodal import CrossModalModel
from orca_ray.tasks.augmentations import Augmentation
from orca_ray.testing.trials import copy_of
from orca_ray.training.config import RefineConfig
from orca_ray.training.refine import RefineLoop

from .training_toys import limited_memory, make_refine, same, toy_model, toy_split

STEADY: dict[str, Any] = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "clip": 0.0}


@dataclass(frozen=True)
class Shift(Augmentation):
    """Adds a number of its own to each sample."""

    name: str = "shift"
    definition: str = "adds a number to each sample"

    def draw(self, num_samples: int, generator: torch.Generator) -> Tensor:
        return torch.randn(num_samples, 1, 1, generator=generator)

    def apply(self, x: Tensor, drawn: Tensor) -> Tensor:
        return x + drawn


class Idle(Shift):
    """Draws, and leaves the inputs as they are."""

    def apply(self, x: Tensor, drawn: Tensor) -> Tensor:
        return x


SHIFT = Shift()


def make_loop(
    model: CrossModalModel, config: RefineConfig, augmentation: Augmentation | None = SHIFT, **options: Any
) -> RefineLoop:
    return make_refine(model, config, validation=toy_split(30, 1), augmentation=augmentation, **options)


def watch(model: CrossModalModel) -> dict[bool, list[Tensor]]:
    """Collect the inputs that the embedder is given, by whether it is training."""
    seen: dict[bool, list[Tensor]] = {True: [], False: []}
    model.embedder.register_forward_hook(lambda module, inputs, _: seen[module.training].append(inputs[0].clone()))
    return seen


def test_every_epoch_draws_anew_and_only_training_sees_it() -> None:
    model = toy_model()
    train, validation = toy_split(75), toy_split(30, 1)
    loop = make_loop(model, RefineConfig(epochs=2, batch_size=75), train=train)
    _ = loop.micro_batch  # measuring the cost shows the model some samples
    seen = watch(model)
    loop.step()
    loop.step()
    loop.predict(validation)
    assert torch.equal(torch.cat(seen[False]), torch.from_numpy(np.concatenate([validation.x[:]] * 3)))
    # A shift leaves the differences within a sample, which tell who is who.
    samples = [torch.from_numpy(train.x[:]), *torch.cat(seen[True]).view(2, *train.x.shape)]
    plain, *shifted = (each[each.diff()[:, 0, 0].argsort(), 0] for each in samples)
    shifts = [each - plain for each in shifted]
    for shift in shifts:
        torch.testing.assert_close(shift, shift[:, :1].expand(-1, 8), rtol=0, atol=1e-5)
        assert 0.7 < float(shift[:, 0].std()) < 1.3
    assert abs(np.corrcoef(shifts[0][:, 0], shifts[1][:, 0])[0, 1]) < 0.3


def test_what_a_sample_looks_like_does_not_depend_on_the_micro_batch_nor_on_memory() -> None:
    """A step that is computed again in smaller micro-batches sees the same inputs."""
    inputs, weights = [], []
    for limit, most in ((3, 99), (32, 99), (16, 8)):
        model = toy_model()
        loop = make_loop(model, RefineConfig(epochs=1, batch_size=16, **STEADY))
        loop._accumulator.limit = limit
        with limited_memory(model, most, training=True):
            seen = watch(model)  # only micro-batches that fit reach this hook
            loop.step()
        inputs.append(torch.cat(seen[True]))
        weights.append(copy_of(model))
    for number in (1, 2):
        assert torch.equal(inputs[0], inputs[number])
        for name, value in weights[0].items():
            torch.testing.assert_close(weights[number][name], value, rtol=1e-4, atol=1e-6)


def test_a_resumed_loop_sees_the_same_inputs() -> None:
    config = RefineConfig(epochs=3, dropout=0.2)

    def run(seed: int, stop: int = -1, augmentation: Augmentation | None = SHIFT) -> tuple[list[float], Any]:
        model = toy_model(dropout=0.2)
        loop = make_loop(model, config, augmentation, seed=seed)
        losses = []
        while not loop.done:
            if loop.epoch == stop:
                state, model = loop.state_dict(), toy_model(dropout=0.2, seed=9)
                loop = make_loop(model, config, augmentation, seed=seed)
                loop.load_state_dict(state)
            losses.append(loop.step().loss)
        return losses, copy_of(model)

    losses, weights = run(0)
    again = run(0, stop=1)
    assert again[0] == losses
    assert same(again[1], weights)
    assert run(1)[0] != losses
    # Dropout's random numbers are the same with and without an augmentation.
    assert run(0, augmentation=None)[0] == run(0, augmentation=Idle())[0] != losses
