"""The align stage of one trial: runs it, or replays it if another trial has cached the same alignment."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from orca_ray.alignment.distance import SourceFeatures
from orca_ray.alignment.fitted import fitted_distance
from orca_ray.alignment.registry import get_distance
from orca_ray.alignment.source_features import source_features
from orca_ray.data.prepared import PreparedData
from orca_ray.data.rows import Target
from orca_ray.methods.hyperparameters import Hyperparameters
from orca_ray.methods.reports import Outcome
from orca_ray.models.crossmodal import CrossModalModel
from orca_ray.models.names import parse_body_name
from orca_ray.training.align import AlignLoop
from orca_ray.training.aligned_cache import AlignedCache, AlignEpoch, AlignReplay, alignment_key


@dataclass
class AlignStage:
    """Aligns ``model``'s embedder, one epoch per `step`; the first step loads the source features."""

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

    def __post_init__(self) -> None:
        self._key: str | None = None
        self._stage: AlignLoop | AlignReplay | None = None

    @property
    def done(self) -> bool:
        """Whether the stage has ended."""
        return self._stage is not None and self._stage.done

    def step(self) -> AlignEpoch:
        """Run or replay one epoch; after the last one that was run, store the alignment in the cache."""
        self._stage = self._stage or self._open()
        epoch = self._stage.step()
        alignment = self._stage.alignment() if isinstance(self._stage, AlignLoop) else None
        if alignment is not None and self.cache is not None and self._key is not None:
            self.cache.store(self._key, alignment)
        return epoch

    def add_to(self, outcome: Outcome, seconds: float) -> Outcome:
        """Return ``outcome`` with the results of this stage so far, and ``seconds`` added to ``align_seconds``."""
        assert self._stage is not None
        stage = self._stage
        return replace(
            outcome, distance_before=stage.distance_before, distance_after=stage.distance_after,
            align_epochs=stage.epoch, align_plateaued=stage.plateaued, align_reused=isinstance(stage, AlignReplay),
            notes="; ".join(stage.notes) or None, align_seconds=outcome.align_seconds + seconds,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any] | None:
        """Return the state for `load_state_dict`; None before the first step."""
        return self._stage.state_dict() if self._stage else None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where the stage that returned ``state`` was; the embedder must already have its weights."""
        self._stage = AlignReplay.from_state(self.model.embedder, state)
        if self._stage is None:
            self._stage = self._make_loop(self._source())
            self._stage.load_state_dict(dict(state))

    def _open(self) -> AlignLoop | AlignReplay:
        source = self._source()
        if self.cache is not None:
            self._key = self._make_key(source)
            if alignment := self.cache.load(self._key, self.model.embedder):
                return AlignReplay(self.model.embedder, alignment)
        return self._make_loop(source)

    def _make_loop(self, source: SourceFeatures) -> AlignLoop:
        train, config = self.data.splits["train"], self.hyperparameters.align
        distance = fitted_distance(config.distance, source, self.device)
        rows = (train.x, train.y, self.target)
        return AlignLoop(self.model, *rows, config, distance, seed=self.seed, device=self.device)

    def _source(self) -> SourceFeatures:
        config = self.hyperparameters.align
        return source_features(
            config.source, self.body, num_samples=config.source_samples,
            image_size=self.hyperparameters.embedder.image_size, num_tokens=math.prod(self.model.embedder.layout),
            pretrained=self.pretrained, seed=0 if self.pretrained else self.seed,  # of which a random stem depends
        )  # fmt: skip

    def _make_key(self, source: SourceFeatures) -> str:
        """Return the key in the cache. It depends neither on refine options nor on the number of the body's layers."""
        config = self.hyperparameters.align
        statistics = [buffer for buffer in (self.model.input_mean, self.model.input_deviation) if buffer is not None]
        settings = {
            "data": [self.data.fingerprint, self.hyperparameters.data.fraction],
            "target": self.target.kind,
            "body": parse_body_name(self.body)[0],
            "pretrained": self.pretrained,
            "statistics": [buffer.flatten().tolist() for buffer in statistics],
            "embedder": asdict(self.hyperparameters.embedder),
            "align": asdict(replace(config, source="")),  # not the name: the source features are hashed
            "distance": get_distance(config.distance).version,
            "seed": self.seed,
            "threads": torch.get_num_threads(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        }
        return alignment_key(self.model.embedder, source, self.data.splits["train"], self.device, settings)
