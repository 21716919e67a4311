"""Artefacts of whole trials: which there are, that they survive a resume, and that a failure costs no trial."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from orca_ray.data.rows import Target
from orca_ray.methods.recipe import Scalar
from orca_ray.results.artefacts import Artefact, Quantised
from orca_ray.testing.trials import QUICK, TASK, make_data, make_task, run, scores, start
from orca_ray.training.artefact import ArtefactKind, all_artefacts

SHORT: dict[str, Scalar] = {**QUICK, "align.epochs": 2, "refine.epochs": 1}


def named(artefacts: tuple[Artefact, ...]) -> list[tuple[str, str]]:
    return [(each.kind, each.name) for each in artefacts]


def test_a_confirm_trial_shows_what_aligning_and_the_model_did(bert: str) -> None:
    adaptation = start(bert, hyperparameters=SHORT)
    run(adaptation)
    assert named(adaptation.artefacts())[:2] == [("features", "aligning"), ("confusion_matrix", "test")]
    features, matrix = (json.loads(each.payload) for each in adaptation.artefacts()[:2])
    (source, before), (_, after) = (panel["groups"] for panel in features["panels"])
    assert source["x"]["shape"] == [40]
    assert before["x"]["shape"] == [50]
    assert before["classes"] == [index % 3 for index in range(50)]
    assert before["x"] != after["x"]
    counts = np.array(matrix["counts"])
    assert counts.sum() == 45
    assert adaptation.result().test_score == pytest.approx(1 - np.trace(counts) / 45)
    assert adaptation.result().notes is None


def test_features_after_aligning_are_those_of_the_model(bert: str) -> None:
    adaptation = start(bert, hyperparameters={**QUICK, "align.epochs": 1})
    x = torch.from_numpy(np.asarray(make_data(TASK).train.x))
    before = adaptation.model.features(x).detach().numpy().mean(axis=0)
    adaptation.step()
    moved = adaptation.model.features(x).detach().numpy().mean(axis=0) - before
    assert adaptation.stage == "refine"
    means = []
    for panel in json.loads(adaptation.artefacts()[0].payload)["panels"]:
        target = panel["groups"][1]
        axes = [Quantised(**{**target[axis], "shape": tuple(target[axis]["shape"])}).decode() for axis in "xy"]
        means.append(np.mean(axes, axis=1))
    assert 0 < np.linalg.norm(means[1] - means[0]) <= np.linalg.norm(moved) * 1.01  # a projection shortens


def test_only_a_test_evaluation_is_shown(bert: str) -> None:
    fields = start(bert, "nft", task=make_task(Target("dense", shape=(4,))), hyperparameters=SHORT)
    run(fields)
    assert named(fields.artefacts()) == [("field", "first"), ("field", "worst")]
    search = start(bert, data=make_data(TASK, readable_test=False), hyperparameters=SHORT, test=False)
    run(search)
    assert search.artefacts() == ()


@pytest.mark.parametrize("replayed", [False, True])
def test_resumed_and_replayed_alignments_have_the_same(bert: str, tmp_path: Path, replayed: bool) -> None:
    aligned = tmp_path if replayed else None
    whole, first, second = (start(bert, hyperparameters=SHORT, aligned=aligned) for _ in range(3))
    run(whole)
    for _ in range(2):
        first.step()
    first.save(tmp_path / "state")
    assert second.restore(tmp_path / "state")
    run(second)
    assert second.result().align_reused == replayed
    assert second.artefacts() == whole.artefacts()


def test_a_failure_is_a_note_and_changes_no_score(bert: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = start(bert, hyperparameters=SHORT)
    run(whole)

    def fail(evidence: object) -> list[tuple[str, object]]:
        raise MemoryError("no room; none\nat all")

    kinds = {
        name: ArtefactKind(name=name, needs=kind.needs, applies=kind.applies, compute=fail)  # type: ignore[arg-type]
        for name, kind in all_artefacts().items()
        if name in ("confusion_matrix", "features")
    }
    monkeypatch.setattr("orca_ray.training.artefact.all_artefacts", lambda: kinds)
    broken = start(bert, hyperparameters=SHORT)
    run(broken)
    assert broken.artefacts() == ()
    expected = (
        "no artefact features: MemoryError: no room, none; no artefact confusion_matrix: MemoryError: no room, none"
    )
    assert scores(broken.result()) == {**scores(whole.result()), "notes": expected}
