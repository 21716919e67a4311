"""Units: arrays that are not standardised are, in the model; all others are left as they are."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from orca_ray.data.prepared import PreparedData, Split
from orca_ray.data.rows import Target
from orca_ray.methods.trial_trainer import TrialTrainer
from orca_ray.testing.trials import QUICK, make_data, make_task

DENSE = replace(make_task(Target("dense", shape=(12,))), loss="nrmse", metric="nrmse")


def in_other_units(data: PreparedData, scale: float, shift: float) -> PreparedData:
    """Return the same inputs in other units."""
    changed = copy.copy(data)
    splits = {
        name: Split((np.asarray(split.x[:]) * scale + shift).astype(np.float32), split.y)
        for name, split in data.splits.items()
    }
    object.__setattr__(changed, "splits", splits)
    return changed


def test_units_do_not_reach_the_body(bert: str) -> None:
    """In hundredths and far from zero, inputs become the tokens that they are in tens."""
    task = make_task(Target("classes", size=3))
    data = make_data(task)
    tens, hundredths = in_other_units(data, 10.0, 3.0), in_other_units(data, 1e-2, 5.0)
    tokens = {}
    for name, given, standardise in (("tens", tens, True), ("hundredths", hundredths, True), ("raw", tens, False)):
        adaptation = TrialTrainer(task, given, "nft", bert, QUICK, 0, test=False, standardise=standardise)
        tokens[name] = adaptation.model.eval().embed(torch.from_numpy(given.train.x[:4])).detach()
        adaptation.close()
    torch.testing.assert_close(tokens["tens"], tokens["hundredths"], rtol=1e-3, atol=1e-3)
    assert (tokens["tens"] - tokens["raw"]).abs().max() > 0.1


def test_statistics_are_no_weights(bert: str, tmp_path: Path) -> None:
    """A checkpoint of a trial on raw units resumes exactly, its statistics made anew."""
    data = replace(in_other_units(make_data(DENSE), 10.0, 3.0), y_mean=None, y_std=None)

    def make() -> TrialTrainer:
        return TrialTrainer(DENSE, data, "nft", bert, QUICK, 0, test=True)

    whole, cut = make(), make()
    while not whole.done:
        whole.step()
    cut.step()
    cut.save(tmp_path / "state.pt")
    resumed = make()
    assert resumed.restore(tmp_path / "state.pt")
    while not resumed.done:
        resumed.step()
    assert resumed.result().test_score == whole.result().test_score
    assert "input_mean" not in whole.model.state_dict()
