"""The align stage of one trial: runs it, with a guard if the method has one, or replays a cached alignment."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from orca_ray.alignment.distance import SourceFeatures
from orca_ray.alignment.fitted import fitted_distance
from orca_ray.alignment.registry import get_distance
from orca_ray.alignment.source_features import source_features
from orca_ray.data.prepared import PreparedData, Split
from orca_ray.data.rows import Target
from orca_ray.methods.hyperparameters import Hyperparameters
from orca_ray.methods.reports import Outcome
from orca_ray.methods.stages.guard import Guard
from orca_ray.models.crossmodal import CrossModalModel
from orca_ray.models.names import parse_body_name
from orca_ray.training.align import AlignLoop
from orca_ray.training.aligned_cache import AlignedCache, AlignEpoch, AlignReplay, alignment_key
from orca_ray.training.probe import Probe, ProbePoint


@dataclass
class AlignStage:
    """Aligns ``model``'s embedder, one epoch or probe per `step`; the first step loads the source features."""

    model: CrossModalModel
    data: PreparedData
    target: Target
    body: str
    pretrained: bool
    hyperparameters: Hyperparameters
    seed: int
    device: torch.device
    cache: AlignedCache | None
    """Cache of alignments, shared with other trials; None: no cache."""
    guarded: bool = False
    """Whether a `Guard` chooses the embedder."""

    def __post_init__(self) -> None:
        self._key: str | None = None
        self._stage: AlignLoop | AlignReplay | None = None
        self._guard: Guard | None = None  # of an `AlignLoop`

    @property
    def done(self) -> bool:
        """Whether the stage has ended."""
        return self._stage is not None and self._stage.done and (self._guard is None or self._guard.done)

    def step(self) -> AlignEpoch | ProbePoint:
        """Run or replay one epoch or probe; after the last, load the guard's choice and store it in the cache."""
        self._stage = stage = self._stage or self._open()
        if isinstance(stage, AlignReplay):
            return stage.step()
        report: AlignEpoch | ProbePoint
        if self._guard is not None and self._guard.due(stage.progress):
            report = self._guard.step(stage.progress, stage.epoch)
        else:
            report = stage.step()
        if self.done:
            self._finish(stage)
        return report

    def add_to(self, outcome: Outcome, seconds: float) -> Outcome:
        """Return ``outcome`` with the results of this stage so far, and ``seconds`` added to ``align_seconds``."""
        assert self._stage is not None
        stage = self._stage
        return replace(
            outcome, distance_before=stage.distance_before, distance_after=stage.distance_after,
            align_epochs=stage.epoch, align_plateaued=stage.plateaued, align_reused=isinstance(stage, AlignReplay),
            align_chosen=self._chosen, notes="; ".join(stage.notes) or None,
            align_seconds=outcome.align_seconds + seconds,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any] | None:
        """Return the state for `load_state_dict`; None before the first step."""
        if self._stage is None:
            return None
        return self._stage.state_dict() | {"guard": None if self._guard is None else self._guard.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where the stage that returned ``state`` was; the embedder must already have its weights."""
        self._stage = AlignReplay.from_state(self.model.embedder, state)
        if self._stage is None:
            self._stage = self._make_loop(self.source())
            self._stage.load_state_dict(dict(state))
            if self._guard is not None:
                self._guard.load_state_dict(state["guard"])

    @property
    def _chosen(self) -> int | None:
        if isinstance(self._stage, AlignReplay):
            return self._stage.chosen
        return self._guard.chosen if self._guard is not None and self.done else None

    def _finish(self, loop: AlignLoop) -> None:
        if self._guard is not None:
            self._guard.load_choice()
        alignment = loop.alignment()
        if alignment is None or self.cache is None or self._key is None:
            return
        if self._guard is not None:
            alignment = replace(alignment, probes=self._guard.points, chosen=self._guard.chosen)
        self.cache.store(self._key, alignment)

    def _open(self) -> AlignLoop | AlignReplay:
        source = self.source()
        if self.cache is not None:
            self._key = self._make_key(source)
            if alignment := self.cache.load(self._key, self.model.embedder):
                return AlignReplay(self.model.embedder, alignment)
        return self._make_loop(source)

    def _make_loop(self, source: SourceFeatures) -> AlignLoop:
        train, config = self.data.splits["train"], self.hyperparameters.align
        if self.guarded:
            probe = Probe(self.model, self._probed(), self.target, seed=self.seed, device=self.device)
            self._guard = Guard(self.model.embedder, probe)
        distance = fitted_distance(config.distance, source, self.device)
        rows = (train.x, train.y, self.target)
        return AlignLoop(self.model, *rows, config, distance, seed=self.seed, device=self.device)

    def _probed(self) -> list[Split]:
        train, validation = self.data.splits["train"], self.data.splits["validation"]
        # Under protocol ``paper``, the validation split is the test split, and train contains all other samples.
        return [train] if validation is self.data.splits.get("test") else [train, validation]

    def source(self) -> SourceFeatures:
        """Return the source features, which are cached."""
        config = self.hyperparameters.align
        return source_features(
            config.source, self.body, num_samples=config.source_samples,
            image_size=self.hyperparameters.embedder.image_size, num_tokens=math.prod(self.model.embedder.layout),
            pretrained=self.pretrained, seed=0 if self.pretrained else self.seed,  # a random stem depends on it
        )  # fmt: skip

    def _make_key(self, source: SourceFeatures) -> str:
        """Return the key in the cache. Neither refine options nor, without a guard, the body's layers matter."""
        config = self.hyperparameters.align
        distance = get_distance(config.distance)
        # Not the name of the source: its features are hashed.
        config = replace(config, source="", learning_rate=config.learning_rate or distance.learning_rate)
        statistics = [buffer for buffer in (self.model.input_mean, self.model.input_deviation) if buffer is not None]
        settings = {
            "data": [self.data.fingerprint, self.hyperparameters.data.fraction],
            "target": self.target.kind,
            "guarded": self.guarded,
            "body": parse_body_name(self.body)[0],
            "pretrained": self.pretrained,
            "statistics": [buffer.flatten().tolist() for buffer in statistics],
            "embedder": asdict(self.hyperparameters.embedder),
            "align": asdict(config),
            "distance": distance.version,
            "seed": self.seed,
            "threads": torch.get_num_threads(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        }
        weights = self.model if self.guarded else self.model.embedder
        return alignment_key(weights, source, self.data.splits["train"], self.device, settings)
