"""The align stage of one trial: trains the embedder, guarded if the method says so, or
replays a cached alignment.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from orca_ray.alignment.distance import SourceFeatures
from orca_ray.alignment.registry import get_distance
from orca_ray.alignment.source_features import fitted_distance
from orca_ray.methods.reports import EpochProgress, Outcome, joined
from orca_ray.methods.stages.trial import Trial
from orca_ray.models.names import parse_body_name
from orca_ray.training.align import AlignLoop, Probe
from orca_ray.training.checkpoint import (
    AlignEpoch,
    Alignment,
    AlignReplay,
    ProbePoint,
    alignment_key,
)
from orca_ray.training.config import AlignConfig

POINTS = (0.0, 0.25, 1.0)
"""Shares of the align schedule after which the embedder is probed.

More would take over 15 % of a short trial.
"""
MARGIN = 2.0
"""A later embedder is chosen if its error is lower by more than this many standard
errors of the paired difference.
"""


class AlignGuard:
    """Guard of aligning: measures the embedder's error at `POINTS` by a `Probe`, and
    keeps the chosen point's weights.

    The first choice is the embedder before aligning. The embedder at a later point
    replaces the present choice if its mean error over the samples of the probe is lower
    by more than `MARGIN` standard errors of the difference, which noise alone seldom
    causes (``docs/decisions/0012-guarded.md`` has measurements).
    """

    def __init__(self, embedder: nn.Module, probe: Callable[[], Tensor]) -> None:
        """Guard ``embedder``; ``probe()`` returns the embedder's errors [n], each time
        on the same samples.
        """
        self._embedder = embedder
        self._probe = probe
        self._passed = 0
        self._errors_n: Tensor | None = None
        self._weights: dict[str, Tensor] = {}
        self.chosen = 0
        """Number of align epochs of the chosen embedder; 0: the embedder before
        aligning.
        """
        self.points: tuple[ProbePoint, ...] = ()

    @property
    def done(self) -> bool:
        """Whether the embedder has been probed at all `POINTS`."""
        return self._passed == len(POINTS)

    def due(self, progress: float) -> bool:
        """Return whether the schedule, with the share ``progress`` done, has reached
        one of `POINTS` not yet probed.

        If a plateau of the distance skips a part of the schedule, one probe may count
        for several `POINTS`.
        """
        return bisect_right(POINTS, progress) > self._passed

    def step(self, progress: float, epoch: int) -> ProbePoint:
        """Probe the embedder after ``epoch`` epochs, choose it if clearly better, and
        return the probe's result.
        """
        errors_n = self._probe()
        if self._errors_n is None or _is_lower(errors_n, self._errors_n):
            self.chosen = epoch
            self._errors_n = errors_n
            self._weights = {
                name: value.to("cpu", copy=True)
                for name, value in self._embedder.state_dict().items()
            }
        self._passed = bisect_right(POINTS, progress)
        point = ProbePoint(epoch, float(errors_n.mean()))
        self.points = (*self.points, point)
        return point

    def load_choice(self) -> None:
        """Load the chosen weights into the embedder."""
        self._embedder.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        """Return the state for an exact resume."""
        points = [(point.epoch, point.error) for point in self.points]
        state = {
            "passed": self._passed,
            "chosen": self.chosen,
            "errors": self._errors_n,
            "points": points,
        }
        return state | {"weights": self._weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the ``state`` of an earlier guard, to continue exactly where that
        guard was.
        """
        self._passed = state["passed"]
        self.chosen = state["chosen"]
        self._errors_n = state["errors"]
        self._weights = state["weights"]
        self.points = tuple(ProbePoint(*point) for point in state["points"])


def _is_lower(errors_n: Tensor, than_n: Tensor) -> bool:
    difference_n = than_n - errors_n
    noise = float(difference_n.std(correction=0)) / math.sqrt(len(difference_n))
    return float(difference_n.mean()) > MARGIN * noise


