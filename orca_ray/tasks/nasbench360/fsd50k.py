"""FSD50K: which of 200 kinds of sound occur in an audio clip.

The clips are published as chunks of one second.

Decisions where this task could differ from ORCA's code:

- Training has one example for each clip: a random chunk, randomly masked and mixed with
  a background. These choices are drawn only once, as in ORCA's code, but from a seed
  and the clip's number, so a resumed preparation gives the same arrays.
- Validation and test contain every chunk, unchanged; the logits of a clip are the mean
  over its chunks (``group``). Under ``paper``, which trains on train and validation and
  selects on test, validation is a tenth of the training clips, and ``val.csv`` is not
  used, as in ORCA's code.
- Masks and mixtures have the distributions of ORCA's ``SpectrogramDataset``.
- Clips are numbered by their sorted ids. Training examples have that order; chunks have
  the order of the file.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orca_ray.data.cache import read_json
from orca_ray.data.prepared import PAPER
from orca_ray.data.readers import read_csv, read_wav
from orca_ray.errors import UserError, quoted
from orca_ray.tasks.arrays import fill_array, hold_out, log_mel, stack_rows
from orca_ray.tasks.nasbench360._shared import locate_files
from orca_ray.tasks.task import SPLIT_SEED, Array, Arrays, Workspace

NUM_LABELS = 200
SAMPLE_RATE = 22050
NUM_MELS = 96
NUM_FRAMES = 101
"""Number of spectrogram frames in one second; their windows are centred at 0, 10 ms, …,
1 s.
"""
SHAPE = (1, NUM_MELS, NUM_FRAMES + 1)
"""Shape of an input: a frame of zeros follows the frames of a second."""
MASK_PROBABILITY = 0.5
"""Probability that a spectrogram is masked."""
MIX_PROBABILITY = 0.75
"""Probability that an example is mixed with a background."""
_MOST_MASKS = 2
"""Largest number of masked bands of mels, and of frames."""
_MOST_MELS = 0.15
"""Largest width of a masked band of mels, as a share of all mels."""
_MOST_FRAMES = 0.20
"""Largest width of a masked band of frames, as a share of all frames."""
_MOST_BACKGROUND = 0.5
"""Largest share of the background in a mixture."""
_MOST_KEPT = 64
"""Number of spectrograms of backgrounds in memory; one of a minute has 2 MB."""


@dataclass(frozen=True)
class _Chunks:
    """The N chunks of one CSV file: their paths, clips [N] and labels [N, 200] bool."""

    paths: list[str]
    clips: Array
    labels: Array

    @property
    def num_clips(self) -> int:
        return int(self.clips.max()) + 1


Backgrounds = Callable[[np.random.RandomState], Array]
"""Function that takes a random generator and returns the spectrogram [96, frames] of a
random background recording.
"""


def _build(workspace: Workspace) -> Arrays:
    """Return the arrays of the task.

    Under ``paper``, a tenth of the training clips is for validation, instead of the
    published validation clips.
    """
    numbers = _label_numbers(workspace.file("chunks/lbl_map.json"))
    paper = workspace.protocol == PAPER
    # All CSV files are read first, so that an invalid one is found before hours of
    # work.
    names = ["tr", "eval"] if paper else ["tr", "eval", "val"]
    lists = {name: _chunks(workspace, name, numbers) for name in names}
    backgrounds = _backgrounds(workspace.file("noise_22050"))
    train = lists["tr"]
    if paper:
        held_out = max(1, train.num_clips // 10)
        parts = hold_out(
            workspace.raw / "chunks/tr.csv", train.num_clips, held_out, SPLIT_SEED
        )
        arrays = _examples(workspace, "train", train, np.sort(parts[0]), backgrounds)
        arrays |= _examples(
            workspace, "validation", train, np.sort(parts[1]), backgrounds
        )
    else:
        arrays = _examples(
            workspace, "train", train, np.arange(train.num_clips), backgrounds
        )
        arrays |= _whole_clips(workspace, "validation", lists["val"])
    return arrays | _whole_clips(workspace, "test", lists["eval"])


def _label_numbers(path: Path) -> dict[str, int]:
    """Return the number of each label; UserError if the file is invalid."""
    numbers = read_json(path)
    whole_numbers = [number for number in numbers.values() if type(number) is int]
    if sorted(whole_numbers) != list(range(NUM_LABELS)):
        raise UserError(
            f"{path}: expected {NUM_LABELS} labels numbered 0 to {NUM_LABELS - 1},"
            f" found {len(numbers)} entries"
        )
    return {str(label): number for label, number in numbers.items()}


def _chunks(workspace: Workspace, name: str, numbers: dict[str, int]) -> _Chunks:
    """Return the chunks of clips that the file ``NAME.csv`` lists, and their labels.

    ``numbers`` are the numbers of labels.
    """
    listing = workspace.file(f"chunks/{name}.csv")
    columns = read_csv(listing, ("files", "labels", "ext"))
    paths = locate_files(workspace.raw, listing, columns["files"])
    labels = np.zeros((len(paths), NUM_LABELS), bool)
    for row, text in enumerate(columns["labels"]):
        for label in text.split(","):
            if label not in numbers:
                raise UserError(
                    f"{listing}, row {row + 1}: expected labels of lbl_map.json, found"
                    f" {quoted(label)}"
                )
            labels[row, numbers[label]] = True
    _, clips = np.unique(np.array(columns["ext"]), return_inverse=True)
    return _Chunks(paths, clips.reshape(-1), labels)


def _backgrounds(folder: Path) -> Backgrounds:
    """Return a function that draws the spectrogram of a random file of ``folder``."""
    paths = sorted(str(path) for path in folder.glob("*.wav"))
    if not paths:
        raise UserError(
            f"{folder}: expected *.wav, found none; training mixes three of four clips"
            " with a background"
        )
    read = functools.lru_cache(_MOST_KEPT)(spectrogram)
    return lambda random: read(paths[int(random.randint(len(paths)))])


def _examples(
    workspace: Workspace,
    split: str,
    chunks: _Chunks,
    clips: Array,
    backgrounds: Backgrounds,
) -> dict[str, Array]:
    """Return the arrays x [n, 1, 96, 102] and y [n, 200] of a split.

    It has one training example for each of ``clips`` [n].
    """
    rows = _random_chunks(chunks)

    def example(clip: int) -> Array:
        random = np.random.RandomState([SPLIT_SEED, clip])
        chunk = spectrogram(chunks.paths[rows[clip]])
        return append_frame(training_example(chunk, backgrounds, random))

    x = fill_array(workspace, f"{split}_x", clips, stack_rows(example), SHAPE)
    y = chunks.labels[rows[clips]].astype(np.float32)
    return {f"{split}_x": x, f"{split}_y": y}


def _random_chunks(chunks: _Chunks) -> Array:
    """Return the index of a random chunk of each clip, [num_clips]."""
    order = np.argsort(chunks.clips, kind="stable")
    counts = np.bincount(chunks.clips)
    shares = np.random.RandomState(SPLIT_SEED).random_sample(len(counts))
    offsets = (shares * counts).astype(np.int64)
    starts = np.cumsum(counts) - counts
    return np.asarray(order[starts + offsets])


def _whole_clips(workspace: Workspace, split: str, chunks: _Chunks) -> dict[str, Array]:
    """Return the arrays of a split with all chunks of its clips.

    Chunks of one clip have the same number in the array ``SPLIT_group``.
    """
    rows = stack_rows(
        lambda index: append_frame(middle_second(spectrogram(chunks.paths[index])))
    )
    x = fill_array(workspace, f"{split}_x", np.arange(len(chunks.paths)), rows, SHAPE)
    y = chunks.labels.astype(np.float32)
    return {
        f"{split}_x": x,
        f"{split}_y": y,
        f"{split}_group": chunks.clips.astype(np.int64),
    }


def spectrogram(path: str) -> Array:
    """Return the log-mel spectrogram of a file minus its mean, [96, frames].

    It has at least 101 frames. A recording shorter than a second is repeated to a
    length of one second. Raises UserError for an invalid file.
    """
    waveform = read_wav(Path(path), SAMPLE_RATE)
    if len(waveform) < SAMPLE_RATE:
        waveform = np.resize(waveform, SAMPLE_RATE)
    decibels = log_mel(waveform, sample_rate=SAMPLE_RATE, n_mels=NUM_MELS)
    return np.asarray(decibels - decibels.mean())


def middle_second(spectrogram_MT: Array) -> Array:
    """Return the middle 101 frames, one second, of the spectrogram of a chunk.

    Published chunks have no more frames.
    """
    start = (spectrogram_MT.shape[1] - NUM_FRAMES) // 2
    return spectrogram_MT[:, start : start + NUM_FRAMES]


def append_frame(spectrogram_MT: Array) -> Array:
    """Return the spectrogram as [1, 96, 102].

    A frame of zeros is appended, as in ORCA's code.
    """
    return np.pad(spectrogram_MT, ((0, 0), (0, 1)))[None]


def training_example(
    spectrogram_MT: Array, backgrounds: Backgrounds, random: np.random.RandomState
) -> Array:
    """Return a window [96, 101] of a chunk, randomly masked.

    With probability ¾, it is mixed with a background.
    """
    example = _cut(_masked(spectrogram_MT, random), random)
    if random.random_sample() >= MIX_PROBABILITY:
        return example
    background = _cut(_masked(backgrounds(random), random), random)
    share = random.uniform(0, _MOST_BACKGROUND)
    return (1 - share) * example + share * background


def _cut(spectrogram_MT: Array, random: np.random.RandomState) -> Array:
    start = int(random.randint(spectrogram_MT.shape[1] - NUM_FRAMES + 1))
    return spectrogram_MT[:, start : start + NUM_FRAMES]


def _masked(spectrogram_MT: Array, random: np.random.RandomState) -> Array:
    """Apply the masks of SpecAugment with probability ½.

    Park et al., 2019, arXiv:1904.08779. One or two random bands of mels, and as many of
    frames, are set to the minimum of the spectrogram.
    """
    if random.random_sample() >= MASK_PROBABILITY:
        return spectrogram_MT
    masked = spectrogram_MT.copy()
    for _ in range(random.randint(1, _MOST_MASKS + 1)):
        masked[_band(len(masked), _MOST_MELS, random)] = spectrogram_MT.min()
        masked[:, _band(masked.shape[1], _MOST_FRAMES, random)] = spectrogram_MT.min()
    return masked


def _band(size: int, most: float, random: np.random.RandomState) -> slice:
    width = int(random.uniform(0, most) * size)
    start = int(random.uniform(0, size - width))
    return slice(start, start + width)
