"""A trial, and the key that identifies it in the results store, in checkpoint names and in messages to workers."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from orca_ray.sweep.planning.space import Scalar

Phase = Literal["search", "confirm"]
"""Search trials try configurations; confirm trials rerun the best one with other seeds and are scored on test."""


@dataclass(frozen=True)
class Resources:
    """Resources of one trial."""

    cpus: float = 1.0
    """CPU cores to reserve. PyTorch gets as many intra-op threads, or one in a deterministic trial."""
    gpus: float = 0.0
    """GPUs to reserve; with 0.5, two trials share one GPU."""
    memory_gib: float = 0.0
    """Memory to reserve in GiB; 0 reserves none."""


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """Everything that a worker needs to know to run one trial."""

    task: str
    method: str
    body: str
    hyperparameters: Mapping[str, Scalar]
    seed: int
    protocol: str
    data_fingerprint: str
    phase: Phase
    epochs: int
    """Number of refine epochs, as in ``hyperparameters``; progress and early stopping read it here."""
    resources: Resources = field(default_factory=Resources)
    deterministic: bool = False
    """Whether the trial must give the same scores on every run; see docs/decisions/0005-deterministic.md."""

    @property
    def threads(self) -> int:
        """Number of PyTorch's intra-op threads. It is fixed, because the rounding of sums depends on it."""
        return 1 if self.deterministic else max(1, int(self.resources.cpus))

    @cached_property
    def key(self) -> str:
        """20 hexadecimal digits: a hash of everything that decides the scores, equal in all processes and machines."""
        identity: dict[str, Any] = {
            "task": self.task,
            "method": self.method,
            "body": self.body,
            "hyperparameters": dict(self.hyperparameters),
            "seed": self.seed,
            "protocol": self.protocol,
            "data": self.data_fingerprint,
        }
        if self.deterministic:  # left out if False, so that keys in older stores stay valid
            identity["deterministic"] = True
        return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:20]


def canonical_json(value: object) -> str:
    """Serialise ``value`` as JSON with sorted keys and no spaces, so that equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def stable_seed(*parts: object) -> int:
    """Return a 32-bit seed that depends only on ``parts`` (names and numbers), not on the machine or process."""
    return int.from_bytes(hashlib.sha256(canonical_json(parts).encode()).digest()[:4], "big")
