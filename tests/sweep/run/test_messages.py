"""Messages between the driver and its workers arrive as they were sent."""

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_ray.methods.reports import EpochProgress, Outcome
from orca_ray.results.record import Status
from orca_ray.sweep.plan.schema import Scalar
from orca_ray.sweep.plan.searches import Resources, TrialSpec
from orca_ray.sweep.run.messages import TrialReport, Worker, make_record, trial_from_json, trial_to_json
from tests.sweep.fakes import fake_searches

SCALARS = (
    st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | st.text()
)


@given(st.dictionaries(st.text(), SCALARS), st.integers(0, 2**63 - 1), st.floats(0.1, 64.0))
def test_an_assignment_arrives_with_its_key(hyperparameters: dict[str, Scalar], seed: int, cpus: float) -> None:
    trial = TrialSpec(
        task="pocket/wdbc", method="orca", body="./körper", hyperparameters=hyperparameters, seed=seed,
        protocol="held-out", data_fingerprint="0" * 16, phase="search", epochs=3, resources=Resources(cpus),
        deterministic=cpus > 32,
    )  # fmt: skip
    arrived = trial_from_json(trial_to_json(trial))
    assert arrived == trial
    assert arrived.key == trial.key  # 1, 1.0 and true are equal, but not the same hyper-parameter


def test_a_lost_trial_keeps_distances_and_durations_of_its_curve() -> None:
    curve = [EpochProgress(stage="align", epoch=n, epochs=2, distance=5.0 - n, seconds=2.0) for n in (1, 2)]
    curve += [EpochProgress(stage="refine", epoch=n, epochs=3, validation_score=s) for n, s in ((1, 0.3), (2, 0.4))]
    trial = fake_searches()[0].trial({}, 0, "search")
    report = TrialReport(status=Status.LOST)
    record = make_record(trial, "fake", report, curve, datetime.now(UTC), executor="inline", attempts=6)
    assert (record.distance_before, record.distance_after, record.align_epochs, record.align_seconds) == (4, 3, 2, 4)
    assert (record.validation_score, record.best_epoch, record.epochs, record.test_score) == (0.3, 1, 2, None)


@given(st.floats(), st.floats() | st.none(), st.sampled_from([None, *Status]), st.text() | st.none())
def test_a_report_arrives_as_it_was_sent(loss: float, score: float | None, status: Status | None, text: str) -> None:
    point = EpochProgress(stage="refine", epoch=1, epochs=3, loss=loss, validation_score=score)
    worker = Worker(node=text or "", device="cpu", torch="2")
    sent = TrialReport(progress=(point,), outcome=Outcome(notes=text), worker=worker, status=status, error=text)
    arrived = TrialReport.from_json(sent.to_json())
    assert arrived.to_json() == sent.to_json()  # NaN is not equal to itself
    assert arrived.done is (status is not None)
    if not any(value is not None and math.isnan(value) for value in (loss, score)):
        assert arrived == sent


@pytest.mark.parametrize("text", ["", "[]", "{", '{"progress": [{}]}', '{"done": true}', '{"status": "asleep"}'])
def test_other_texts_are_no_reports(text: str) -> None:
    with pytest.raises(ValueError):
        TrialReport.from_json(text)
