"""Data, bodies and alignment sources that a node needs before it runs the trials of one task."""

from dataclasses import dataclass

from orca_ray.sweep.planning.searches import TrialSpec


@dataclass(frozen=True, kw_only=True)
class StagingRequest:
    """Request to stage the prepared data of a task, and the bodies and sources that its trials read."""

    task: str
    protocol: str
    fingerprint: str
    """Fingerprint that the prepared data must have; "" accepts any, because none is known yet."""
    bodies: tuple[str, ...] = ()
    """Names of bodies whose pretrained weights are read."""
    sources: tuple[str, ...] = ()
    """Names of alignment sources."""

    @classmethod
    def of_trial(cls, trial: TrialSpec) -> "StagingRequest":
        """Return the request for one trial."""
        from orca_ray.methods.recipe import get_method

        source = str(trial.hyperparameters.get("align.source") or "")
        return cls(
            task=trial.task,
            protocol=trial.protocol,
            fingerprint=trial.data_fingerprint,
            bodies=(trial.body,) if get_method(trial.method).pretrained else (),
            sources=(source,) if source else (),  # also without align epochs, since stages such as PaRe's read it, too
        )
