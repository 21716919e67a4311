"""The whole model: a task's embedder, a pretrained body and a task's head."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.models.body import Body, seeded, set_dropout, switch_stochastic_depth_off
from orca_ray.models.embedder import EMBEDDERS, Embedder
from orca_ray.models.head import build_head
from orca_ray.models.modality import ContextName, DenseHeadName, EmbedderConfig
from orca_ray.models.weights import BodyArchitecture, LoadedBody, load_body


class CrossModalModel(nn.Module):
    """Maps raw inputs [B, C, L] or [B, C, H, W] to predictions [B, *target.output_shape]."""

    input_mean: Tensor | None
    input_deviation: Tensor | None

    def __init__(
        self, embedder: Embedder, body: Body, head: nn.Module, statistics: tuple[Tensor, Tensor] | None = None
    ) -> None:
        """Assemble the parts. ``statistics``: mean and deviation that standardise inputs, each [C, 1] or [C, 1, 1]."""
        super().__init__()
        mean, deviation = statistics or (None, None)
        # Not saved with the weights: whoever builds a model computes the statistics from its data.
        self.register_buffer("input_mean", mean, persistent=False)
        self.register_buffer("input_deviation", deviation, persistent=False)
        self.embedder, self.body, self.head = embedder, body, head
        self._grid = (embedder.layout[0], embedder.layout[1]) if len(embedder.layout) == 2 else None

    def embed(self, x: Tensor) -> Tensor:
        """Standardise raw inputs, if the model has statistics, and embed them as tokens [B, T, D]."""
        if self.input_mean is not None and self.input_deviation is not None:
            x = (x - self.input_mean) / self.input_deviation
        tokens: Tensor = self.embedder(x)
        return tokens

    def features(self, x: Tensor) -> Tensor:
        """Return the mean over the tokens of each input, [B, D]. The align stage uses it as the input's features."""
        return self.embed(x).mean(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Predict [B, *target.output_shape]: logits for classes and labels, values otherwise.

        Under autocast, only the body computes in lower precision. Embedder and head keep float32: they are cheap, and
        the inputs and predictions of a regression need more precision than bfloat16 has.
        """
        with torch.autocast(x.device.type, enabled=False):
            tokens_BTD = self.embed(x)
        features_BSF = self.encode(tokens_BTD)
        with torch.autocast(x.device.type, enabled=False):
            predictions: Tensor = self.head(features_BSF)
        return predictions

    def encode(self, tokens_BTD: Tensor) -> Tensor:
        """Return the body's features [B, S, F] of embedded tokens, in float32; those of prefix tokens are left out."""
        features: Tensor = self.body(tokens_BTD, self._grid)[:, self.body.num_prefix_tokens :].float()
        return features


def build_model(
    *,
    input_shape: tuple[int, ...],
    target: Target,
    body: str | BodyArchitecture,
    pretrained: bool,
    config: EmbedderConfig,
    dense_head: DenseHeadName = "learned",
    context: ContextName = "causal",
    dropout: float = 0.0,
    stochastic_depth: bool = False,
    seed: int,
    statistics: tuple[Tensor, Tensor] | None = None,
    substitute: Callable[[LoadedBody], Body] | None = None,
) -> CrossModalModel:
    """Build a model for inputs of ``input_shape`` (C, L) or (C, H, W).

    ``statistics``: mean and deviation of each input channel; None: inputs are already standardised. ``dense_head`` is
    that of `HeadConfig`, ``context`` that of `DecoderConfig`. With ``stochastic_depth``, training skips layers with the
    probabilities that the body declares. ``substitute`` returns the network that replaces the body and takes the same
    input. Equal arguments give equal parameters, and the global random state does not change.

    Raises UserError for an unknown body, unreadable weights, an input shape that is neither 1-D nor 2-D, or a decoder
    ``context`` for a body that is not a decoder.
    """
    if len(input_shape) not in (2, 3) or min(input_shape) < 1:
        raise UserError(f"input shape must be (channels, length) or (channels, height, width), got {input_shape}")
    loaded = load_body(body, pretrained=pretrained, seed=seed)
    loaded.body.set_context(context)
    with seeded(seed):
        embedder = EMBEDDERS[loaded.body.modality](input_shape, loaded.stem, config, dropout, seed)
        network = loaded.body if substitute is None else substitute(loaded)
        if len(embedder.layout) == 2:
            network.fit_grid((embedder.layout[0], embedder.layout[1]))
        layout = network.feature_layout(embedder.layout)
        head = build_head(
            network.feature_width, layout, target, input_shape[1:], embedder.patch, embedder.image_size, dense_head,
            network.pooling,
        )  # fmt: skip
    set_dropout(network, dropout)
    if not stochastic_depth:
        switch_stochastic_depth_off(network)
    return CrossModalModel(embedder, network, head, statistics)
