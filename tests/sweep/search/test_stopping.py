import pytest

from orca_ray.sweep.planning.schema import SuccessiveHalving


def test_rungs_grow_by_eta_and_leave_the_last_epoch_out() -> None:
    assert SuccessiveHalving(eta=2, min_epochs=2).rungs(15) == [2, 4, 8]
    assert SuccessiveHalving(eta=2, min_epochs=2).rungs(16) == [2, 4, 8]
    assert SuccessiveHalving(eta=3, min_epochs=1).rungs(4) == [1, 3]
    assert SuccessiveHalving(eta=2, min_epochs=5).rungs(5) == []


def test_the_first_trial_is_never_stopped() -> None:
    assert not SuccessiveHalving(eta=2, min_epochs=2).stops([9.0, 9.0], 8, [])


@pytest.mark.parametrize(
    ("scores", "rivals", "stops"),
    [
        ([0.6, 0.5], [[0.5, 0.4, 0.3], [0.5, 0.2, 0.1]], True),  # only the best half passes a rung
        ([0.6, 0.3], [[0.5, 0.4, 0.3], [0.5, 0.2, 0.1]], False),
        ([0.1, 0.9], [[0.5, 0.2]], False),  # the best so far counts
        ([0.3, 0.2], [[0.9, 0.2]], False),  # ties go on
        ([0.9] * 3, [[0.1] * 3], False),  # between rungs nothing stops
        ([0.9] * 4, [[0.1] * 3], False),  # shorter rivals do not count
    ],
)
def test_what_a_rung_stops(scores: list[float], rivals: list[list[float]], stops: bool) -> None:
    assert SuccessiveHalving(eta=2, min_epochs=2).stops(scores, 8, rivals) is stops


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match="eta"):
        SuccessiveHalving(eta=1.0)
    with pytest.raises(ValueError, match="min_epochs"):
        SuccessiveHalving(eta=2.0, min_epochs=0)
