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


def loss(suggestion: Suggestion) -> float:
    return abs(math.log10(float(suggestion.values["lr"])) + 2) + (
        suggestion.values["optimizer"] == "sgd"
    )


def answer(suggestion: Suggestion) -> TrialAnswer:
    return TrialAnswer(loss(suggestion), scores=[loss(suggestion)])


def run(
    search: SuggestionSampler,
    *,
    workers: int = 1,
    youngest_first: bool = False,
    answer: Callable[[Suggestion], TrialAnswer] = answer,
) -> list[Suggestion]:
    """Answer suggestions until all have one.

    As many are open at a time as there are workers, if that is allowed.
    """
    asked: list[Suggestion] = []
    out: list[Suggestion] = []
    while not search.done:
        while search.can_ask and len(out) < workers:
            asked.append(search.ask())
            out.append(asked[-1])
        suggestion = out.pop() if youngest_first else out.pop(0)
        search.tell(suggestion.number, answer(suggestion))
    return asked


@pytest.mark.parametrize("generation", [1, 3])
def test_generations_do_not_depend_on_the_number_of_workers_or_the_order_of_answers(
    generation: int,
) -> None:
    alone = run(SuggestionSampler(FIRST, SPACE, 17, generation=generation, seed=4))
    many = run(
        SuggestionSampler(FIRST, SPACE, 17, generation=generation, seed=4),
        workers=5,
        youngest_first=True,
    )
    assert alone == many
    assert len(alone) == 17
    assert (
        run(SuggestionSampler(FIRST, SPACE, 17, generation=generation, seed=5)) != alone
    )


@pytest.mark.parametrize(
    ("generation", "ended"), [(None, 0), (None, 12), (1, 11), (3, 4), (3, 14)]
)
def test_a_restored_search_goes_on_with_the_same_suggestions(
    generation: int | None, ended: int
) -> None:
    whole = run(SuggestionSampler(FIRST, SPACE, 16, generation=generation, seed=1))
    again = SuggestionSampler(FIRST, SPACE, 16, generation=generation, seed=1)
    for suggestion in whole[:ended]:
        again.restore(suggestion)
        again.tell(suggestion.number, answer(suggestion))
    assert run(again) == whole[ended:]


def test_the_next_suggestion_waits_for_nothing_and_knows_what_is_known() -> None:
    search = SuggestionSampler(FIRST, SPACE, 20)
    first = [search.ask() for _ in range(12)]
    assert first[0] == Suggestion(0, {"lr": 1e-3, "optimizer": "adam"}, "[]"), (
        "the given configuration"
    )
    assert [json.loads(each.known or "") for each in first] == [[]] * 12
    for number in (0, 1, 2, 5, 11):
        search.tell(number, answer(first[number]))
    assert json.loads(search.ask().known or "") == [[0, 2], [5, 5], [11, 11]]


def test_a_generation_waits_for_the_one_before() -> None:
    search = SuggestionSampler(FIRST, SPACE, 5, generation=2)
    first = [search.ask(), search.ask()]
    assert not search.can_ask
    search.tell(1, answer(first[1]))
    assert not search.can_ask
    assert not search.is_open(2)
    search.tell(0, answer(first[0]))
    assert search.can_ask
    assert search.is_open(3)
    assert not search.is_open(4)


def optuna_trials(study: Study) -> list[FrozenTrial]:
    """Return what Optuna holds, without the trials that were only asked or have been
    replaced.
    """
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
    assert optuna.logging.get_verbosity() == optuna.logging.INFO, (
        "a program that uses Optuna, too, keeps its messages"
    )
    held = optuna_trials(study)
    assert [trial.state for trial in held] == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAIL,
        TrialState.RUNNING,
    ]
    assert [trial.intermediate_values for trial in held] == [
        {1: 0.7, 2: 0.5},
        {1: 0.1},
        {1: 0.2},
        {},
    ]
    assert [trial.params["lr"] for trial in held] == [0.05, 0.005, 0.0005, 5e-5]
    study.suggest(suggestions, {**answers, 3: TrialAnswer(math.nan, scores=[0.3])}, 0)
    assert [trial.state for trial in optuna_trials(study)][-1] is TrialState.FAIL
    assert len(optuna_trials(study)) == 4


