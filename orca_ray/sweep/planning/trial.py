"""A trial: what makes it itself, and the stable key that names it everywhere."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from orca_ray.sweep.planning.space import Scalar

Phase = Literal["search", "confirm"]


@dataclass(frozen=True)
class Resources:
    """What one trial occupies."""

    cpus: float = 1.0
    """CPU cores; intra-op threads are set to the same number, or to one in a deterministic trial."""
    gpus: float = 0.0
    """GPUs; a fraction shares one."""
    memory_gib: float = 0.0
    """Memory to reserve in GiB; 0 reserves none."""


@dataclass(frozen=True, kw_only=True)
class TrialSpec:
    """One (task, method, body, hyper-parameters, seed, protocol), and where it stands in its sweep."""

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
    """Whether it must give equal scores wherever it runs, on CPUs bit for bit; see docs/decisions/0005."""

    @property
    def threads(self) -> int:
        """Intra-op threads: sums are split among threads, so their last digits depend on the number."""
        return 1 if self.deterministic else max(1, int(self.resources.cpus))

    @property
    def key(self) -> str:
        """Stable hash of what decides the scores: 20 hexadecimal digits."""
        identity: dict[str, Any] = {
            "task": self.task,
            "method": self.method,
            "body": self.body,
            "hyperparameters": dict(self.hyperparameters),
            "seed": self.seed,
            "protocol": self.protocol,
            "data": self.data_fingerprint,
        }
        if self.deterministic:  # no word of it otherwise: it need not change the keys of usual trials
            identity["deterministic"] = True
        return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:20]


def canonical_json(value: object) -> str:
    """Serialise with sorted keys and no spaces, so that equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def stable_seed(*parts: object) -> int:
    """Derive a 32-bit seed from names and numbers, equal on every machine and in every process."""
    return int.from_bytes(hashlib.sha256(canonical_json(parts).encode()).digest()[:4], "big")
