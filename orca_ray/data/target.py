"""Description of a prediction target."""

import math
from dataclasses import dataclass
from typing import Literal

TargetKind = Literal["classes", "labels", "scalar", "dense"]


@dataclass(frozen=True)
class Target:
    """The prediction target of a task. ``kind`` determines model output and target array, with B samples:

    ========= ==================== =================== =========================
    kind      model output         target array        meaning
    ========= ==================== =================== =========================
    classes   [B, size] logits     [B] int64           one class of ``size``
    labels    [B, size] logits     [B, size] float32   several of ``size`` labels
    scalar    [B]                  [B] float32         one number
    dense     [B, *shape]          [B, *shape] float32 a field, e.g. (16, 16)
    ========= ==================== =================== =========================

    ``size`` 0 of ``classes`` means that the number of classes is read from the data.
    """

    kind: TargetKind
    size: int = 1
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind == "dense" and not self.shape:
            raise ValueError("a dense target needs its shape, e.g. Target('dense', shape=(16, 16))")
        if self.size < (0 if self.kind == "classes" else 1):
            raise ValueError(f"a target of {self.kind} needs size >= 1, got {self.size}")

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of one model output without the batch axis."""
        return {"classes": (self.size,), "labels": (self.size,), "scalar": (), "dense": self.shape}[self.kind]

    @property
    def num_outputs(self) -> int:
        """Number of values that the model predicts for one sample."""
        return math.prod(self.output_shape)
