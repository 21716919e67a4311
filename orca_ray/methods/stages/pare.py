"""The stage of `pare`: refining, also by a loss of mixes of target and source tokens.

Tensor suffixes as in :mod:`orca_ray.models.body`; k counts the source tokens in a mix.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from orca_ray.data.rows import Target
from orca_ray.methods.recipes.pare import PareConfig
from orca_ray.methods.stages.refine_stage import RefineStage
from orca_ray.methods.stages.source_tokens import source_tokens
from orca_ray.methods.stages.trial import Trial
from orca_ray.models.body import seeded
from orca_ray.models.crossmodal import PooledHead
from orca_ray.training.numerics import choose_precision, derive_seed

TEMPERATURE = 0.9
"""Width of the relaxed choice of tokens, sigmoid((key − κ) / 0.9)."""
DENSE_WEIGHT = 0.3
"""Weight of the loss of mixes for dense targets, in the published code."""
SEQUENCE_WEIGHT = 0.1
"""Weight of the loss of mixes for sequence bodies, in the published code."""
IMAGE_WEIGHT = 1.0
"""Weight of the loss of mixes for image bodies, in the published code."""


def pare_stages(trial: Trial) -> list[RefineStage]:
    """Return the stage of `pare`."""
    term = MixTerm(trial, trial.hyperparameters.of(PareConfig))
    return [RefineStage(trial, batch_term=term)]


class MixTerm:
    """The weighted loss of mixes of target and source tokens; a `BatchTerm`.

    The constructor adds the gate of tokens and the head for source classes to the
    trial's model.
    """

    def __init__(self, trial: Trial, config: PareConfig) -> None:
        model = trial.model
        self._config = config
        self._model = model
        self._source = source_tokens(trial)
        self._loss = trial.objective.training_loss(trial.data.train.y, trial.device)
        width = model.body.feature_width
        self._precision = choose_precision(
            trial.hyperparameters.refine.precision, trial.device, width
        )
        with seeded(derive_seed(trial.seed, "pare")):
            self._gate = nn.Linear(self._source.stem.width, 1).to(trial.device)
            classes = Target("classes", size=self._source.num_classes)
            self._source_head = PooledHead(width, classes, model.body.pooling).to(
                trial.device
            )
        model.add_module("gate", self._gate)
        model.add_module("source_head", self._source_head)
        self._weight = config.weight
        if config.weight == 0:
            self._weight = published_weight(trial)
        self._num_tokens = math.prod(model.embedder.layout)
        self.start(epoch=0, epochs=trial.hyperparameters.refine.epochs)

    def start(self, epoch: int, epochs: int) -> None:
        """Set how tokens are replaced in ``epoch`` (from 0) of ``epochs``.

        The epoch decides how many tokens are replaced, and whether they are drawn at
        random.
        """
        config = self._config
        share = config.begin + (config.end - config.begin) * epoch / epochs
        self.num_replaced = max(1, int(share * self._num_tokens))
        self.drawn = epoch < config.drawn * epochs

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the weighted mean loss of inputs mixed with random source samples.

        The inputs ``x`` are [B, ...], and their targets ``y`` are [B, ...].
        """
        rows = torch.randint(len(self._source), (len(x),), device=x.device)
        mixed_BTD = self.mix(self._model.embed(x), self._source.tokens(rows))
        with self._precision.autocast():
            features_BSF = self._model.encode(mixed_BTD)
        target_loss = self._loss(self._model.head(features_BSF), y)
        source_loss = functional.cross_entropy(
            self._source_head(features_BSF), self._source.y[rows]
        )
        source_share = self.num_replaced / self._num_tokens
        return self._weight * (
            (1 - source_share) * target_loss + source_share * source_loss
        )

    def mix(self, target_BTD: Tensor, source_BTD: Tensor) -> Tensor:
        """Return the target tokens, `num_replaced` of them replaced by source tokens.

        Prefix tokens, which both arguments [B, P + T, D] have, stay the target's.
        """
        num_prefix = self._model.body.num_prefix_tokens
        prefix_BPD, target_BTD = target_BTD.tensor_split([num_prefix], dim=1)
        source_BTD = source_BTD[:, num_prefix:]
        mixed_BTD = replace_lowest(
            target_BTD,
            source_BTD,
            self._keys(target_BTD),
            self._keys(source_BTD),
            self.num_replaced,
        )
        return torch.cat((prefix_BPD, mixed_BTD), dim=1)

    def _keys(self, tokens_BTD: Tensor) -> Tensor:
        """Return the keys [B, T] of tokens: gates, plus noise if tokens are drawn."""
        gates_BT = torch.sigmoid(self._gate(tokens_BTD)[..., 0])
        if not self.drawn:
            return gates_BT.detach()
        return gates_BT - torch.empty_like(gates_BT).exponential_().log()


def published_weight(trial: Trial) -> float:
    """Return the weight that the published code gives to the loss of mixes."""
    if trial.task.target.kind == "dense":
        return DENSE_WEIGHT
    if trial.model.body.modality == "sequence":
        return SEQUENCE_WEIGHT
    return IMAGE_WEIGHT


def replace_lowest(
    target_BTD: Tensor,
    source_BTD: Tensor,
    target_keys_BT: Tensor,
    source_keys_BT: Tensor,
    k: int,
) -> Tensor:
    """Return target tokens [B, T, D], ``k`` of them replaced by source tokens.

    The ``k`` target tokens with the lowest keys are replaced by the ``k`` source tokens
    with the highest keys, which keep their order. The masks of `_highest` are 0 or 1,
    but have the gradient of a relaxed choice: products with them pass gradients to the
    keys.
    """
    replaced_Bk, replaced_BT = _highest(-target_keys_BT, k)
    inserted_Bk, inserted_BT = _highest(source_keys_BT, k)
    width = target_BTD.shape[2]
    inserted_BkD = (inserted_BT[..., None] * source_BTD).gather(
        1, inserted_Bk[..., None].expand(-1, -1, width)
    )
    placed_BTD = torch.zeros_like(target_BTD).scatter(
        1, replaced_Bk[..., None].expand(-1, -1, width), inserted_BkD
    )
    return (1 - replaced_BT)[..., None] * target_BTD + placed_BTD


def _highest(keys_BT: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the indices [B, k], ascending, of the highest keys, and their mask [B, T].

    The mask is 0 or 1, and has the gradient of the relaxed choice.
    """
    highest_Bk, indices_Bk = keys_BT.topk(k)
    mask_BT = torch.zeros_like(keys_BT).scatter(1, indices_Bk, 1.0)
    relaxed_BT = torch.sigmoid((keys_BT - highest_Bk[:, -1:].detach()) / TEMPERATURE)
    return indices_Bk.sort().values, mask_BT + (relaxed_BT - relaxed_BT.detach())
