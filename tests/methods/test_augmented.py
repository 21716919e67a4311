"""Trials of tasks that augment their training inputs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.tasks.task import Task
from orca_ray.testing.trials import QUICK, make_task, reported, run, start

IMAGES = make_task(Target("classes", size=3), (3, 16, 16))
CROPPED = replace(IMAGES, augmentation="crop_flip")


def test_a_trial_augments_as_its_task_says(vit: str, tmp_path: Path) -> None:
    def reports(task: Task, resume: bool = False) -> list[dict[str, Any]]:
        adaptation = start(vit, "nft", task=task)
        steps = []
        while not adaptation.done:
            steps.append(reported(adaptation.step()))
            if resume and len(steps) == 2:
                adaptation.save(tmp_path / "trial.pt")
                adaptation = start(vit, "nft", task=task)
                assert adaptation.restore(tmp_path / "trial.pt")
        return steps

    plain, cropped = reports(IMAGES), reports(CROPPED)
    assert [step["loss"] for step in plain] != [step["loss"] for step in cropped]
    assert reports(CROPPED) == cropped
    assert reports(CROPPED, resume=True) == cropped


def test_aligning_sees_inputs_as_they_are(vit: str) -> None:
    def distances(task: Task) -> list[float]:
        adaptation = start(vit, "orca", task=task, hyperparameters={**QUICK, "refine.epochs": 1})
        reports = run(adaptation)
        return [report["distance"] for report in reports if report["stage"] == "align"]

    assert distances(IMAGES) == distances(CROPPED)


def test_an_unknown_augmentation_is_refused_before_any_work(vit: str) -> None:
    with pytest.raises(UserError, match="unknown augmentation 'crop'"):
        start(vit, task=replace(IMAGES, augmentation="crop"))
