"""The stage of `pare`: refining with a loss of mixes of target and source tokens beside
the task's loss.

Tensor suffixes as in :mod:`orca_ray.models.body`; k counts the source tokens in a mix.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from orca_ray.data.rows import Target
from orca_ray.methods.stages.refine_stage import RefineStage
from orca_ray.methods.stages.trial import Trial
from orca_ray.models.body import seeded
from orca_ray.models.crossmodal import PooledHead
from orca_ray.training.numerics import choose_precision, derive_seed
from orca_ray_followers.pare import PareConfig
from orca_ray_followers.source_tokens import source_tokens

TEMPERATURE = 0.9


def pare_stages(trial: Trial) -> list[RefineStage]:
    """Return the stage of `pare`."""
    return [
        RefineStage(
            trial, batch_term=MixTerm(trial, trial.hyperparameters.of(PareConfig))
        )
    ]


class MixTerm:
    """A `BatchTerm`: the weighted loss of mixes of target and source tokens, as in
    `pare`.

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
        usual = (
            0.3
            if trial.task.target.kind == "dense"
            else 0.1
            if model.body.modality == "sequence"
            else 1.0
        )
        self._weight = config.weight or usual
        self._num_tokens = math.prod(model.embedder.layout)
        self.start(0, trial.hyperparameters.refine.epochs)

    def start(self, epoch: int, epochs: int) -> None:
        """For ``epoch`` (from 0) of ``epochs``, set how many tokens to replace, and
        whether to draw them at random.
        """
        share = (
            self._config.begin
            + (self._config.end - self._config.begin) * epoch / epochs
        )
        self.num_replaced = max(1, int(share * self._num_tokens))
        self.drawn = epoch < self._config.drawn * epochs

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the weighted mean loss of inputs [B, ...], with targets [B, ...],
        mixed with random source samples.
        """
        rows = torch.randint(len(self._source), (len(x),), device=x.device)
        mixed_BTD = self.mix(self._model.embed(x), self._source.tokens(rows))
        with self._precision.autocast():
            features_BSF = self._model.encode(mixed_BTD)
        of_target = self._loss(self._model.head(features_BSF), y)
        of_source = functional.cross_entropy(
            self._source_head(features_BSF), self._source.y[rows]
        )
        source_share = self.num_replaced / self._num_tokens
        return self._weight * (
            (1 - source_share) * of_target + source_share * of_source
        )

    def mix(self, target_BTD: Tensor, source_BTD: Tensor) -> Tensor:
        """Return the target tokens, `num_replaced` of them replaced by source tokens;
        prefix tokens stay.
        """
        prefix_BPD, target_BTD = target_BTD.tensor_split(
            [self._model.body.num_prefix_tokens], dim=1
        )
        source_BTD = source_BTD[:, prefix_BPD.shape[1] :]
        keys = self._keys(target_BTD), self._keys(source_BTD)
        return torch.cat(
            (
                prefix_BPD,
                replace_lowest(target_BTD, source_BTD, *keys, self.num_replaced),
            ),
            dim=1,
        )

    def _keys(self, tokens_BTD: Tensor) -> Tensor:
        gates_BT = torch.sigmoid(self._gate(tokens_BTD)[..., 0])
        if not self.drawn:
            return gates_BT.detach()
        return gates_BT - torch.empty_like(gates_BT).exponential_().log()


def replace_lowest(
    target_BTD: Tensor,
    source_BTD: Tensor,
    target_keys_BT: Tensor,
    source_keys_BT: Tensor,
    k: int,
) -> Tensor:
    """Return the target tokens [B, T, D], after source tokens replace the ``k`` target
    tokens with the lowest keys.

    The ``k`` source tokens with the highest keys are taken, in their original order.
    """
    replaced_Bk, replaced_BT = _highest(-target_keys_BT, k)
    chosen_Bk, chosen_BT = _highest(source_keys_BT, k)
    width = target_BTD.shape[2]
    chosen_BkD = (chosen_BT[..., None] * source_BTD).gather(
        1, chosen_Bk[..., None].expand(-1, -1, width)
    )
    placed_BTD = torch.zeros_like(target_BTD).scatter(
        1, replaced_Bk[..., None].expand(-1, -1, width), chosen_BkD
    )
    return (1 - replaced_BT)[..., None] * target_BTD + placed_BTD


def _highest(keys_BT: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the indices [B, k] of the highest keys, ascending, and a mask of 0 and 1
    with the relaxed gradient.
    """
    highest_Bk, indices_Bk = keys_BT.topk(k)
    mask_BT = torch.zeros_like(keys_BT).scatter(1, indices_Bk, 1.0)
    relaxed_BT = torch.sigmoid((keys_BT - highest_Bk[:, -1:].detach()) / TEMPERATURE)
    return indices_Bk.sort().values, mask_BT + (relaxed_BT - relaxed_BT.detach())
