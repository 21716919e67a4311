"""Memory and time of preparing the two largest tasks of NAS-Bench-360 from raw files of
several gigabytes.

``python -m benchmarks.prepare_large [fsd50k] [cosmic] [--gigabytes 3] [--directory
DIR]``

Writes raw files of that size into a temporary directory, prepares them with
``orca-sweep data prepare`` in a separate process, and prints two peaks of its memory:
all resident pages, including reclaimable pages of mapped files (the maximum resident
set size of ``/usr/bin/time -v``), and anonymous memory alone.
"""

# ruff: noqa: T201 - a benchmark prints its table

import argparse
import csv
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.raw_files import nasbench360_large as files

_SAMPLE_SECONDS = 0.05
_CHUNKS_A_CLIP = 8
_CLIP_SHARES = {"tr": 0.5, "val": 0.1, "eval": 0.4}


@dataclass(frozen=True)
class Peaks:
    """What one process took; sizes in MB."""

    seconds: float
    resident: float
    own: float


def write_fsd50k(raw: Path, num_bytes: float) -> None:
    """Write about that much of one-second chunks: those of the tests, over and over,
    under new names.
    """
    source = raw / "small"
    files.write_fsd50k(source)
    shutil.move(source / "noise_22050", raw / "noise_22050")
    waves = [
        path.read_bytes()
        for path in sorted((source / "chunks/dev_22050_chunks").glob("2*_0.wav"))
    ]
    num_clips = int(num_bytes / len(waves[0]) / _CHUNKS_A_CLIP)
    (raw / "chunks").mkdir()
    shutil.copy(source / "chunks/lbl_map.json", raw / "chunks")
    names = sorted(json.loads((raw / "chunks/lbl_map.json").read_text()))
    clips = iter(range(num_clips))
    for name, share in _CLIP_SHARES.items():
        (raw / f"chunks/{name}").mkdir()
        rows = []
        for clip in itertools.islice(clips, int(share * num_clips)):
            labels = ",".join(names[clip % files.NUM_CLIPS :: files.NUM_CLIPS])
            for chunk in range(_CHUNKS_A_CLIP):
                path = f"chunks/{name}/{clip}_{chunk}.wav"
                (raw / path).write_bytes(waves[(clip + chunk) % len(waves)])
                rows.append((f"data/{path}", labels, clip))
        with (raw / f"chunks/{name}.csv").open("w", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows(
                [("files", "labels", "ext"), *rows]
            )
    shutil.rmtree(source)


def write_cosmic(raw: Path, num_bytes: float) -> None:
    """Write about that much of stamps: a few dozen, over and over, under new names."""
    random = np.random.RandomState(0)
    stamps = [files.make_stamp(30.0, random) for _ in range(24)]
    count = int(num_bytes / stamps[0].nbytes)
    for split, field, num in (
        ("train", "10760/2", count * 9 // 10),
        ("test", "12513/2", count // 10),
    ):
        folder = raw / f"cosmic/npy_{split}/f435w/{field}"
        folder.mkdir(parents=True)
        np.save(folder / "sky.npy", np.full(9, 30.0))
        names = [
            f"./cosmic/npy_{split}/f435w/{field}/{1 + i % 9}_{i}.npy"
            for i in range(num)
        ]
        for i, name in enumerate(names):
            np.save(raw / name, stamps[i % len(stamps)])
        np.save(raw / f"cosmic/{split}_dirs.npy", np.array(names))


WRITERS: dict[str, Callable[[Path, float], None]] = {
    "fsd50k": write_fsd50k,
    "cosmic": write_cosmic,
}


def measure(command: list[str]) -> Peaks:
    """Run a command to its end; raises CalledProcessError when it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    own = [0.0]
    watcher = threading.Thread(target=_watch, args=(process.pid, own), daemon=True)
    watcher.start()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Peaks(time.perf_counter() - started, usage.ru_maxrss / 1024, own[0])


def _watch(pid: int, own: list[float]) -> None:
    """Keep the most anonymous memory that a process has had, in MB, until it ends."""
    while True:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            return
        own[0] = max(
            [
                own[0],
                *(
                    int(line.split()[1]) / 1024
                    for line in lines
                    if line.startswith("RssAnon")
                ),
            ]
        )
        time.sleep(_SAMPLE_SECONDS)


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "tasks", nargs="*", help=f"of {', '.join(WRITERS)}; all by default"
    )
    parser.add_argument("--gigabytes", type=float, default=3.0)
    parser.add_argument(
        "--directory", type=Path, help="where the temporary directory is made"
    )
    arguments = parser.parse_args()
    print(
        f"{'task':<10}{'raw GB':>8}{'prepared GB':>13}{'seconds':>9}{'peak MB':>9}"
        f"{'own MB':>8}"
    )
    for task in arguments.tasks or WRITERS:
        with tempfile.TemporaryDirectory(
            prefix="orca-ray-large-", dir=arguments.directory
        ) as directory:
            raw = Path(directory) / "raw"
            out = Path(directory) / "out"
            raw.mkdir()
            WRITERS[task](raw, arguments.gigabytes * 1e9)
            prepare = [
                "data",
                "prepare",
                f"nasbench360/{task}",
                "--raw",
                str(raw),
                "--out",
                str(out),
            ]
            peaks = measure([sys.executable, "-m", "orca_ray.cli.main", *prepare])
            sizes = [
                sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
                / 1e9
                for root in (raw, out)
            ]
            print(
                f"{task:<10}{sizes[0]:>8.2f}{sizes[1]:>13.2f}{peaks.seconds:>9.0f}{peaks.resident:>9.0f}{peaks.own:>8.0f}"
            )


if __name__ == "__main__":
    main()
