"""Cross-entropy with smoothed labels."""

from functools import partial

import torch
from torch.nn.functional import cross_entropy

from orca_ray.data.rows import Rows, Target
from orca_ray.tasks.losses import Loss, TrainingLoss


def make(train_y: Rows, target: Target, device: torch.device) -> Loss:
    """Return the loss of logits [B, K] and classes [B]."""
    return partial(cross_entropy, label_smoothing=0.1)


LOSS = TrainingLoss(
    name="smoothed_cross_entropy",
    definition=(
        "cross-entropy with targets of 0.9 for the class, and 0.1 spread over all"
        " classes"
    ),
    source="Szegedy et al., Rethinking the Inception Architecture, CVPR 2016",
    make=make,
)
