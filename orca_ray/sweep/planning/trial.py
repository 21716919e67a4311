"""A trial, and the stable key that identifies it in the store, in checkpoints and between processes."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from orca_ray.sweep.planning.space import Scalar

Phase = Literal["search", "confirm"]


@dataclass(frozen=True)
class Resources:
    """Resources of one trial."""

    cpus: float = 1.0
    """CPU cores; intra-op threads are set to the same number, or to one in a deterministic trial."""
    gpus: float = 0.0
    """GPUs; trials with a fraction share one."""
    memory_gib: float = 0.0
    """Memory to reserve in GiB; 0 reserves none."""


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """One (task, method, body, hyper-parameters, seed, protocol), with its phase and resources."""

    task: str
    method: str
    body: str
    hyperparameters: Mapping[str, Scalar]
    seed: int
    protocol: str
    data_fingerprint: str
    phase: Phase
    epochs: int
    """Refine epochs, for progress and early stopping."""
    resources: Resources = field(default_factory=Resources)
    deterministic: bool = False
    """Whether scores must be equal wherever the trial runs, on CPUs bit for bit; see docs/decisions/0005."""

    @property
    def threads(self) -> int:
        """Intra-op threads; the last digits of sums depend on their number."""
        return 1 if self.deterministic else max(1, int(self.resources.cpus))

    @cached_property
    def key(self) -> str:
        """Stable hash of everything that decides the scores: 20 hexadecimal digits."""
        identity: dict[str, Any] = {
            "task": self.task,
            "method": self.method,
            "body": self.body,
            "hyperparameters": dict(self.hyperparameters),
            "seed": self.seed,
            "protocol": self.protocol,
            "data": self.data_fingerprint,
        }
        if self.deterministic:  # left out otherwise, so that other trials keep their keys
            identity["deterministic"] = True
        return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:20]


def canonical_json(value: object) -> str:
    """Serialise with sorted keys and no spaces, so that equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def stable_seed(*parts: object) -> int:
    """Derive a 32-bit seed from names and numbers, equal on every machine and in every process."""
    return int.from_bytes(hashlib.sha256(canonical_json(parts).encode()).digest()[:4], "big")
