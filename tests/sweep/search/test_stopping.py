import pytest

from orca_ray.sweep.plan.schema import SuccessiveHalving


def test_rungs_grow_by_eta_and_leave_the_last_epoch_out() -> None:
    assert SuccessiveHalving(eta=2, min_epochs=2).rungs(15) == [2, 4, 8]
    assert SuccessiveHalving(eta=2, min_epochs=2).rungs(16) == [2, 4, 8]
    assert SuccessiveHalving(eta=3, min_epochs=1).rungs(4) == [1, 3]
    assert SuccessiveHalving(eta=2, min_epochs=5).rungs(5) == []


def test_the_first_trial_is_never_stopped() -> None:
    assert not SuccessiveHalving(eta=2, min_epochs=2).stops([9.0, 9.0], 8, [])


def test_only_the_best_half_passes_a_rung() -> None:
    rule = SuccessiveHalving(eta=2, min_epochs=2)
    earlier = [[0.5, 0.4, 0.3], [0.5, 0.2, 0.1]]
    assert rule.stops([0.6, 0.5], 8, earlier)
    assert not rule.stops([0.6, 0.3], 8, earlier)
    assert not rule.stops([0.6, 0.1], 8, earlier)


def test_best_so_far_counts_and_ties_go_on() -> None:
    rule = SuccessiveHalving(eta=2, min_epochs=2)
    assert not rule.stops([0.1, 0.9], 8, [[0.5, 0.2]])
    assert not rule.stops([0.3, 0.2], 8, [[0.9, 0.2]])


def test_between_rungs_nothing_stops_and_shorter_rivals_do_not_count() -> None:
    rule = SuccessiveHalving(eta=2, min_epochs=2)
    assert not rule.stops([0.9, 0.9, 0.9], 8, [[0.1, 0.1, 0.1]])
    assert not rule.stops([0.9, 0.9, 0.9, 0.9], 8, [[0.1, 0.1, 0.1]])


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match="eta"):
        SuccessiveHalving(eta=1.0)
    with pytest.raises(ValueError, match="min_epochs"):
        SuccessiveHalving(eta=2.0, min_epochs=0)
