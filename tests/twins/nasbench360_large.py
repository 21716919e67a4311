"""Twins of the three large tasks of NAS-Bench-360, and ways to damage them."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from orca_ray.testing.damages import (
    Array,
    Damage,
    Hostile,
    Writer,
    appended,
    changed,
    cut,
    deleted,
    garbage,
    replaced,
    with_item,
)
from tests.twins import _nasbench360_large_files as files


def _features(**changes: Any) -> Writer:
    def damage(raw: Path) -> None:
        path = raw / _FEATURES
        content = pickle.loads(path.read_bytes()) | changes
        path.write_bytes(pickle.dumps({key: value for key, value in content.items() if value is not None}))

    return damage


def _distances(change: Callable[[int, Array], tuple[Any, Array]]) -> Writer:
    def damage(raw: Path) -> None:
        length, sequence, distances = np.load(raw / _DISTANCES, allow_pickle=True)
        length, distances = change(length, distances)
        files.save_distances(raw, "deepcov", "1DEEA", length, sequence, distances)

    return damage


def _stamp(change: Callable[[Array], Array]) -> Writer:
    return changed(f"{_FIELD}/10760/2/1_0.npy", change)


def _without_a_character(paths: Array) -> Array:
    """Return paths one of whose characters has a number beyond Unicode."""
    return with_item(paths.view(np.uint32), 2, 0x110000).view(paths.dtype)


def deep(path: Path) -> None:
    path.write_text("[" * 10**6)


def _other_rate(raw: Path) -> None:
    files.write_wav(raw / _CHUNK, np.zeros(8000), sample_rate=16000)


_FEATURES, _STAMP = "protein/psicov/features/2PSIA.pkl", "cosmic/npy_test/f435w/12513/2/1_0.npy"
_DISTANCES, _STAMPS, _FIELD = "protein/deepcov/distance/1DEEA-cb.npy", "cosmic/test_dirs.npy", "cosmic/npy_train/f435w"
_CHUNK, _LABELS = "chunks/eval_22050_chunks/4003_0.wav", "chunks/lbl_map.json"

TWINS: dict[str, Writer] = {
    "nasbench360/psicov": files.write_psicov,
    "nasbench360/cosmic": files.write_cosmic,
    "nasbench360/fsd50k": files.write_fsd50k,
}

BAD: dict[str, list[Damage]] = {
    "nasbench360/psicov": [
        ("missing", deleted("protein/deepcov.lst"), r"1 of 1 raw files are not in .*protein\.zip"),
        ("missing list", deleted("protein/psicov.lst"), r"raw file protein/psicov\.lst is not in"),
        ("absent protein", appended("protein/psicov.lst", "9XYZA"), r"cannot read .*psicov/features/9XYZA\.pkl"),
        ("strange name", appended("protein/psicov.lst", "../../key"), r"psicov\.lst: expected names .*\.\./\.\./key"),
        ("truncated", cut(_FEATURES), r"2PSIA\.pkl.*expected a whole pickle"),
        ("garbage", garbage(_DISTANCES), r"1DEEA-cb\.npy: expected the header"),
        ("hostile pickle", _features(sa=Hostile()), r"2PSIA\.pkl.*system', which is refused"),
        ("no scores", _features(pssm=None), r"2PSIA\.pkl: expected a mapping with .*found one without pssm"),
        ("other shape", _features(ss=np.zeros((46, 3))), r"2PSIA\.pkl, ss: expected shape \[3, 46\], found \[46, 3\]"),
        ("NaN", _features(entropy=np.full(46, np.nan)), r"2PSIA\.pkl, entropy: expected finite numbers"),
        ("no text", _features(seq=7), r"2PSIA\.pkl.*expected"),
        ("ragged", _features(ss=[[1], [2, 3]]), r"2PSIA\.pkl.*expected"),
        ("bytes", _features(ss=b"1"), r"2PSIA\.pkl.*expected"),
        ("no length", _distances(lambda _, map: (None, map)), r"1DEEA-cb\.npy.*expected"),
        ("huge length", _distances(lambda _, map: (10**30, map)), r"1DEEA-cb\.npy.*expected"),
        ("too large", _features(sa=np.full(46, 1e4)), r"2PSIA\.pkl, sa: expected values between -100 and 100"),
        ("other length", _distances(lambda length, map: (length + 1, map)), r"1DEEA-cb\.npy, length: expected 31.*32"),
        ("other side", _distances(lambda length, map: (length, map[1:])), r"cb\.npy, map: expected shape \[31, 31\]"),
        ("far away", _distances(lambda length, map: (length, 900 * map)), r"cb\.npy, map: expected 0 to 500 Å"),
    ],
    "nasbench360/cosmic": [
        ("missing", deleted("cosmic/npy_test"), r"1 of 2 raw files are not in .*deepCR\.ACS-WFC\.test\.tar"),
        ("truncated", cut(_STAMP), r"12513/2/1_0\.npy.*truncated"),
        ("garbage", garbage(_STAMP), r"12513/2/1_0\.npy: expected the header"),
        ("other shape", _stamp(lambda x: x[:, :128]), r"1_0\.npy: .* \[2 or 3, 256, 256\].*\[3, 128, 256\]"),
        ("NaN", _stamp(lambda x: with_item(x, (0, 99, 99), np.nan)), r"1_0\.npy: expected finite numbers"),
        ("mask of 2", _stamp(lambda x: with_item(x, (1, 99, 99), 2)), r"1_0\.npy, mask: .* 0 and 1, found 0 to 2"),
        ("absent stamp", deleted(f"{_FIELD}/10760/2/2_1.npy"), r"train_dirs\.npy, row 4: expected a file"),
        ("outside", changed(_STAMPS, lambda x: np.append(x, "../key.npy")), r"below the raw directory"),
        ("no paths", changed(_STAMPS, lambda x: np.array([1, None])), r"test_dirs\.npy: expected paths"),
        ("broken text", changed(_STAMPS, _without_a_character), r"expected paths of stamps, found characters that do"),
        ("hostile pickle", changed(_STAMPS, lambda x: np.array([Hostile()])), r"system', which is refused"),
        ("few skies", changed(f"{_FIELD}/10760/2/sky.npy", lambda x: x[:1]), r"exposure of .*sky\.npy, 1 to 1"),
        (
            "no sky",
            deleted(f"{_FIELD}/10760/2/sky.npy"),
            r"1 of 2 folders of stamps have no .* such as .*10760/2; unpack",
        ),
    ],
    "nasbench360/fsd50k": [
        ("missing", deleted("chunks/tr.csv"), r"1 of 1 raw files are not in .*audio\.zip"),
        ("missing list", deleted("chunks/val.csv"), r"raw file chunks/val\.csv is not in"),
        ("no noise", deleted("noise_22050"), r"raw file noise_22050 is not in"),
        ("truncated", cut(_CHUNK), r"4003_0\.wav: expected 44100 bytes"),
        ("garbage", garbage(_CHUNK), r"4003_0\.wav: expected a wav file"),
        ("absent chunk", deleted(_CHUNK), r"eval\.csv, row 7: expected a file .*4003_0\.wav"),
        ("other rate", _other_rate, r"4003_0\.wav: expected 22050 samples a second, found 16000"),
        ("other column", replaced("chunks/eval.csv", "labels", "tags"), r"eval\.csv: expected column 'labels'"),
        (
            "other label",
            replaced("chunks/val.csv", "Sound_24_", "Noise_24_"),
            r"val\.csv, row 1: .*'Noise_24_and_echo'",
        ),
        ("label 200", replaced(_LABELS, ": 199", ": 200"), r"lbl_map\.json: expected 200 labels numbered"),
        ("no JSON", garbage(_LABELS), r"lbl_map\.json"),
        ("deep JSON", lambda raw: deep(raw / _LABELS), r"lbl_map\.json.*expected JSON, found something else"),
    ],
}
