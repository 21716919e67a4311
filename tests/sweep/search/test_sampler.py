import math

import pytest
from optuna.trial import TrialState

from orca_ray.sweep.planning.schema import Dimension, Scalar
from orca_ray.sweep.search import Answer, Candidate, CandidateSampler

SPACE = {"lr": Dimension(log_uniform=(1e-5, 1e-1)), "optimizer": Dimension(choice=["adam", "sgd"])}
FIRST: dict[str, Scalar] = {"lr": 1e-3, "optimizer": "adam", "epochs": 5}


def loss(candidate: Candidate) -> float:
    return abs(math.log10(float(candidate.values["lr"])) + 2) + (candidate.values["optimizer"] == "sgd")


def run(search: CandidateSampler, backwards: bool = False) -> list[Candidate]:
    asked: list[Candidate] = []
    while not search.done:
        batch = search.open_candidates()
        asked += batch
        for candidate in reversed(batch) if backwards else batch:
            search.tell(candidate.number, Answer(loss(candidate), scores=[loss(candidate)]))
    return asked


def test_the_first_candidate_is_the_given_configuration() -> None:
    search = CandidateSampler(FIRST, SPACE, 3)
    assert search.open_candidates() == [Candidate(0, {"lr": 1e-3, "optimizer": "adam"})]


@pytest.mark.parametrize("parallel", [1, 3])
def test_equal_seeds_ask_the_same_whatever_the_order_of_answers(parallel: int) -> None:
    forwards = run(CandidateSampler(FIRST, SPACE, 9, parallel, seed=4))
    backwards = run(CandidateSampler(FIRST, SPACE, 9, parallel, seed=4), backwards=True)
    assert forwards == backwards
    assert len(forwards) == 9
    assert run(CandidateSampler(FIRST, SPACE, 9, parallel, seed=5)) != forwards


def test_a_replay_with_stored_answers_goes_on_with_the_same_next_candidate() -> None:
    whole = run(CandidateSampler(FIRST, SPACE, 8, seed=1))
    replay = CandidateSampler(FIRST, SPACE, 8, seed=1)
    for candidate in whole[:5]:
        assert replay.open_candidates() == [candidate]
        replay.tell(candidate.number, Answer(loss(candidate), scores=[loss(candidate)]))
    assert replay.open_candidates() == [whole[5]]


def test_the_search_finds_better_than_the_first() -> None:
    search = CandidateSampler(FIRST, SPACE, 25, seed=0)
    run(search)
    winner = search.winner()
    assert winner is not None
    assert loss(winner) < 0.5
    assert loss(winner) < 1.0  # the first candidate's


def test_states_reach_optuna_as_they_are() -> None:
    search = CandidateSampler(FIRST, SPACE, 4)
    search.tell(0, Answer(0.5, scores=[0.7, 0.5]))
    search.tell(1, Answer(0.1, stopped_early=True, scores=[0.1]))
    search.tell(2, Answer(None))
    told = search._study.get_trials(deepcopy=False)[:3]
    assert [trial.state for trial in told] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    assert told[0].intermediate_values == {1: 0.7, 2: 0.5}
    assert told[1].intermediate_values == {1: 0.1}
    search.tell(3, Answer(math.nan))
    winner = search.winner()
    assert winner is not None
    assert winner.number == 0, "a stopped trial's partial score never wins"


def test_no_winner_when_all_fail_and_nothing_to_do_without_trials() -> None:
    search = CandidateSampler(FIRST, SPACE, 1)
    search.tell(0, Answer(None))
    assert search.done
    assert search.winner() is None
    empty = CandidateSampler(FIRST, SPACE, 0)
    assert empty.done
    assert empty.open_candidates() == []


def test_rivals_are_the_earlier_generations() -> None:
    search = CandidateSampler(FIRST, SPACE, 4, parallel=2)
    search.tell(0, Answer(0.5, scores=[0.5]))
    assert search.earlier_scores(1) == []
    search.tell(1, Answer(None, scores=[0.4]))
    assert search.earlier_scores(2) == [[0.5]]
    assert search.earlier_scores(3) == [[0.5]]


def test_a_space_of_nothing_repeats_the_first() -> None:
    search = CandidateSampler(FIRST, {}, 3)
    assert [candidate.values for candidate in run_constant(search)] == [{}, {}, {}]


def run_constant(search: CandidateSampler) -> list[Candidate]:
    asked = []
    while not search.done:
        for candidate in search.open_candidates():
            asked.append(candidate)
            search.tell(candidate.number, Answer(1.0))
    return asked
