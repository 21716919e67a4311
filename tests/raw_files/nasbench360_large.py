"""Small raw files of the three large tasks of NAS-Bench-360.

They have the exact layout; there are also ways to corrupt them. Proteins are strands
side by side, so that residues far apart along the chain are close in space. Stamps are
a sky with a star and sharp tracks. Clips are two tones in noise, tones that no other
clip has.
"""

import csv
import json
import pickle
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from orca_ray.data.rows import Array
from orca_ray.testing.tasks import (
    Corruption,
    Writer,
    changed,
    cut,
    deleted,
    garbage,
    rewritten,
    with_item,
)
from tests.raw_files import Hostile, appended, replaced

PROTEINS: dict[str, tuple[int, ...]] = {
    "deepcov": (31, 40, 44, 52, 60, 520),
    "psicov": (42, 46, 50, 58),
    "cameo": (),
}
"""Lengths; one is too long to be seen whole."""
STAMPS = {"train": ("10760/2", "13737/3"), "test": ("12513/2",)}
STAMPS_A_FIELD = 6
NUM_CLIPS = 24
CHUNKS_A_CLIP = 2
SAMPLE_RATE = 22050


def write_psicov(raw: Path) -> None:
    """Write ``protein``: lists, features and distances of six, four and no proteins."""
    random = np.random.RandomState(0)
    for folder, lengths in PROTEINS.items():
        names = [
            f"{number}{folder[:3].upper()}A" for number in range(1, len(lengths) + 1)
        ]
        for part in ("features", "distance"):
            (raw / "protein" / folder / part).mkdir(parents=True, exist_ok=True)
        (raw / f"protein/{folder}.lst").write_text(
            "".join(f"{name} \n" for name in names)
        )
        for name, length in zip(names, lengths, strict=True):
            distances = sheet(length, random)
            sequence = "".join(random.choice(list("ACDEFGHIKLMNPQRSTVWY"), length))
            save_distances(raw, folder, name, length, sequence, distances)
            features = protein_features(distances, random) | {"seq": sequence}
            (raw / f"protein/{folder}/features/{name}.pkl").write_bytes(
                pickle.dumps(features)
            )


