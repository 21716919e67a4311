"""The align stage of one trial: run, or taken over from a trial that aligns alike."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from orca_ray.alignment.features import SourceFeatures
from orca_ray.alignment.fitted import fitted_distance
from orca_ray.alignment.registry import default_source, get_distance
from orca_ray.alignment.source_features import source_features
from orca_ray.data.prepared import PreparedData
from orca_ray.data.target import Target
from orca_ray.methods.hyperparameters import Hyperparameters
from orca_ray.models.crossmodal import CrossModalModel
from orca_ray.models.names import parse_body_name
from orca_ray.training.align import AlignLoop
from orca_ray.training.align_config import AlignEpoch
from orca_ray.training.aligned_cache import AlignedCache, AlignReplay, alignment_key


@dataclass
class AlignStage:
    """Aligns ``model``'s embedder, an epoch a `step`; opened at the first one, for source features take time."""

    model: CrossModalModel
    data: PreparedData
    target: Target
    body: str
    pretrained: bool
    hyperparameters: Hyperparameters
    seed: int
    device: torch.device
    threads: int
    deterministic: bool
    kept: AlignedCache | None
    """Where aligned embedders are looked for and kept; None: neither."""

    def __post_init__(self) -> None:
        self._key: str | None = None
        self._stage: AlignLoop | AlignReplay | None = None

    @property
    def done(self) -> bool:
        """Whether the embedder is aligned."""
        return self._stage is not None and self._stage.done

    def step(self) -> AlignEpoch:
        """Run or replay one epoch; after the last one, keep the alignment for other trials."""
        self._stage = self._stage or self._open()
        epoch = self._stage.step()
        if self._key is not None and isinstance(self._stage, AlignLoop):
            assert self.kept is not None
            if alignment := self._stage.alignment():
                self.kept.store(self._key, alignment)
        return epoch

    def outcome(self) -> dict[str, Any]:
        """Return what an `Outcome` tells of the stage so far, its time left out."""
        assert self._stage is not None
        return {
            "distance_before": self._stage.distance_before,
            "distance_after": self._stage.distance_after,
            "align_epochs": self._stage.epoch,
            "align_plateaued": self._stage.plateaued,
            "align_reused": isinstance(self._stage, AlignReplay),
            "notes": "; ".join(self._stage.notes) or None,
        }

    def state_dict(self) -> dict[str, Any] | None:
        """Return what `load_state_dict` takes; None before the first step."""
        return self._stage.state_dict() if self._stage else None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue a run or a replay exactly, the embedder's weights being the model's already."""
        self._stage = AlignReplay.from_state(self.model.embedder, state)
        if self._stage is None:
            self._stage = self._loop(self._source())
            self._stage.load_state_dict(dict(state))

    def _open(self) -> AlignLoop | AlignReplay:
        source = self._source()
        if self.kept is not None:
            self._key = self._name(source)
            if alignment := self.kept.load(self._key, self.model.embedder):
                return AlignReplay(self.model.embedder, alignment)
        return self._loop(source)

    def _loop(self, source: SourceFeatures) -> AlignLoop:
        train = self.data.splits["train"]
        config = self.hyperparameters.align
        distance = fitted_distance(config.distance, source, self.device)
        return AlignLoop(
            self.model, train.x, train.y, self.target, config, distance, seed=self.seed, device=self.device
        )

    def _source(self) -> SourceFeatures:
        config = self.hyperparameters.align
        return source_features(
            config.source or default_source(self.body),
            self.body,
            image_size=self.hyperparameters.embedder.image_size,
            num_samples=config.source_samples,
            pretrained=self.pretrained,
            seed=0 if self.pretrained else self.seed,  # the random body's own stem
        )

    def _name(self, source: SourceFeatures) -> str:
        """Name what decides the aligned embedder; neither the refine stage nor the depth of the body does."""
        config = self.hyperparameters.align
        settings = {
            "data": self.data.fingerprint,
            "target": self.target.kind,
            "body": parse_body_name(self.body)[0],
            "pretrained": self.pretrained,
            "standardised": self.model.input_mean is not None,  # by statistics of these very inputs
            "embedder": asdict(self.hyperparameters.embedder),
            "align": asdict(replace(config, source="")),  # the source's features say which
            "distance": get_distance(config.distance).version,
            "seed": self.seed,
            "threads": self.threads,
            "deterministic": self.deterministic,
        }
        return alignment_key(self.model.embedder, source, self.data.splits["train"], self.device, settings)
