"""Artefacts of whole trials: which there are, that they survive a resume, and that a failure costs no trial."""

import json
from pathlib import Path

import numpy as np
import pytest

from orca_ray.data.rows import Target
from orca_ray.methods.options import Scalar
from orca_ray.results.artefacts import Artefact, Quantised
from orca_ray.testing.trials import QUICK, make_data, make_task, run, scores, start
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
    import torch

    task = make_task(Target("classes", size=3))
    adaptation = start(bert, hyperparameters={**QUICK, "align.epochs": 1})
    x = torch.from_numpy(np.asarray(make_data(task).train.x))
    before = adaptation.model.features(x).detach().numpy().mean(axis=0)
    adaptation.step()
    moved = adaptation.model.features(x).detach().numpy().mean(axis=0) - before
    assert adaptation.stage == "refine"
    panels = json.loads(adaptation.artefacts()[0].payload)["panels"]
    means = []
    for panel in panels:
        target = panel["groups"][1]
        axes = [Quantised(**{**target[axis], "shape": tuple(target[axis]["shape"])}).decode() for axis in "xy"]
        means.append(np.mean(axes, axis=1))
    assert np.linalg.norm(means[1] - means[0]) <= np.linalg.norm(moved) * 1.01  # a projection shortens
    assert np.linalg.norm(means[1] - means[0]) > 0


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (Target("labels", size=3), [("label_scores", "test"), ("sample", "first")]),
        (Target("scalar"), [("scatter", "test")]),
        (Target("dense", shape=(4,)), [("field", "first"), ("field", "worst")]),
    ],
)
def test_artefacts_of_other_targets(bert: str, target: Target, expected: list[tuple[str, str]]) -> None:
    adaptation = start(bert, "nft", task=make_task(target), hyperparameters=SHORT)
    run(adaptation)
    assert named(adaptation.artefacts()) == expected


def test_a_search_trial_has_none(bert: str) -> None:
    adaptation = start(bert, data=make_data(make_task(Target("classes", size=3)), readable_test=False), test=False)
    run(adaptation)
    assert adaptation.artefacts() == ()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_resumed_trial_has_the_same(bert: str, tmp_path: Path, steps: int) -> None:
    whole, first, second = (start(bert, hyperparameters={**SHORT, "refine.epochs": 2}) for _ in range(3))
    run(whole)
    for _ in range(steps):
        first.step()
    first.save(tmp_path / "state")
    assert second.restore(tmp_path / "state")
    run(second)
    assert second.artefacts() == whole.artefacts()


def test_a_replayed_alignment_has_the_same(bert: str, tmp_path: Path) -> None:
    first, second = (start(bert, hyperparameters=SHORT, aligned=tmp_path) for _ in range(2))
    run(first)
    run(second)
    assert second.result().align_reused
    assert second.artefacts() == first.artefacts()


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