class AlignStage:
    """Stage that aligns the embedder.

    A `step` is one epoch or one probe; the first step loads the source features.
    """

    name = "align"
    parallel = False

    def __init__(
        self, trial: Trial, config: AlignConfig | None = None, *, guarded: bool = False
    ) -> None:
        """Plan the stage; ``config`` replaces ``align.*``.

        If ``guarded``, an `AlignGuard` chooses the embedder.
        """
        self._trial = trial
        self._guarded = guarded
        self._config = config or trial.hyperparameters.align
        self._key: str | None = None
        self._stage: AlignLoop | AlignReplay | None = None
        self._guard: AlignGuard | None = None  # of an `AlignLoop`
        self._seconds = 0.0  # of the last step
        if trial.test:
            trial.artefacts.before_aligning(trial.model, trial.device)

    @property
    def done(self) -> bool:
        """Whether the stage has ended."""
        return (
            self._stage is not None
            and self._stage.done
            and (self._guard is None or self._guard.done)
        )

    def step(self) -> EpochProgress:
        """Run one epoch or probe, or replay it from the cache, and return its report.

        After the last epoch or probe, load the weights that any guard chose, and store
        a new alignment in the cache.
        """
        started = perf_counter()  # includes source features and pseudo-labels
        self._stage = stage = self._stage or self._open()
        report: AlignEpoch | ProbePoint
        if (
            isinstance(stage, AlignLoop)
            and self._guard is not None
            and self._guard.due(stage.progress)
        ):
            report = self._guard.step(stage.progress, stage.epoch)
        else:
            report = stage.step()
        if self.done and isinstance(stage, AlignLoop):
            self._store(stage)
        self._seconds = perf_counter() - started
        if self.done:
            trial = self._trial
            trial.artefacts.after_aligning(
                trial.model, trial.device, trial.source_features()
            )
        progress = EpochProgress(
            stage="align",
            epoch=report.epoch,
            epochs=self._config.epochs,
            seconds=self._seconds,
        )
        if isinstance(report, ProbePoint):
            return replace(progress, stage="probe", loss=report.error)
        return replace(
            progress, distance=report.distance, learning_rate=report.learning_rate
        )

    def add_to(self, outcome: Outcome) -> Outcome:
        """Return a copy of ``outcome`` with the results of this stage so far, and the
        last step's seconds added.
        """
        stage = self._stage
        assert stage is not None
        chosen = self._guard.chosen if self._guard is not None and self.done else None
        return replace(
            outcome,
            distance_before=stage.distance_before,
            distance_after=stage.distance_after,
            align_epochs=stage.epoch,
            align_plateaued=stage.plateaued,
            align_reused=isinstance(stage, AlignReplay),
            align_chosen=stage.chosen if isinstance(stage, AlignReplay) else chosen,
            notes=joined(outcome.notes, stage.notes),
            align_seconds=outcome.align_seconds + self._seconds,
        )

    def state_dict(self) -> dict[str, Any] | None:
        """Return the state for `load_state_dict`; None before the first step."""
        if self._stage is None:
            return None
        return self._stage.state_dict() | {
            "guard": None if self._guard is None else self._guard.state_dict()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the ``state`` of an earlier stage, to continue there; restore the
        embedder's weights before.
        """
        if "replay" in state:
            alignment = Alignment.from_state(state["replay"])
            self._stage = AlignReplay(
                self._trial.model.embedder, alignment, state["position"]
            )
            return
        self._stage = self._make_loop()
        self._stage.load_state_dict(dict(state))
        if self._guard is not None:
            self._guard.load_state_dict(state["guard"])

    def _store(self, loop: AlignLoop) -> None:
        if self._guard is not None:
            self._guard.load_choice()
        alignment = loop.alignment()
        cache = self._trial.cache
        if alignment is None or cache is None or self._key is None:
            return
        if self._guard is not None:
            alignment = replace(
                alignment, probes=self._guard.points, chosen=self._guard.chosen
            )
        cache.store(self._key, alignment)

    def _open(self) -> AlignLoop | AlignReplay:
        source = self._trial.source_features()
        if self._trial.cache is not None:
            self._key = self._make_key(source)
            if alignment := self._trial.cache.load(
                self._key, self._trial.model.embedder
            ):
                return AlignReplay(self._trial.model.embedder, alignment)
        return self._make_loop()

    def _make_loop(self) -> AlignLoop:
        trial = self._trial
        if self._guarded:
            train = trial.data.splits["train"]
            validation = trial.data.splits["validation"]
            # Under protocol ``paper``, the validation split is the test split, and
            # train contains all other samples.
            splits = (
                [train]
                if validation is trial.data.splits.get("test")
                else [train, validation]
            )
            probe = Probe(
                trial.model,
                splits,
                trial.task.target,
                seed=trial.seed,
                device=trial.device,
            )
            self._guard = AlignGuard(trial.model.embedder, probe)
        return make_align_loop(trial, self._config)

    def _make_key(self, source: SourceFeatures) -> str:
        """Return the key of the alignment in the cache.

        It depends neither on the refine options nor, without a guard, on the layers of
        the body.
        """
        trial = self._trial
        distance = get_distance(self._config.distance)
        # Not the name of the source: its features are hashed.
        config = replace(
            self._config,
            source="",
            learning_rate=self._config.learning_rate or distance.learning_rate,
        )
        model = trial.model
        statistics = [
            buffer
            for buffer in (model.input_mean, model.input_deviation)
            if buffer is not None
        ]
        settings = {
            "data": [trial.data.fingerprint, trial.hyperparameters.data.fraction],
            "target": trial.task.target.kind,
            "guarded": self._guarded,
            "body": parse_body_name(trial.body)[0],
            "pretrained": trial.pretrained,
            "statistics": [buffer.flatten().tolist() for buffer in statistics],
            "embedder": asdict(trial.hyperparameters.embedder),
            "align": asdict(config),
            "distance": distance.version,
            "seed": trial.seed,
            "threads": torch.get_num_threads(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        }
        weights = model if self._guarded else model.embedder
        return alignment_key(weights, source, trial.data.train, trial.device, settings)


def make_align_loop(trial: Trial, config: AlignConfig) -> AlignLoop:
    """Return a loop that aligns the embedder to the trial's source features by the
    distance of ``config``.
    """
    train = trial.data.train
    distance = fitted_distance(config.distance, trial.source_features(), trial.device)
    rows = (train.x, train.y, trial.task.target)
    return AlignLoop(
        trial.model, *rows, config, distance, seed=trial.seed, device=trial.device
    )
