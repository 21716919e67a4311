"""Specification of a trial, with all that a worker needs to run it, and its key."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

from pydantic import TypeAdapter

from orca_ray.process import NodeResources
from orca_ray.sweep.plan.schema import Scalar

Phase = Literal["search", "confirm"]
"""Phase of a trial.

Search trials try configurations. Confirm trials rerun the best configuration, or run
the cells of a grid, and are scored on test.
"""


@dataclass(frozen=True)
class Resources:
    """Resources of one trial."""

    cpus: float = 1.0
    """CPU cores to reserve.

    PyTorch gets as many intra-op threads, but one thread in a deterministic trial.
    """
    gpus: float = 0.0
    """GPUs to reserve; with 0.5, two trials share one GPU, with 2, one trial uses two.
    """
    memory_gib: float = 0.0
    """Host memory to reserve in GiB; 0 reserves none."""

    @property
    def ranks(self) -> int:
        """Number of processes that train the trial: one for each GPU, or 1 on a CPU."""
        return max(1, int(self.gpus))

    def slots_on(self, node: NodeResources) -> int:
        """Return how many such trials fit on a node, if nothing else runs there."""
        limits = [node.cpus / self.cpus if self.cpus else math.inf]
        if self.memory_gib:
            limits.append(node.memory_gib / self.memory_gib)
        # 1e-9: rounding must not turn 3 slots into 2.999...
        if 0 < self.gpus < 1:  # a share lies on one card
            limits.append(int(node.gpus) * int(1 / self.gpus + 1e-9))
        elif self.gpus:
            limits.append(node.gpus / self.gpus)
        return int(min(limits) + 1e-9)


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
    """Number of refine epochs, as in ``hyperparameters``.

    It is used for progress and early stopping.
    """
    resources: Resources = field(default_factory=Resources)
    halvings: int = 0
    """How often the micro-batch is halved, because memory ran out in earlier attempts.
    """
    replaced_source: str = ""
    """The paper's alignment source if ``align.source`` replaces it, else "".

    The paper's source is replaced if it could not be fetched.
    """
    deterministic: bool = False
    """Whether the trial must give the same scores on every run.

    See docs/decisions/0005-deterministic.md.
    """

    @property
    def threads(self) -> int:
        """Number of PyTorch's intra-op threads of all ranks together.

        It does not depend on the node, because the rounding of sums depends on it. A
        trial on a GPU may have fewer CPUs than planned, where GPUs would idle
        (`placement.without_idle_gpus`).
        """
        return 1 if self.deterministic else max(1, int(self.resources.cpus))

    @cached_property
    def key(self) -> str:
        """Hash of everything that decides the scores: 20 hexadecimal digits.

        It is equal in all processes and on all machines.
        """
        identity: dict[str, Any] = {
            "task": self.task,
            "method": self.method,
            "body": self.body,
            "hyperparameters": dict(self.hyperparameters),
            "seed": self.seed,
            "protocol": self.protocol,
            "data": self.data_fingerprint,
        }
        if (
            self.deterministic
        ):  # left out if False, so that keys in older stores stay valid
            identity["deterministic"] = True
        return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:20]

    def to_json(self) -> str:
        """Return the trial as JSON text, for its worker."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "TrialSpec":
        """Return the trial that `to_json` converted to ``text``."""
        return _trial_adapter.validate_json(text)


_trial_adapter = TypeAdapter(TrialSpec)


def canonical_json(value: object) -> str:
    """Return ``value`` as JSON text with sorted keys and no spaces.

    Equal values give equal text.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def stable_seed(*parts: object) -> int:
    """Return a 32-bit seed that depends only on ``parts`` (names and numbers).

    It is the same in all processes and on all machines.
    """
    return int.from_bytes(
        hashlib.sha256(canonical_json(parts).encode()).digest()[:4], "big"
    )
