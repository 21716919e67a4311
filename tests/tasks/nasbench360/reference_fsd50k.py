"""The reference's own FSD50K loader, run from a checkout; nothing of it is copied.

It runs as it is but for what is told here. torchaudio does not import beside CPU builds of torch: its
``MelSpectrogram`` is stood in for. The folder that its code names is ours. Random numbers come from the stream that
ours draws an example from, in the order in which its code asks for them; of a clip, the chunk is the one that ours
chose; the backgrounds are sorted by name.
"""

import ast
import glob
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tasks.nasbench360.reference_loaders import Replaced
from tests.tasks.reference_utils import CHECKOUT

_FOLDER = "/run/determined/workdir/shared_fs/data"


class MelSpectrogram:
    """What torchaudio's of that name does by default, with torch's stft and librosa's filters.

    A periodic Hann window centred in the transform, reflected edges, power 2, HTK's mel scale, triangles of height 1.
    """

    def __init__(self, *, sample_rate: int, n_fft: int, win_length: int, hop_length: int, n_mels: int) -> None:
        from librosa.filters import mel

        filters = mel(sr=sample_rate, n_fft=n_fft, n_mels=n_mels, htk=True, norm=None)
        self._filters = torch.from_numpy(filters)
        self._n_fft, self._hop, self._window = n_fft, hop_length, torch.hann_window(win_length)

    def __call__(self, waveforms: Tensor) -> Tensor:
        """Return [channels, mels, frames] of waveforms [channels, samples]."""
        size = len(self._window)
        spectrum = torch.stft(
            waveforms, self._n_fft, self._hop, size, self._window, pad_mode="reflect", return_complex=True
        )
        return self._filters @ spectrum.abs() ** 2


class _Draws:
    """Stands in for the module ``random``, and for two functions of numpy's."""

    def __init__(self, chosen: Sequence[int]) -> None:
        self._chosen = chosen
        self._clip, self._stream = 0, np.random.RandomState(0)

    def begin(self, clip: int) -> None:
        """Go to the beginning of a clip's stream."""
        self._clip, self._stream = clip, np.random.RandomState([0, clip])

    def random(self) -> float:
        return float(self._stream.random_sample())

    def randint(self, low: int, high: int) -> int:
        return int(self._stream.randint(low, high + 1))

    def uniform(self, low: float, high: float) -> float:
        return float(self._stream.uniform(low, high))

    def choice(self, options: Any, p: Any = None) -> Any:
        if p is not None:
            return options[0]  # of two ways to pad what is too short; a second has all frames
        assert self._chosen[self._clip] in options
        return self._chosen[self._clip]


def reference_fsd50k(raw: Path, chosen: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any, Any]:
    """Return the reference's sets of training examples, validation and test clips.

    Args:
        raw: directory of the raw files, whose ids of clips are as many digits long, and so of one order as text and as
            numbers.
        chosen: the row of the training list that stands for each clip.
        monkeypatch: undoes what is stood in for.
    """
    draws = _Draws(chosen)
    torchaudio = ModuleType("torchaudio")
    torchaudio.transforms = SimpleNamespace(MelSpectrogram=MelSpectrogram)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchaudio", torchaudio)
    loaders, utils = (_compiled(name, raw, monkeypatch) for name in ("data_loaders", "utils"))
    utils.glob = SimpleNamespace(glob=lambda pattern: sorted(glob.glob(pattern)))
    utils.random = draws
    for name in ("choice", "uniform"):
        monkeypatch.setattr(np.random, name, getattr(draws, name))
    drawn = utils.SpectrogramDataset.__getitem__

    def begun(dataset: Any, clip: int) -> Any:
        draws.begin(clip)
        return drawn(dataset, clip)

    utils.SpectrogramDataset.__getitem__ = begun
    train, validation, test = loaders.load_fsd(str(raw), 4, valid_split=1)
    return train.dataset, validation, test


def _compiled(name: str, raw: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a module of the checkout that reads ``raw`` where its code names the reference's own folder."""
    path = Path(CHECKOUT) / "src" / f"{name}.py"
    tree = Replaced({_FOLDER: str(raw)}).visit(ast.parse(path.read_text(encoding="utf-8"), str(path)))
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(tree, str(path), "exec"), module.__dict__)
    return module