@pytest.mark.parametrize("multiple", [0.1, 100.0])
def test_suggestions_of_another_space_are_told_as_far_as_optuna_can_hold_them(
    multiple: float,
) -> None:
    space = {**SPACE, "lr": Dimension(log_uniform=(1e-5 * multiple, 1e-3 * multiple))}
    study = Study(space)
    old = [
        Suggestion(number, {"lr": 1.3e-5 * 2**number, "optimizer": "adam"})
        for number in range(12)
    ]
    foreign = Suggestion(12, {"lr": 1e-3, "optimizer": "lion"})
    answers = {each.number: TrialAnswer(loss(each)) for each in (*old, foreign)}
    values = study.suggest([*old, foreign], answers, 3)
    assert space["lr"].contains(values["lr"])
    held = optuna_trials(study)
    assert [trial.params["lr"] for trial in held] == [each.values["lr"] for each in old]


def test_a_stopped_trials_partial_score_never_wins() -> None:
    failed = SuggestionSampler(FIRST, SPACE, 1)
    failed.tell(failed.ask().number, TrialAnswer(None))
    assert (failed.done, failed.winner(), SuggestionSampler(FIRST, SPACE, 0).done) == (
        True,
        None,
        True,
    )
    search = SuggestionSampler(FIRST, SPACE, 3)
    for given in (
        TrialAnswer(0.5),
        TrialAnswer(0.1, stopped_early=True),
        TrialAnswer(math.nan),
    ):
        search.tell(search.ask().number, given)
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
    assert [{name: each.values[name] for name in SPACE} for each in wide] == [
        each.values for each in narrow
    ]
    assert len({each.values["lr"] for each in narrow}) == NUM_STARTUP
    assert {each.values["optimizer"] for each in narrow} == {"adam", "sgd"}
    assert len({each.values["dropout"] for each in wide}) == NUM_STARTUP
    assert all(
        5 <= each.values["align"] <= 40
        for each in wide
        if isinstance(each.values["align"], int)
    )


@pytest.mark.parametrize("generation", [None, 1])
def test_tpe_uses_results_from_the_first_suggestion_after_the_start_up(
    generation: int | None,
) -> None:
    space = {"x": Dimension(uniform=(0.0, 1.0))}

    def last(best: float) -> Suggestion:
        search = SuggestionSampler(
            {"x": 0.5}, space, NUM_STARTUP + 1, generation=generation
        )
        for _ in range(NUM_STARTUP):
            suggestion = search.ask()
            search.tell(
                suggestion.number,
                TrialAnswer(abs(float(suggestion.values["x"]) - best)),
            )
        return search.ask()

    assert last(0.0) != last(1.0)


def test_all_methods_of_a_task_draw_the_same_suggestions() -> None:
    spec = load_spec("pocket")
    plans = {
        plan.method: plan
        for plan in plan_searches(spec, dict.fromkeys(spec.tasks, ""), gpus=False)
    }
    drawn: dict[str, list[Mapping[str, Scalar]]] = {}
    for method in ("orca", "nft", "fpt"):
        drawn[method] = [
            each.values
            for each in run(
                Search(plans[method]).sampler, answer=lambda _: TrialAnswer(1.0)
            )
        ]
    for orca, nft, fpt in zip(*drawn.values(), strict=True):
        assert nft == {
            name: value for name, value in orca.items() if not name.startswith("align.")
        }
        assert {n: v for n, v in fpt.items() if n != "refine.learning_rate"} == {
            n: v for n, v in nft.items() if n != "refine.learning_rate"
        }


def test_the_shared_draws_are_those_of_older_stores() -> None:
    """Records from before the journal get their numbers by these values."""
    search = SuggestionSampler({**FIRST, "align": 20, "dropout": 0.1}, WIDE, 10, seed=7)
    assert search.draw(3) == {
        "align": 36,
        "dropout": 0.2085,
        "lr": 2.256e-05,
        "optimizer": "sgd",
    }
