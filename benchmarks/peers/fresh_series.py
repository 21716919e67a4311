"""Series of the new sets: melodies of folk songs, peptides, and weather before a day of
sunshine.
"""

import io
import re
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pandas as pd

from benchmarks.peers.parts import SPLIT_SEED, Parts, split
from orca_ray.data import packages
from orca_ray.data.packages import Package
from orca_ray.data.rows import Array

MUSIC21 = Package(
    "music21",
    "10.5.1",
    "dc3309498c4c95cebdf8d4f20c868deb6b63bce1d929cad4f51a7ccc982987b1",
    "BSD-3-Clause; the corpus has its own, listed in the package",
    size_mb=20,
)
MODLAMP = Package(
    "modlamp",
    "4.3.3",
    "6948bcbc4a9614d10b6b47a051d4576c42fe8e5487fbbeb3cfe0d8033eb27f91",
    "BSD-3-Clause",
    size_mb=0.2,
)
PVLIB = Package(
    "pvlib",
    "0.16.1",
    "4e61b5228a13f782413d7cf8cc48eb6e62e7bf55d155958fa9fd72420b63603d",
    "BSD-3-Clause; the weather is of NREL, public domain",
    size_mb=19,
)

_COLLECTIONS = {
    "china": ("han1", "han2"),
    "germany": ("zuccal0",),
    "lorraine": ("lot",),
    "luxembourg": ("lux",),
}
"""Files of the Essen folk song collection, by where the songs are from."""
NUM_NOTES = 48
"""Number of notes of a melody."""
_MOST_MELODIES = 350
"""Largest number of melodies of a class."""
_STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
"""Semitones of the notes above C."""
_SHARPS = {"C": 0, "G": 1, "D": 2, "A": 3, "E": 4, "B": 5, "F#": 6, "C#": 7}
_FLATS = {"F": 1, "Bb": 2, "Eb": 3, "Ab": 4, "Db": 5, "Gb": 6, "Cb": 7}
"""Number of sharps or flats of each major key."""
_ORDER_OF_SHARPS = "FCGDAEB"
_SIGNS = {"^": 1, "_": -1, "=": 0, "": None}
_TOKEN = re.compile(r"(\|)|([\^_=]?)([A-Ga-gz])([,']*)(\d*)(/?)(\d*)")


def melodies() -> Parts:
    """Return the first 48 notes of folk songs, [N, 2, 48]: pitch in semitones above the
    median of the 48, and the binary logarithm of the length relative to the median; the
    class is where the song is from.

    Keys and units of length, which depend on the editor, are thereby left out, and so
    are rests and copies.
    """
    random = np.random.default_rng(SPLIT_SEED)
    seen: set[bytes] = set()
    x = []
    y = []
    for origin, files in _COLLECTIONS.items():
        found = []
        for file in files:
            content = packages.read_member(
                MUSIC21, f"music21/corpus/essenFolksong/{file}.abc"
            )
            for notes in read_abc(content.decode("latin-1")):
                if len(notes) < NUM_NOTES:
                    continue
                melody = _normalise(notes[:NUM_NOTES])
                if melody.tobytes() not in seen:
                    seen.add(melody.tobytes())
                    found.append(melody)
        order = random.permutation(len(found))[:_MOST_MELODIES]
        x += [found[number] for number in order]
        y += [origin] * len(order)
    return split(np.stack(x), np.array(y, dtype=object))


def _normalise(notes: list[tuple[int, float]]) -> Array:
    pitches, lengths = np.array(notes, dtype=np.float64).T
    logarithms = np.log2(lengths)
    return np.stack(
        [pitches - np.median(pitches), logarithms - np.median(logarithms)]
    ).astype(np.float32)


def read_abc(text: str) -> Iterator[list[tuple[int, float]]]:
    """Yield the notes of each tune of a file in ABC notation: pitch in semitones above
    the C below the treble staff, and length in units of the tune.

    An accidental holds until the end of its bar.
    """
    for tune in re.split(r"^X:", text, flags=re.MULTILINE)[1:]:
        key = re.search(r"^K: *([A-G][b#]?)", tune, flags=re.MULTILINE)
        if key is None:
            continue
        lines = tune[key.end() :].splitlines()[1:]
        body = "\n".join(line for line in lines if not re.match("[A-Za-z]:|%", line))
        yield _read_notes(body, _signature(key[1]))


def _signature(key: str) -> dict[str, int]:
    """Return the alteration of each letter in a major key."""
    if key in _SHARPS:
        return dict.fromkeys(_ORDER_OF_SHARPS[: _SHARPS[key]], 1)
    return dict.fromkeys(_ORDER_OF_SHARPS[::-1][: _FLATS.get(key, 0)], -1)


def _read_notes(body: str, signature: dict[str, int]) -> list[tuple[int, float]]:
    notes = []
    changed: dict[str, int] = {}
    for bar, sign, letter, octave, times, slash, parts in _TOKEN.findall(body):
        if bar:
            changed = {}
            continue
        if letter == "z":
            continue
        name = letter.upper()
        place = name + octave + ("'" if letter.islower() else "")
        alteration = _SIGNS[sign]
        if alteration is not None:
            changed[place] = alteration
        pitch = _STEPS[name] + changed.get(place, signature.get(name, 0))
        pitch += 12 * (letter.islower() + octave.count("'") - octave.count(","))
        divisor = int(parts or 2) if slash else 1
        notes.append((pitch, float(Fraction(int(times or 1), divisor))))
    return notes


