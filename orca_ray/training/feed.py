"""Feeds: from the samples of a split to model outputs, through the whole model or through cached features."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from orca_ray.data.rows import Rows
from orca_ray.models.crossmodal import CrossModalModel
from orca_ray.training.precision import Precision
from orca_ray.training.samples import Part, Samples, make_samples

CACHE_BYTES = 512 * 2**20
"""Largest feature cache of one split."""
_CACHE_BATCH = 64


@dataclass(frozen=True)
class Feed:
    """Where the inputs of one split come from, and the network that takes them."""

    inputs: Rows | Tensor
    """[N, ...]: raw inputs for the whole model, cached features for its head alone."""
    network: nn.Module
    precision: Precision

    def samples(self, y: Rows | None = None) -> Samples:
        """Return the rows of the inputs and, where given, of the targets ``y`` [N, ...] beside them."""
        return self._alone if y is None else make_samples([self.inputs, y], self.precision.device)

    @cached_property
    def _alone(self) -> Samples:  # kept: validation runs over them every epoch
        return make_samples([self.inputs], self.precision.device)

    def outputs(self, inputs: Tensor) -> Tensor:
        """Return the float32 model outputs [b, *output_shape]; differentiable in the trained parameters."""
        return forward(self.network, inputs, self.precision)

    def parts(self, batch_size: int) -> list[Part]:
        """Return all samples in order, as slices of at most ``batch_size``."""
        starts = range(0, len(self.inputs), batch_size)
        return [slice(start, min(start + batch_size, len(self.inputs))) for start in starts]


def forward(network: Callable[[Tensor], Tensor], inputs: Tensor, precision: Precision) -> Tensor:
    """Return the float32 outputs of ``network`` on a batch, computed in ``precision``."""
    with precision.autocast():
        output: Tensor = network(inputs)
    return output.float()


def make_feed(
    model: CrossModalModel, trained: Iterable[Parameter], x: Rows, *, stochastic: bool, precision: Precision
) -> Feed:
    """Return the cheapest feed for a split ``x`` [N, ...]: cached features when only the head learns.

    ``stochastic`` (dropout or an augmentation is on) rules the cache out, for then the body's features differ from one
    epoch to the next; so do features that would take more than `CACHE_BYTES`.
    """
    head = {id(parameter) for parameter in model.head.parameters()}
    if stochastic or any(id(parameter) not in head for parameter in trained):
        return Feed(x, model, precision)
    sample = next(_head_inputs(model, x[:1], precision))
    if sample.numel() * sample.element_size() * len(x) > CACHE_BYTES:
        return Feed(x, model, precision)
    features = torch.cat(list(_head_inputs(model, x, precision)))
    return Feed(features, model.head, replace(precision, name="float32"))  # as heads compute inside the model


def _head_inputs(model: CrossModalModel, x: Rows, precision: Precision) -> Iterator[Tensor]:
    """Yield what reaches the head, [b, ...], in evaluation mode.

    A hook on the head sees exactly what the model passes it, whatever the model does in between.
    """
    seen: list[Tensor] = []
    feed = Feed(x, model, precision)
    handle = model.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), precision.active():
            for (inputs,) in feed.samples().batches(feed.parts(_CACHE_BATCH)):
                feed.outputs(inputs)
                yield seen.pop()
    finally:
        model.train(was_training)
        handle.remove()
