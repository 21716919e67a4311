"""The suggestions of a search: reproducible, and drawn by Optuna from known results."""

import json
import math
from collections.abc import Callable, Mapping

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from orca_ray.sweep.plan.loading import load_spec
from orca_ray.sweep.plan.schema import Dimension, Scalar
from orca_ray.sweep.plan.searches import plan_searches
from orca_ray.sweep.search import (
    NUM_STARTUP,
    Search,
    Study,
    Suggestion,
    SuggestionSampler,
    TrialAnswer,
)

SPACE = {
    "lr": Dimension(log_uniform=(1e-5, 1e-1)),
    "optimizer": Dimension(choice=["adam", "sgd"]),
}
FIRST: dict[str, Scalar] = {"lr": 1e-3, "optimizer": "adam", "epochs": 5}


def compute_loss(suggestion: Suggestion) -> float:
    """Return a loss that is lowest at a learning rate of 1e-2 with ``adam``."""
    distance = abs(math.log10(float(suggestion.values["lr"])) + 2)
    if suggestion.values["optimizer"] == "sgd":
        return distance + 1
    return distance


def answer(suggestion: Suggestion) -> TrialAnswer:
    loss = compute_loss(suggestion)
    return TrialAnswer(loss, scores=[loss])


def run(
    search: SuggestionSampler,
    *,
    num_workers: int = 1,
    youngest_first: bool = False,
    answer: Callable[[Suggestion], TrialAnswer] = answer,
) -> list[Suggestion]:
    """Answer suggestions until the search is done, and return all of them.

    At most ``num_workers`` suggestions wait for an answer.
    """
    suggestions: list[Suggestion] = []
    running: list[Suggestion] = []
    while not search.done:
        while search.can_ask and len(running) < num_workers:
            suggestion = search.ask()
            suggestions.append(suggestion)
            running.append(suggestion)
        ending = running.pop() if youngest_first else running.pop(0)
        search.tell(ending.number, answer(ending))
    return suggestions


@pytest.mark.parametrize("generation", [1, 3])
def test_generations_do_not_depend_on_the_number_of_workers_or_the_order_of_answers(
    generation: int,
) -> None:
    def make_sampler(seed: int) -> SuggestionSampler:
        return SuggestionSampler(FIRST, SPACE, 17, generation=generation, seed=seed)

    alone = run(make_sampler(seed=4))
    assert len(alone) == 17
    together = run(make_sampler(seed=4), num_workers=5, youngest_first=True)
    assert together == alone
    assert run(make_sampler(seed=5)) != alone


@pytest.mark.parametrize(
    ("generation", "num_ended"), [(None, 0), (None, 12), (1, 11), (3, 4), (3, 14)]
)
def test_a_restored_search_goes_on_with_the_same_suggestions(
    generation: int | None, num_ended: int
) -> None:
    whole = run(SuggestionSampler(FIRST, SPACE, 16, generation=generation, seed=1))
    again = SuggestionSampler(FIRST, SPACE, 16, generation=generation, seed=1)
    for suggestion in whole[:num_ended]:
        again.restore(suggestion)
        again.tell(suggestion.number, answer(suggestion))
    assert run(again) == whole[num_ended:]


def read_known(suggestion: Suggestion) -> list[list[int]]:
    """Return the ranges of answered suggestions that a suggestion was drawn from."""
    assert suggestion.known is not None
    ranges: list[list[int]] = json.loads(suggestion.known)
    return ranges


def test_the_next_suggestion_waits_for_nothing_and_notes_what_is_known() -> None:
    search = SuggestionSampler(FIRST, SPACE, 20)
    suggestions = [search.ask() for _ in range(12)]
    given = Suggestion(0, {"lr": 1e-3, "optimizer": "adam"}, "[]")
    assert suggestions[0] == given
    assert all(read_known(suggestion) == [] for suggestion in suggestions)
    for number in (0, 1, 2, 5, 11):
        search.tell(number, answer(suggestions[number]))
    assert read_known(search.ask()) == [[0, 2], [5, 5], [11, 11]]


