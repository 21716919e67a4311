"""Progress in a notebook: one output below the cell, and nothing elsewhere."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from orca_ray import CrossModalClassifier, adapt
from orca_ray.adaptation import notebook
from orca_ray.adaptation.sweep import AdaptationSweep
from orca_ray.errors import UserError
from orca_ray.methods.reports import EpochProgress
from orca_ray.results.live import Row
from orca_ray.sweep.run import events
from orca_ray.testing.suite import save_bert
from tests.results.factories import make_record

X = np.random.default_rng(0).normal(size=(60, 4))
Y = np.arange(60) % 2
ROWS = (
    Row(task="own/toy", method="nft", planned=4, done=1),
    Row(task="own/toy", method="linear", planned=4, done=0),
)
EVENTS: tuple[events.Event, ...] = (
    events.SweepStarted("own/toy", "here", ROWS),
    events.TrialProgress(
        "a", "own/toy", "nft", EpochProgress(stage="refine", epoch=2, epochs=5)
    ),
    events.TrialFinished(make_record("b", method="linear", validation_score=0.25), 1),
    events.TrialFinished(make_record("c", method="linear", validation_score=0.5), 0),
)
pytestmark = pytest.mark.usefixtures("module_home")


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Stand in for a notebook, and return the texts that each output has shown."""
    outputs: list[list[str]] = []

    def display(
        content: dict[str, str], *, raw: bool, display_id: bool
    ) -> SimpleNamespace:
        texts: list[str] = []
        outputs.append(texts)

        def update(content: dict[str, str], raw: bool) -> None:
            texts.append(content["text/plain"])

        return SimpleNamespace(update=update)

    shell = SimpleNamespace(kernel=1)
    ipython = SimpleNamespace(get_ipython=lambda: shell)
    ipython_display = SimpleNamespace(display=display)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython_display)
    return outputs


def test_an_adaptation_shows_its_progress(
    cells: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(sweep: AdaptationSweep) -> None:
        assert sweep.listener is not None
        for event in EVENTS:
            sweep.listener(event)

    monkeypatch.setattr(AdaptationSweep, "run", run)
    monkeypatch.setattr(notebook, "SECONDS", 0.0)
    results = str(tmp_path / "results")
    for listener in (None, lambda event: None):  # a user's listener replaces the cell
        with pytest.raises(UserError, match="no trial"):
            adapt((X, Y), minutes=2, results=results, listener=listener)
    [texts] = cells
    assert texts[0] == "adapt: reading and preparing data"
    first, *rows = texts[-1].splitlines()
    assert first.endswith(" of 120 s, nft refine 2/5")
    assert rows == ["nft: 1 trials", "linear: 2 trials, best validation 0.25"]


@pytest.mark.parametrize(
    ("verbose", "last_texts"), [(False, []), (True, ["refine, epoch 40 of 40"])]
)
def test_a_verbose_fit_shows_its_epochs(
    cells: list[list[str]], tmp_path: Path, verbose: bool, last_texts: list[str]
) -> None:
    model = CrossModalClassifier(
        body=save_bert(tmp_path), method="nft", epochs=40, device="cpu", verbose=verbose
    )
    model.fit(X, Y)
    assert [texts[-1].split(":")[0] for texts in cells] == last_texts
    assert all(len(texts) < 40 for texts in cells), "twice a second"


@pytest.mark.parametrize("ipython", [SimpleNamespace(get_ipython=lambda: None), None])
def test_nothing_is_shown_elsewhere(
    monkeypatch: pytest.MonkeyPatch, ipython: SimpleNamespace | None
) -> None:
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    assert notebook.notebook_progress(1.0) is None
