"""The table of suggestions in the results store."""

import json
from dataclasses import replace

from orca_ray.results.store import ResultsStore
from orca_ray.results.writer import copy_trials
from tests.results.factories import files_of, make_point, make_record, make_suggestion


def test_suggestions_come_back_by_method_and_number(store: ResultsStore) -> None:
    assert store.journal("pocket/quick") == []
    given = [make_suggestion(number, known=known) for number, known in ((2, None), (0, "[]"), (1, "[[0,0],[5,7]]"))]
    store.append(suggestions=given)
    store.append(suggestions=[make_suggestion(sweep="other"), make_suggestion(method="nft")])
    expected = [make_suggestion(method="nft"), given[1], given[2], given[0]]
    for _ in range(2):
        assert ResultsStore(store.uri).journal("pocket/quick") == expected
        store.compact()
    assert len(files_of(store, "journal")) == 1
    assert len(store.records()) == 0


def test_of_two_equal_numbers_both_trials_are_kept_and_the_last_row_of_each(store: ResultsStore) -> None:
    store.append(suggestions=[make_suggestion()])
    store.append(suggestions=[make_suggestion(values="{}"), make_suggestion(trial_key="z")])
    assert [(each.trial_key, each.values) for each in store.journal("pocket/quick")] == [
        ("k0", "{}"), ("z", '{"a":1.5}')
    ]  # fmt: skip


def test_trials_are_copied_with_curves(store: ResultsStore) -> None:
    records = [make_record("a"), make_record("b", sweep="pocket/full"), make_record("c")]
    store.append(records, [make_point("a", epoch, loss=None) for epoch in (1, 2)])
    copy_trials(store, records[:2], "new")
    copied = store.load("new")
    assert copied == {record.trial_key: replace(record, sweep="new") for record in records[:2]}
    curves = store.curves("new")
    assert curves.drop(columns="sweep").equals(store.curves("pocket/quick").drop(columns="sweep"))
    assert set(store.load("pocket/quick")) == {"a", "c"}
    assert json.loads(copied["a"].hyperparameters)