def test_a_generation_waits_for_the_one_before() -> None:
    search = SuggestionSampler(FIRST, SPACE, 5, generation=2)
    first = search.ask()
    second = search.ask()
    assert not search.can_ask
    search.tell(1, answer(second))
    assert not search.can_ask
    assert not search.is_open(2)
    search.tell(0, answer(first))
    assert search.can_ask
    assert search.is_open(3)
    assert not search.is_open(4)


def get_optuna_trials(study: Study) -> list[FrozenTrial]:
    """Return the trials of Optuna that have results or run."""
    assert study._study is not None
    trials = study._study.get_trials(deepcopy=False)
    return [
        trial
        for trial in trials
        if trial.intermediate_values or trial.state is not TrialState.FAIL
    ]


def test_states_reach_optuna_as_they_are() -> None:
    study = Study(SPACE)
    suggestions = [
        Suggestion(number, {"lr": 10.0**-number / 20, "optimizer": "adam"})
        for number in range(4)
    ]
    answers = {
        0: TrialAnswer(0.5, scores=[0.7, 0.5]),
        1: TrialAnswer(0.1, True, [0.1]),
        2: TrialAnswer(None, scores=[0.2, math.nan]),
    }
    study.suggest(suggestions, answers, 0)
    trials = get_optuna_trials(study)
    assert [trial.state for trial in trials] == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAIL,
        TrialState.RUNNING,
    ]
    assert [trial.intermediate_values for trial in trials] == [
        {1: 0.7, 2: 0.5},
        {1: 0.1},
        {1: 0.2},
        {},
    ]
    assert [trial.params["lr"] for trial in trials] == [0.05, 0.005, 0.0005, 5e-5]
    answers[3] = TrialAnswer(math.nan, scores=[0.3])
    study.suggest(suggestions, answers, 0)
    trials = get_optuna_trials(study)
    assert len(trials) == 4
    assert trials[3].state is TrialState.FAIL


def test_a_study_keeps_the_messages_of_optuna_for_other_programs() -> None:
    Study(SPACE).suggest([], {}, 0)
    assert optuna.logging.get_verbosity() == optuna.logging.INFO


@pytest.mark.parametrize("multiple", [0.1, 100.0])
def test_suggestions_of_another_space_reach_optuna_unless_their_choice_is_unknown(
    multiple: float,
) -> None:
    space = {**SPACE, "lr": Dimension(log_uniform=(1e-5 * multiple, 1e-3 * multiple))}
    study = Study(space)
    old = [
        Suggestion(number, {"lr": 1.3e-5 * 2**number, "optimizer": "adam"})
        for number in range(12)
    ]
    foreign = Suggestion(12, {"lr": 1e-3, "optimizer": "lion"})
    suggestions = [*old, foreign]
    answers = {
        suggestion.number: TrialAnswer(compute_loss(suggestion))
        for suggestion in suggestions
    }
    values = study.suggest(suggestions, answers, 3)
    assert space["lr"].contains(values["lr"])
    rates = [trial.params["lr"] for trial in get_optuna_trials(study)]
    assert rates == [suggestion.values["lr"] for suggestion in old]


def test_without_a_score_there_is_no_winner() -> None:
    search = SuggestionSampler(FIRST, SPACE, 1)
    search.tell(search.ask().number, TrialAnswer(None))
    assert search.done
    assert search.winner() is None


def test_a_search_without_suggestions_is_done() -> None:
    assert SuggestionSampler(FIRST, SPACE, 0).done


def test_the_score_of_a_stopped_trial_never_wins() -> None:
    search = SuggestionSampler(FIRST, SPACE, 3)
    completed = TrialAnswer(0.5)
    stopped = TrialAnswer(0.1, stopped_early=True)
    failed = TrialAnswer(math.nan)
    for trial_answer in (completed, stopped, failed):
        search.tell(search.ask().number, trial_answer)
    winner = search.winner()
    assert winner is not None
    assert winner.number == 0