_RESIDUES = "ARNDCQEGHILKMFPSTWYV"
"""Letters of the amino acids."""
_HYDROPATHY = dict(
    zip(
        _RESIDUES,
        (
            *(1.8, -4.5, -3.5, -3.5, 2.5, -3.5, -3.5, -0.4, -3.2, 4.5),
            *(3.8, -3.9, 1.9, 2.8, -1.6, -0.8, -0.7, -0.9, -1.3, 4.2),
        ),
        strict=True,
    )
)
"""Hydropathy of amino acids (Kyte and Doolittle, 1982)."""
_CHARGE = {"K": 1.0, "R": 1.0, "H": 0.1, "D": -1.0, "E": -1.0}
"""Charge of amino acids at pH 7; that of others is 0."""
_VOLUME = dict(
    zip(
        _RESIDUES,
        (
            *(88.6, 173.4, 114.1, 111.1, 108.5, 143.8, 138.4, 60.1, 153.2, 166.7),
            *(166.7, 168.6, 162.9, 189.9, 112.7, 89.0, 116.1, 227.8, 193.6, 140.0),
        ),
        strict=True,
    )
)
"""Volume of amino acids in cubic ångström (Zamyatnin, 1972)."""
_MOST_RESIDUES = 100
_NUM_PEPTIDES = 2500


def peptides() -> Parts:
    """Return 2500 peptides as series [N, 3, L]: hydropathy, charge and volume of each
    amino acid; the class is whether the peptide kills microbes.

    Short peptides end with NaN. Copies, and peptides with letters of no amino acid, are
    left out.
    """
    text = packages.read_member(MODLAMP, "modlamp/data/AMPvsUniProt.csv").decode()
    labels: dict[str, str] = {}
    for line in text.splitlines()[1:]:
        sequence, _, label = line.partition(",")
        is_known = set(sequence) <= _VOLUME.keys()
        if is_known and 0 < len(sequence) <= _MOST_RESIDUES:
            labels[sequence] = "antimicrobial" if label.strip() == "1" else "other"
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    names = list(labels)
    chosen = [names[number] for number in order[:_NUM_PEPTIDES]]
    x = np.full((len(chosen), 3, max(map(len, chosen))), np.nan, dtype=np.float32)
    for number, sequence in enumerate(chosen):
        x[number, :, : len(sequence)] = [
            [_HYDROPATHY[residue] for residue in sequence],
            [_CHARGE.get(residue, 0.0) for residue in sequence],
            [_VOLUME[residue] / 100 for residue in sequence],
        ]
    return split(x, np.array([labels[name] for name in chosen], dtype=object))


_WEATHER = {
    "GHI (W/m^2)": 100.0,
    "TotCld (tenths)": 10.0,
    "Dry-bulb (C)": 10.0,
    "Dew-point (C)": 10.0,
    "Pressure (mbar)": 1000.0,
    "Wspd (m/s)": 10.0,
}
"""Columns of the weather and the units that they are divided by."""
_PAST = 48
"""Number of hours of a window."""
_FUTURE = 24
"""Number of hours after the window whose sunshine is predicted."""
_STRIDE = 4
"""Number of hours between the beginnings of two windows."""
_NUM_TEST_BLOCKS = 7


def sunshine() -> Parts:
    """Return windows [N, 6, 48] of the hourly weather at Greensboro in a typical year,
    and the energy of the sun in the following day, in kWh/m².

    The year is cut into 24 half months; the months are of different years. No window
    crosses a cut. Whole half months are the outer test; the group is the half month.
    """
    content = packages.read_member(PVLIB, "pvlib/data/723170TYA.CSV")
    frame = pd.read_csv(io.BytesIO(content), skiprows=1)
    months = frame["Date (MM/DD/YYYY)"].str[:2].astype(int).to_numpy()
    days = frame["Date (MM/DD/YYYY)"].str[3:5].astype(int).to_numpy()
    blocks = 2 * (months - 1) + (days > 15)
    scaled = np.stack([frame[name] / unit for name, unit in _WEATHER.items()])
    sun = frame["GHI (W/m^2)"].to_numpy(dtype=np.float64) / 1000
    begins = [
        begin
        for begin in range(0, len(sun) - _PAST - _FUTURE + 1, _STRIDE)
        if (blocks[begin : begin + _PAST + _FUTURE] == blocks[begin]).all()
    ]
    x = np.stack([scaled[:, begin : begin + _PAST] for begin in begins])
    y = np.array([sun[begin + _PAST :][:_FUTURE].sum() for begin in begins])
    groups = blocks[begins]
    test_blocks = np.random.default_rng(SPLIT_SEED).permutation(24)[:_NUM_TEST_BLOCKS]
    test = np.isin(groups, test_blocks)
    x = x.astype(np.float32)
    return Parts(x[~test], y[~test], x[test], y[test], groups=groups[~test])