def sheet(length: int, random: np.random.RandomState) -> Array:
    """Return distances [L, L] in Å between the residues of strands.

    The strands run to and fro, 5 Å apart; the diagonal is 0.
    """
    strand, place = np.divmod(np.arange(length), min(60, (length + 1) // 2))
    along = np.where(strand % 2 == 0, place, place.max() - place) * 3.3
    places = np.stack([along, 5.0 * strand, np.zeros(length)], axis=1) + random.normal(
        0, 0.3, (length, 3)
    )
    distances: Array = np.linalg.norm(places[:, None] - places, axis=2).astype(
        np.float32
    )
    return distances


def protein_features(distances: Array, random: np.random.RandomState) -> dict[str, Any]:
    """Return features [..., L]: pair maps tell contacts, the others nothing."""
    length = len(distances)
    noise = random.normal(0, 0.1, distances.shape)
    contacts = np.where(distances < 8, 1.0, 0.0) + noise
    return {
        "ss": random.dirichlet(np.ones(3), length).T,
        "pssm": random.normal(0, 2, (length, 22)),
        "sa": random.random_sample(length),
        "entropy": random.random_sample(length).astype(np.float32),
        "ccmpred": contacts.astype(np.float32),
        "freecon": (2 * contacts).astype(np.float32),
        "potential": random.normal(0, 1, distances.shape).astype(np.float32),
    }


def save_distances(
    raw: Path, folder: str, name: str, length: Any, sequence: str, distances: Array
) -> None:
    """Save a protein's distances as PDNet does: a row of three objects."""
    content = np.empty(3, object)
    content[:] = length, sequence, distances
    np.save(
        raw / f"protein/{folder}/distance/{name}-cb.npy", content, allow_pickle=True
    )


def write_cosmic(raw: Path) -> None:
    """Write ``cosmic``: twelve training and six test stamps.

    A third of them lacks the plane of ignored pixels.
    """
    random = np.random.RandomState(0)
    for split, fields in STAMPS.items():
        listed = []
        # A field without galaxies and another filter lie beside those that are listed.
        for field in (*fields, "10595/2"):
            stamps = write_field(raw / f"cosmic/npy_{split}/f435w/{field}", random)
            listed += stamps if field in fields else []
        write_field(raw / f"cosmic/npy_{split}/f606w/{fields[0]}", random)
        np.save(
            raw / f"cosmic/{split}_dirs.npy",
            np.array([f"./{path.relative_to(raw)}" for path in listed]),
        )


def write_field(folder: Path, random: np.random.RandomState) -> list[Path]:
    """Write the stamps of a field, cut from two exposures, and the sky of each."""
    folder.mkdir(parents=True, exist_ok=True)
    skies = random.uniform(20, 60, 2).astype(np.float32)
    np.save(folder / "sky.npy", skies)
    paths = [
        folder / f"{1 + number % 2}_{number // 2}.npy"
        for number in range(STAMPS_A_FIELD)
    ]
    for number, path in enumerate(paths):
        stamp = make_stamp(float(skies[number % 2]), random)
        np.save(path, stamp[:2] if number % 3 == 2 else stamp)
    return paths


def make_stamp(sky: float, random: np.random.RandomState) -> Array:
    """Return image, mask and ignore, float32 [3, 256, 256].

    Tracks are 60 electrons above a sky that has a bright star.
    """
    rows, columns = np.mgrid[:256, :256]
    stamp = np.zeros((3, 256, 256), np.float32)
    stamp[0] = random.normal(sky, 3, (256, 256))
    star = random.randint(64, 192, 2)
    stamp[0] += 500 * np.exp(-((rows - star[0]) ** 2 + (columns - star[1]) ** 2) / 20)
    for _ in range(6):
        start = random.randint(70, 180, 2)
        slope = random.uniform(-1, 1)
        for step in range(12):
            stamp[1, start[0] + step, int(start[1] + slope * step)] = 1
    stamp[0] += 60 * stamp[1]
    stamp[2, star[0] - 2 : star[0] + 3, star[1] - 2 : star[1] + 3] = 1
    return stamp


def write_fsd50k(raw: Path) -> None:
    """Write ``chunks`` and ``noise_22050``.

    They are 24 clips of two chunks for each of train, validation and evaluation.
    """
    random = np.random.RandomState(0)
    labels = [
        f"Sound_{number}_and_echo" for number in range(200)
    ]  # spread over the clips of a split
    (raw / "noise_22050").mkdir(parents=True, exist_ok=True)
    for number in range(3):
        write_wav(
            raw / f"noise_22050/street_{number}.wav",
            random.normal(0, 0.05, SAMPLE_RATE * (1 + number)),
        )
    for name, folder in (("tr", "dev"), ("val", "dev"), ("eval", "eval")):
        rows = []
        for clip in range(NUM_CLIPS):
            number = 1000 * len(name) + clip
            for chunk in range(CHUNKS_A_CLIP):
                path = f"chunks/{folder}_22050_chunks/{number}_{chunk}.wav"
                # The last chunk of a clip is what is left of it.
                length = SAMPLE_RATE if chunk == 0 else SAMPLE_RATE // 2 + 100 * clip
                seconds = np.arange(length) / SAMPLE_RATE
                tones = sum(
                    np.sin(2 * np.pi * pitch * (200 + 60 * clip) * seconds)
                    for pitch in (1, 2)
                )
                (raw / path).parent.mkdir(parents=True, exist_ok=True)
                write_wav(raw / path, 0.2 * tones + random.normal(0, 0.02, length))
                rows.append((f"data/{path}", ",".join(labels[clip::NUM_CLIPS]), number))
        listed = (
            [rows[i] for i in random.permutation(len(rows))] if name == "tr" else rows
        )
        with (raw / f"chunks/{name}.csv").open(
            "w", newline=""
        ) as stream:  # as pandas does: values with commas quoted
            csv.writer(stream, lineterminator="\n").writerows(
                [("files", "labels", "ext"), *listed]
            )
    (raw / _LABELS).write_text(
        json.dumps({label: number for number, label in enumerate(labels)})
    )


def write_wav(path: Path, waveform: Array, *, sample_rate: int = SAMPLE_RATE) -> None:
    """Write a mono recording of 16 bits a sample."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes((32767 * waveform.clip(-1, 1)).astype("<i2").tobytes())


def _features(**changes: Any) -> Writer:
    def corrupt(raw: Path) -> None:
        path = raw / _FEATURES
        content = pickle.loads(path.read_bytes()) | changes
        path.write_bytes(
            pickle.dumps(
                {key: value for key, value in content.items() if value is not None}
            )
        )

    return corrupt


def _distances(change: Callable[[int, Array], tuple[Any, Array]]) -> Writer:
    def corrupt(raw: Path) -> None:
        length, sequence, distances = np.load(raw / _DISTANCES, allow_pickle=True)
        length, distances = change(length, distances)
        save_distances(raw, "deepcov", "1DEEA", length, sequence, distances)

    return corrupt


def _stamp(change: Callable[[Array], Array]) -> Writer:
    return changed(f"{_FIELD}/10760/2/1_0.npy", change)


def _without_a_character(paths: Array) -> Array:
    """Return paths one of whose characters has a number beyond Unicode."""
    return with_item(paths.view(np.uint32), 2, 0x110000).view(paths.dtype)


_FEATURES = "protein/psicov/features/2PSIA.pkl"
_STAMP = "cosmic/npy_test/f435w/12513/2/1_0.npy"
_DISTANCES = "protein/deepcov/distance/1DEEA-cb.npy"
_STAMPS = "cosmic/test_dirs.npy"
_FIELD = "cosmic/npy_train/f435w"
_CHUNK = "chunks/eval_22050_chunks/4003_0.wav"
_LABELS = "chunks/lbl_map.json"
_SKY = f"{_FIELD}/10760/2/sky.npy"
_VAL = "chunks/val.csv"

WRITERS: dict[str, Writer] = {
    "nasbench360/psicov": write_psicov,
    "nasbench360/cosmic": write_cosmic,
    "nasbench360/fsd50k": write_fsd50k,
}

CORRUPTIONS: dict[str, list[Corruption]] = {
    "nasbench360/psicov": [
        (
            "missing",
            deleted("protein/deepcov.lst"),
            r"1 of 1 raw files are not in .*protein\.zip",
        ),
        (
            "missing list",
            deleted("protein/psicov.lst"),
            r"raw file protein/psicov\.lst is not in",
        ),
        (
            "absent protein",
            appended("protein/psicov.lst", "9XYZA"),
            r"cannot read .*psicov/features/9XYZA\.pkl",
        ),
        (
            "strange name",
            appended("protein/psicov.lst", "../../key"),
            r"psicov\.lst: expected names .*\.\./\.\./key",
        ),
        ("truncated", cut(_FEATURES), r"2PSIA\.pkl.*expected a whole pickle"),
        ("garbage", garbage(_DISTANCES), r"1DEEA-cb\.npy: expected the header"),
        (
            "hostile pickle",
            _features(sa=Hostile()),
            r"2PSIA\.pkl.*system', which is refused",
        ),
        (
            "no scores",
            _features(pssm=None),
            r"2PSIA\.pkl: expected a mapping with .*found one without pssm",
        ),
        (
            "other shape",
            _features(ss=np.zeros((46, 3))),
            r"2PSIA\.pkl, ss: expected shape \[3, 46\], found \[46, 3\]",
        ),
        (
            "NaN",
            _features(entropy=np.full(46, np.nan)),
            r"2PSIA\.pkl, entropy: expected finite numbers",
        ),
        ("bytes", _features(ss=b"1"), r"2PSIA\.pkl.*expected"),
        (
            "no length",
            _distances(lambda _, map: (None, map)),
            r"1DEEA-cb\.npy.*expected",
        ),
        (
            "too large",
            _features(sa=np.full(46, 1e4)),
            r"2PSIA\.pkl, sa: expected values between -100 and 100",
        ),
        (
            "other length",
            _distances(lambda length, map: (length + 1, map)),
            r"1DEEA-cb\.npy, length: expected 31.*32",
        ),
        (
            "other side",
            _distances(lambda length, map: (length, map[1:])),
            r"cb\.npy, map: expected shape \[31, 31\]",
        ),
        (
            "far away",
            _distances(lambda length, map: (length, 900 * map)),
            r"cb\.npy, map: expected 0 to 500 Å",
        ),
    ],
    "nasbench360/cosmic": [
        (
            "missing",
            deleted("cosmic/npy_test"),
            r"1 of 2 raw files are not in .*deepCR\.ACS-WFC\.test\.tar",
        ),
        ("truncated", cut(_STAMP), r"12513/2/1_0\.npy.*truncated"),
        ("garbage", garbage(_STAMP), r"12513/2/1_0\.npy: expected the header"),
        (
            "other shape",
            _stamp(lambda x: x[:, :128]),
            r"1_0\.npy: .* \[2 or 3, 256, 256\].*\[3, 128, 256\]",
        ),
        (
            "NaN",
            _stamp(lambda x: with_item(x, (0, 99, 99), np.nan)),
            r"1_0\.npy: expected finite numbers",
        ),
        (
            "mask of 2",
            _stamp(lambda x: with_item(x, (1, 99, 99), 2)),
            r"1_0\.npy, mask: .* 0 and 1, found 0 to 2",
        ),
        (
            "absent stamp",
            deleted(f"{_FIELD}/10760/2/2_1.npy"),
            r"train_dirs\.npy, row 4: expected a file",
        ),
        (
            "outside",
            changed(_STAMPS, lambda x: np.append(x, "../key.npy")),
            r"below the raw directory",
        ),
        (
            "no paths",
            changed(_STAMPS, lambda x: np.array([1, None])),
            r"test_dirs\.npy: expected paths",
        ),
        (
            "broken text",
            changed(_STAMPS, _without_a_character),
            r"expected paths of stamps, found characters that do",
        ),
        (
            "hostile pickle",
            changed(_STAMPS, lambda x: np.array([Hostile()])),
            r"system', which is refused",
        ),
        (
            "few skies",
            changed(_SKY, lambda x: x[:1]),
            r"exposure of .*sky\.npy, 1 to 1",
        ),
        (
            "no sky",
            deleted(_SKY),
            r"1 of 2 folders of stamps have no .* such as .*10760/2; unpack",
        ),
    ],
    "nasbench360/fsd50k": [
        (
            "missing",
            deleted("chunks/tr.csv"),
            r"1 of 1 raw files are not in .*audio\.zip",
        ),
        ("missing list", deleted(_VAL), r"raw file chunks/val\.csv is not in"),
        ("no noise", deleted("noise_22050"), r"raw file noise_22050 is not in"),
        ("truncated", cut(_CHUNK), r"4003_0\.wav: expected 44144 bytes"),
        ("garbage", garbage(_CHUNK), r"4003_0\.wav: expected a wav file"),
        (
            "absent chunk",
            deleted(_CHUNK),
            r"eval\.csv, row 7: expected a file .*4003_0\.wav",
        ),
        (
            "other rate",
            lambda raw: write_wav(raw / _CHUNK, np.zeros(8000), sample_rate=16000),
            r"4003_0\.wav: expected 22050 samples a second, found 16000",
        ),
        (
            "other column",
            replaced("chunks/eval.csv", "labels", "tags"),
            r"eval\.csv: expected column 'labels'",
        ),
        (
            "other label",
            replaced(_VAL, "Sound_24_", "Noise_24_"),
            r"val\.csv, row 1: .*'Noise_24_and_echo'",
        ),
        (
            "label 200",
            replaced(_LABELS, ": 199", ": 200"),
            r"lbl_map\.json: expected 200 labels numbered",
        ),
        ("no JSON", garbage(_LABELS), r"lbl_map\.json"),
        (
            "deep JSON",
            lambda raw: rewritten(raw / _LABELS, lambda _: b"[" * 10**6),
            r"lbl_map\.json.*expected JSON, found something else",
        ),
    ],
}