def test_rivals_are_the_earlier_generations_or_all_suggestions() -> None:
    search = SuggestionSampler(FIRST, SPACE, 6, generation=2)
    assert [list(search.rivals(number)) for number in range(5)] == [
        [],
        [],
        [0, 1],
        [0, 1],
        [0, 1, 2, 3],
    ]
    free = SuggestionSampler(FIRST, SPACE, 6)
    for _ in range(3):
        free.ask()
    assert list(free.rivals(0)) == [0, 1, 2]


WIDE = {
    **SPACE,
    "align": Dimension(integer=(5, 40)),
    "dropout": Dimension(uniform=(0.0, 0.5)),
}


def test_a_further_dimension_changes_no_value_of_the_others_before_tpe_starts() -> None:
    first: dict[str, Scalar] = {**FIRST, "align": 20, "dropout": 0.1}
    narrow = run(SuggestionSampler(first, SPACE, NUM_STARTUP, seed=4))
    wide = run(SuggestionSampler(first, WIDE, NUM_STARTUP, generation=3, seed=4))
    for suggestion, wide_suggestion in zip(narrow, wide, strict=True):
        values = wide_suggestion.values
        assert {name: values[name] for name in SPACE} == suggestion.values
        assert isinstance(values["align"], int)
        assert 5 <= values["align"] <= 40
    assert len({suggestion.values["lr"] for suggestion in narrow}) == NUM_STARTUP
    assert {suggestion.values["optimizer"] for suggestion in narrow} == {"adam", "sgd"}
    assert len({suggestion.values["dropout"] for suggestion in wide}) == NUM_STARTUP


@pytest.mark.parametrize("generation", [None, 1])
def test_tpe_uses_results_from_the_first_suggestion_after_the_start_up(
    generation: int | None,
) -> None:
    space = {"x": Dimension(uniform=(0.0, 1.0))}

    def suggest_after_start_up(best: float) -> Suggestion:
        """Return the first suggestion of TPE if the loss is lowest at ``best``."""
        search = SuggestionSampler(
            {"x": 0.5}, space, NUM_STARTUP + 1, generation=generation
        )
        for _ in range(NUM_STARTUP):
            suggestion = search.ask()
            loss = abs(float(suggestion.values["x"]) - best)
            search.tell(suggestion.number, TrialAnswer(loss))
        return search.ask()

    assert suggest_after_start_up(best=0.0) != suggest_after_start_up(best=1.0)


def test_all_methods_of_a_task_draw_the_same_suggestions() -> None:
    spec = load_spec("pocket")
    fingerprints = dict.fromkeys(spec.tasks, "")
    plans = {
        plan.method: plan for plan in plan_searches(spec, fingerprints, gpus=False)
    }

    def draw(method: str) -> list[Mapping[str, Scalar]]:
        sampler = Search(plans[method]).sampler
        suggestions = run(sampler, answer=lambda suggestion: TrialAnswer(1.0))
        return [suggestion.values for suggestion in suggestions]

    for orca, nft, fpt in zip(draw("orca"), draw("nft"), draw("fpt"), strict=True):
        without_aligning = {
            name: value for name, value in orca.items() if not name.startswith("align.")
        }
        assert nft == without_aligning
        rate = {"refine.learning_rate": nft["refine.learning_rate"]}
        assert {**fpt, **rate} == nft, "only the range of the rate differs"


def test_the_shared_draws_are_those_of_older_stores() -> None:
    """Records from before the journal get their numbers by these values."""
    search = SuggestionSampler({**FIRST, "align": 20, "dropout": 0.1}, WIDE, 10, seed=7)
    assert search.draw(3) == {
        "align": 36,
        "dropout": 0.2085,
        "lr": 2.256e-05,
        "optimizer": "sgd",
    }
