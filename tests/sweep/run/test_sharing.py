"""Several sweeps on one cluster: how it is divided, and what the drivers do then."""

import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_ray.results import live
from orca_ray.results.lease import Lease
from orca_ray.results.live import Limits
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.plan.trial_spec import Resources
from orca_ray.sweep.run import sharing
from orca_ray.sweep.run.sharing import Amounts, Claim, Share, TrialsWanted, divide
from tests.results.factories import Clock
from tests.sweep.fakes import new_controller

WHOLE_GPU = Resources(cpus=1.0, gpus=1.0)


class Board:
    """Claims of drivers in a dictionary."""

    def __init__(self) -> None:
        self.claims: dict[str, bytes] = {}

    def publish(self, driver: str, claim: bytes) -> None:
        self.claims[driver] = claim

    def read(self) -> Mapping[str, bytes]:
        return dict(self.claims)

    def remove(self, driver: str) -> None:
        self.claims.pop(driver, None)


def claim(driver: str, *wanted: tuple[float, float, int], priority: int = 0) -> Claim:
    return Claim(driver, priority, tuple(TrialsWanted(*trials) for trials in wanted), 1)


def test_equal_claims_get_equal_parts() -> None:
    parts = divide([claim("a", (1, 1, 99)), claim("b", (1, 0.5, 99))], Amounts(64, 8))
    assert parts == {"a": Amounts(4, 4), "b": Amounts(8, 4)}


def test_what_one_does_not_want_the_others_get() -> None:
    claims = [claim("a", (1, 1, 2)), claim("b", (1, 1, 99)), claim("c", (1, 1, 99))]
    parts = divide(claims, Amounts(64, 8))
    assert parts == {"a": Amounts(2, 2), "b": Amounts(3, 3), "c": Amounts(3, 3)}


def test_sweeps_that_need_different_resources_do_not_take_from_each_other() -> None:
    parts = divide([claim("a", (1, 1, 99)), claim("b", (1, 0, 99))], Amounts(16, 8))
    assert parts == {"a": Amounts(8, 8), "b": Amounts(8, 0)}


def test_the_highest_priority_comes_first_and_nobody_starves() -> None:
    claims = [
        claim("a", (1, 1, 99), priority=2),
        claim("b", (1, 1, 99), priority=1),
        claim("c", (1, 1, 99), priority=1),
    ]
    parts = divide(claims, Amounts(64, 8))
    assert parts == {"a": Amounts(6, 6), "b": Amounts(1, 1), "c": Amounts(1, 1)}


claims_strategy = st.lists(
    st.tuples(
        st.integers(-2, 2),
        st.lists(
            st.tuples(
                st.sampled_from([0.0, 0.5, 1.0, 4.0]),
                st.sampled_from([0.0, 0.125, 0.5, 1.0, 2.0]),
                st.integers(0, 50),
            ),
            max_size=3,
        ),
    ),
    min_size=1,
    max_size=6,
)


@given(claims_strategy, st.integers(0, 32), st.integers(0, 8))
def test_parts_fit_together_and_no_room_is_left_that_somebody_wants(
    drawn: list[tuple[int, list[tuple[float, float, int]]]], cpus: int, gpus: int
) -> None:
    claims = [
        claim(str(number), *wanted, priority=priority)
        for number, (priority, wanted) in enumerate(drawn)
    ]
    totals = Amounts(cpus, gpus)
    parts = divide(claims, totals)
    used = Amounts(
        sum(part.cpus for part in parts.values()),
        sum(part.gpus for part in parts.values()),
    )
    assert used.fit(totals)
    left = Amounts(totals.cpus - used.cpus, totals.gpus - used.gpus)
    for each in claims:
        most = Amounts()
        for trials in each.wanted:
            most = most.plus(trials, trials.count)
        assert parts[each.driver].fit(most)
        if parts[each.driver] == Amounts():
            fitting = [
                trials
                for trials in each.wanted
                if trials.count
                and (trials.cpus or trials.gpus)
                and Amounts().plus(trials).fit(left)
            ]
            assert not fitting


@dataclass
class Driver:
    """A driver whose trials take some minutes, on a simulated cluster of 8 GPUs."""

    share: Share
    priority: int = 0
    begins: float = 0.0
    trial_seconds: float = 60.0
    ends: list[float] = field(default_factory=list)
    """Times at which the running trials end."""
    busy: float = 0.0
    """GPU seconds used so far."""


def simulate(drivers: list[Driver], seconds: float, clock: Clock) -> None:
    """Run drivers that always want more, second by second; who is first changes."""
    chance = random.Random(0)
    for _ in range(int(seconds)):
        clock.now += 1.0
        present = [driver for driver in drivers if driver.begins <= clock.now]
        for driver in present:
            driver.ends = [end for end in driver.ends if end > clock.now]
            driver.busy += len(driver.ends)
        chance.shuffle(present)
        for driver in present:
            driver.share.exchange(lambda: {WHOLE_GPU: 100}, driver.priority)
            free = 8 - sum(len(other.ends) for other in drivers)
            for _ in range(free):
                if not driver.share.admits(WHOLE_GPU, {WHOLE_GPU: len(driver.ends)}):
                    break
                length = driver.trial_seconds * chance.uniform(0.5, 1.5)
                driver.ends.append(clock.now + length)


