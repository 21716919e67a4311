import math
from collections.abc import Mapping

import pytest
from optuna.trial import TrialState

from orca_ray.sweep.planning.loading import load_spec
from orca_ray.sweep.planning.schema import Dimension, Scalar
from orca_ray.sweep.planning.searches import plan_searches
from orca_ray.sweep.search import NUM_STARTUP, Answer, Candidate, CandidateSampler, Search

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


WIDE = {**SPACE, "align": Dimension(integer=(5, 40)), "dropout": Dimension(uniform=(0.0, 0.5))}


def test_a_further_dimension_changes_no_value_of_the_others_before_tpe_starts() -> None:
    first: dict[str, Scalar] = {**FIRST, "align": 20, "dropout": 0.1}
    narrow = run(CandidateSampler(first, SPACE, NUM_STARTUP, seed=4))
    wide = run(CandidateSampler(first, WIDE, NUM_STARTUP, parallel=3, seed=4))
    assert [{name: each.values[name] for name in SPACE} for each in wide] == [each.values for each in narrow]
    assert len({each.values["lr"] for each in narrow}) == NUM_STARTUP
    assert {each.values["optimizer"] for each in narrow} == {"adam", "sgd"}
    assert len({each.values["dropout"] for each in wide}) == NUM_STARTUP
    assert all(5 <= each.values["align"] <= 40 for each in wide if isinstance(each.values["align"], int))


def test_other_ranges_get_the_same_quantile() -> None:
    first = run_constant(CandidateSampler({"lr": 1e-3}, {"lr": Dimension(log_uniform=(1e-4, 1e-2))}, 6))
    tenfold = run_constant(CandidateSampler({"lr": 1e-2}, {"lr": Dimension(log_uniform=(1e-3, 1e-1))}, 6))
    assert [float(each.values["lr"]) for each in tenfold] == pytest.approx(
        [10 * float(each.values["lr"]) for each in first], rel=1e-3
    )


def test_tpe_uses_results_from_the_first_generation_after_the_start_up() -> None:
    space = {"x": Dimension(uniform=(0.0, 1.0))}

    def last(best: float) -> Candidate:
        search = CandidateSampler({"x": 0.5}, space, NUM_STARTUP + 1)
        for _ in range(NUM_STARTUP):
            [candidate] = search.open_candidates()
            search.tell(candidate.number, Answer(abs(float(candidate.values["x"]) - best)))
        return search.open_candidates()[0]

    assert last(0.0) != last(1.0)


def test_all_methods_of_a_task_draw_the_same_candidates() -> None:
    spec = load_spec("pocket")
    plans = {plan.method: plan for plan in plan_searches(spec, dict.fromkeys(spec.tasks, ""), gpus=False)}
    drawn: dict[str, list[Mapping[str, Scalar]]] = {}
    for method in ("orca", "nft", "fpt"):
        sampler = Search(plans[method], {}, {}).sampler
        drawn[method] = []
        while not sampler.done:
            [candidate] = sampler.open_candidates()
            drawn[method].append(candidate.values)
            sampler.tell(candidate.number, Answer(0.5))
    for orca, nft, fpt in zip(*drawn.values(), strict=True):
        assert nft == {name: value for name, value in orca.items() if not name.startswith("align.")}
        assert {n: v for n, v in fpt.items() if n != "refine.learning_rate"} == {
            n: v for n, v in nft.items() if n != "refine.learning_rate"
        }


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