def new_drivers(clock: Clock, *options: dict[str, float]) -> list[Driver]:
    board = Board()
    totals = Amounts(64.0, 8.0)
    return [
        Driver(Share(board, lambda: totals, clock=clock), **values)  # type: ignore[arg-type]
        for values in options
    ]


def test_two_equal_sweeps_have_half_each_over_ten_minutes() -> None:
    clock = Clock()
    # The second comes when the first has taken all, and has longer trials.
    second_options = {"begins": clock.now + 30.0, "trial_seconds": 90.0}
    drivers = new_drivers(clock, {}, second_options)
    simulate(drivers, 120, clock)
    for driver in drivers:
        driver.busy = 0.0
    simulate(drivers, 600, clock)
    first, second = (driver.busy for driver in drivers)
    assert first + second >= 0.95 * 8 * 600
    assert abs(first - second) <= 0.1 * (first + second) / 2


def test_a_higher_priority_gets_what_becomes_free_and_the_other_goes_on() -> None:
    clock = Clock()
    drivers = new_drivers(clock, {}, {"begins": clock.now + 101.0, "priority": 5})
    simulate(drivers, 100, clock)
    assert len(drivers[0].ends) == 8
    simulate(drivers, 100, clock)
    assert [len(driver.ends) for driver in drivers] == [1, 7]
    simulate(drivers, 600, clock)
    assert drivers[0].busy >= 600


def test_a_driver_that_dies_gives_its_part_back() -> None:
    clock = Clock()
    first, second = new_drivers(clock, {}, {})
    simulate([first, second], 60, clock)
    assert second.share.fraction == 0.5
    second.ends = []
    simulate([second], sharing.EXPIRY_SECONDS + 2 * sharing.EXCHANGE_SECONDS, clock)
    assert second.share.fraction is None
    assert len(second.ends) == 8


def test_a_driver_that_leaves_and_damaged_claims_do_not_count() -> None:
    clock = Clock()
    board = Board()
    first, second = (Share(board, lambda: Amounts(8, 8), clock=clock) for _ in "ab")
    for share in (first, second, first):
        share.exchange(lambda: {WHOLE_GPU: 9}, 0)
        clock.now += sharing.EXCHANGE_SECONDS
    assert first.fraction == 0.5
    board.claims["x"] = b"{damaged"
    second.close()
    first.exchange(lambda: {WHOLE_GPU: 9}, 0)
    assert first.fraction is None
    assert first.admits(WHOLE_GPU, {WHOLE_GPU: 100})


def drain(store: ResultsStore, limits: Limits | None = None) -> int:
    """Return how many trials of the fake sweep start before one has ended."""
    controller = new_controller(store, limits=limits)
    count = 0
    while controller.next_trial() is not None:
        count += 1
    controller.close()
    return count


def test_no_more_trials_run_at_once_than_allowed(store: ResultsStore) -> None:
    assert drain(store, Limits(max_trials=3)) == 3
    controller = new_controller(store, limits=Limits(max_trials=3))
    assert controller.demand().total() == 3


@pytest.mark.parametrize(
    ("running", "gpus", "is_allowed"),
    [(0, 1.0, True), (1, 1.0, True), (2, 1.0, False), (2, 0.0, True), (0, 4.0, True)],
)
def test_trials_have_no_more_gpus_than_allowed(
    store: ResultsStore, running: int, gpus: float, is_allowed: bool
) -> None:
    controller = new_controller(store, limits=Limits(max_gpus=2.0))
    controller.in_flight = Counter({WHOLE_GPU: running})
    assert controller._is_within_limits(Resources(1.0, gpus)) is is_allowed


def test_limits_change_while_a_sweep_runs(store: ResultsStore) -> None:
    with Lease(store, "fake/full", renew_seconds=0.01) as lease:
        controller = new_controller(store, lease, limits=Limits(max_trials=1))
        assert controller.next_trial() is not None
        assert controller.next_trial() is None
        request = live.Request("limit", limits=Limits(max_trials=2, priority=3))
        live.write_request(store.folder, "fake/full", request)
        control = controller.control
        for _ in range(1000):
            control._next_tick = 0.0
            controller.tick()
            if control.limits.priority == 3:
                break
            time.sleep(0.005)
        assert control.limits == Limits(max_trials=2, priority=3)
        assert controller.next_trial() is not None
        assert controller.next_trial() is None
        assert controller._live_state().sweep == "fake/full"
        controller.close()
