"""Flips single bits in the files of a results store, and compares what every reader
then returns.

``python -m benchmarks.fuzz_store [--flips N] [--seed N] [--only KIND]``

The store is small, has all five tables, each with a compacted file and newer ones of
two drivers, and a marker, a live state, imported scores and the note of a compaction.
After each flip, all readers that open the changed file read the store again, with files
read as a whole or by row groups. Each reader returns the same as before, raises a
UserError, or warns about what it leaves out. Everything else fails the run: another
result without a warning (silent), another exception, the end of the process, or more
than 1 GB of memory.
"""

# ruff: noqa: T201 - a benchmark prints its table

import argparse
import contextlib
import itertools
import logging
import multiprocessing
import random
import resource
import sys
import tempfile
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

from orca_ray.errors import UserError
from orca_ray.results import live, store
from orca_ray.results.artefacts import ArtefactRow
from orca_ray.results.live import LiveState, Row, RunningTrial
from orca_ray.results.logs import LogRow
from orca_ray.results.record import CurvePoint, Record, Status, SuggestionRow
from orca_ray.results.status import sweep_status
from orca_ray.results.store import ResultsStore
from orca_ray.results.submissions import Known, import_scores, imported_scores

SWEEP = "pocket/quick"
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SAME = "same"
"""Outcome of a flip that changed nothing that a reader returns."""
REPORTED = "reported"
"""Outcome of a flip that a reader reported as an error or with a warning."""
SILENT = "silent"
"""Outcome of a flip that changed what a reader returns without a word."""
UNEXPECTED = "unexpected"
"""Outcome of a flip at which a reader raised an error that is not the user's."""
KILLED = "killed"
"""Outcome of a flip that ended the process of a reader."""
OUTCOMES = (SAME, REPORTED, SILENT, UNEXPECTED, KILLED)
"""All outcomes, the best first."""
MOST_BYTES = 10**9
SCORES = "method,task,metric,protocol,score,seed,source\n" + "".join(
    f"theirs,pocket/digits,error,held-out,0.{number},{number},a paper\n"
    for number in range(12, 20)
)


@dataclass(frozen=True)
class Flip:
    """One flipped bit of a file, and how the tables are read after it."""

    path: str
    bit: int
    whole: bool
    """Whether files are read as a whole, as small ones are; else by row groups, as
    large ones are.
    """

    @property
    def kind(self) -> str:
        """The directory, or the name of a file outside of one; ``sealed``: a list of
        the files of earlier drivers.
        """
        return (
            "sealed" if self.path.endswith(".sealed") else self.path.partition("/")[0]
        )


@dataclass(frozen=True)
class Finding:
    """What a flip did: the worst outcome over all readers, the reader, and what it
    returned or raised.
    """

    flip: Flip
    outcome: str
    reader: str = ""
    detail: str = ""


def make_store(path: Path) -> ResultsStore:
    """Return a new store with rows in all tables, partly compacted."""
    made = ResultsStore(path, create=True)
    for number in range(6):
        if number in (1, 5):  # two drivers, one after the other
            made.append_as(SWEEP, number)
        keys = [f"key-{number}-{index}" for index in range(4)]
        made.append(
            [_record(key, number) for key in keys],
            [_point(key, epoch) for key in keys for epoch in range(1, 4)],
            [
                ArtefactRow(SWEEP, key, "field", "first", '{"values": [1, 2, 3]}')
                for key in keys
            ],
            [_suggestion(4 * number + index, key) for index, key in enumerate(keys)],
            [LogRow(SWEEP, key, 1, START, f"the log of {key}\n") for key in keys],
        )
        if number == 3:
            made.compact()
    trial = RunningTrial(
        key="running",
        task="pocket/digits",
        method="orca",
        phase="search",
        seed=0,
        attempt=1,
        started_at="now",
    )
    rows = (Row(task="pocket/digits", method="orca", planned=30, done=24),)
    state = LiveState(
        sweep=SWEEP,
        sequence=7,
        renewed_at="2026",
        executor="ray",
        rows=rows,
        running=(trial,),
    )
    made.folder.write(live.path_of(SWEEP, 5), state.encode())
    (path.parent / "theirs.csv").write_text(SCORES)
    import_scores(
        str(path), path.parent / "theirs.csv", Known({"pocket/digits": ("error",)}, {})
    )
    return made


def _record(key: str, number: int) -> Record:
    return Record(
        trial_key=key,
        sweep=SWEEP,
        benchmark="pocket",
        task="pocket/digits",
        method="orca",
        body="minilm-l6",
        phase="search" if number % 2 else "confirm",
        protocol="held-out",
        seed=number,
        hyperparameters='{"refine.learning_rate": 0.0003}',
        data_fingerprint="0123456789abcdef",
        metric="error",
        status=Status.COMPLETED if number < 5 else Status.LOST,
        validation_score=0.25 + number / 64,
        test_score=0.5,
        best_epoch=3,
        epochs=5,
        distance_before=2.0,
        distance_after=1.0,
        num_parameters=7_000_000_000,
        num_trainable=12,
        wall_seconds=60.0,
        align_seconds=1.5,
        refine_seconds=2.5,
        evaluate_seconds=0.5,
        peak_memory_mib=None,
        executor="inline",
        node="here",
        device="cpu",
        started_at=START,
        finished_at=START + timedelta(minutes=number),
        attempts=1,
        error=None,
        version="0.1.0",
        torch_version="2.9.0",
    )


def _point(key: str, epoch: int) -> CurvePoint:
    return CurvePoint(
        sweep=SWEEP,
        trial_key=key,
        stage="refine",
        epoch=epoch,
        loss=1.0 / epoch,
        distance=None,
        validation_score=0.5 / epoch,
        learning_rate=1e-4,
        seconds=0.25,
    )


def _suggestion(number: int, key: str) -> SuggestionRow:
    return SuggestionRow(
        SWEEP, "pocket/digits", "orca", number, key, '{"a": 1.5}', "[[0, 3]]", START
    )


def _scan(uri: str) -> object:
    scan = ResultsStore(uri).scan()
    for warning in scan.warnings:
        logging.getLogger("orca_ray").warning(warning)
    names = [name for name in Record.SCHEMA.names if name != "benchmark"]
    found = [
        (benchmark, positions)
        for benchmark in scan.values("benchmark")
        for positions, _ in scan.batches(names, {"benchmark": [benchmark]})
    ]
    return [
        (benchmark, scan.take(positions, names).to_pylist())
        for benchmark, positions in found
    ]


def _imported(uri: str) -> object:
    scores, sentences = imported_scores(uri)
    for sentence in sentences:
        logging.getLogger("orca_ray").warning(sentence)
    return scores


READERS: dict[str, Callable[[str], object]] = {
    "records": lambda uri: ResultsStore(uri).records().to_dict("records"),
    "load": lambda uri: ResultsStore(uri).load(SWEEP),
    "select": lambda uri: ResultsStore(uri).select({"sweep": [SWEEP]}, "key-2"),
    "scan": _scan,
    "curves": lambda uri: ResultsStore(uri).curves(SWEEP).to_dict("records"),
    "curves of a trial": lambda uri: (
        ResultsStore(uri).curves(SWEEP, "key-5-1").to_dict("records")
    ),
    "artefacts": lambda uri: ResultsStore(uri).artefacts(SWEEP).to_dict("records"),
    "journal": lambda uri: ResultsStore(uri).journal(SWEEP),
    "logs": lambda uri: ResultsStore(uri).logs(SWEEP).to_dict("records"),
    "status": lambda uri: sweep_status(ResultsStore(uri), SWEEP),
    "imported scores": _imported,
}
_OF_RECORDS = ("records", "load", "select", "scan", "status")
READERS_OF = {
    "records": _OF_RECORDS,
    "curves": ("curves", "curves of a trial"),
    "artefacts": ("artefacts",),
    "journal": ("journal",),
    "logs": ("logs",),
    "live": ("status",),
    "imported": ("imported scores",),
    "sealed": ("load", "scan", "curves", "artefacts", "journal", "logs"),
}
"""Readers that open a kind of file.

All open the marker and the note of a compaction, in the same way.
"""
_OF_ALL = ("load", "curves", "status", "imported scores")


class _Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


class Fuzzer:
    """A store, and what its readers return while no bit is flipped."""

    def __init__(self, root: Path) -> None:
        self.root = root
        paths = sorted(path for path in root.rglob("*") if path.is_file())
        self.contents = {
            str(path.relative_to(root)): path.read_bytes() for path in paths
        }
        """Content of each file by its path in the store."""
        self._warnings = _Warnings()
        self._expected: dict[tuple[bool, str], str] = {}
        for whole in (True, False):
            with _read_as(whole=whole):
                self._expected |= {
                    (whole, name): repr(read(str(root)))
                    for name, read in READERS.items()
                }

    def flips(self, seed: int, only: str = "") -> Iterator[Flip]:
        """Yield flips without end; each kind of file is chosen equally often."""
        chance = random.Random(seed)
        kinds = defaultdict(list)
        for path in self.contents:
            kinds[Flip(path, 0, whole=True).kind].append(path)
        while True:
            path = chance.choice(kinds[only or chance.choice(sorted(kinds))])
            yield Flip(
                path,
                chance.randrange(8 * len(self.contents[path])),
                chance.random() < 0.5,
            )

    def every(self, path: str, *, whole: bool) -> Iterator[Flip]:
        """Yield a flip of each bit of a file."""
        return (Flip(path, bit, whole) for bit in range(8 * len(self.contents[path])))

    def check(self, flip: Flip) -> Finding:
        """Flip a bit, read, restore the file, and return the worst outcome."""
        changed = bytearray(self.contents[flip.path])
        changed[flip.bit // 8] ^= 1 << flip.bit % 8
        (self.root / flip.path).write_bytes(changed)
        try:
            with _read_as(whole=flip.whole), self._listening():
                found = [
                    self._read(flip, name)
                    for name in READERS_OF.get(flip.kind, _OF_ALL)
                ]
        finally:
            self.restore(flip)
        return max(found, key=lambda each: OUTCOMES.index(each.outcome))

    def restore(self, flip: Flip) -> None:
        """Write the content of the changed file again."""
        (self.root / flip.path).write_bytes(self.contents[flip.path])

    def _read(self, flip: Flip, name: str) -> Finding:
        self._warnings.texts.clear()
        store.warn_once.cache_clear()
        try:
            found = repr(READERS[name](str(self.root)))
        except UserError as error:
            named = Path(flip.path).name in str(error)
            return Finding(flip, REPORTED if named else UNEXPECTED, name, str(error))
        except Exception:
            return Finding(flip, UNEXPECTED, name, traceback.format_exc())
        expected = self._expected[flip.whole, name]
        if found == expected:
            return Finding(flip, SAME, name)
        reported = any(Path(flip.path).name in text for text in self._warnings.texts)
        return Finding(
            flip, REPORTED if reported else SILENT, name, _difference(expected, found)
        )

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        logger = logging.getLogger("orca_ray")
        logger.addHandler(self._warnings)
        try:
            yield
        finally:
            logger.removeHandler(self._warnings)


def _read_as(*, whole: bool) -> Any:
    return mock.patch.object(store, "SMALL_BYTES", store.SMALL_BYTES if whole else 0)


def _difference(expected: str, found: str) -> str:
    start = next(
        (at for at, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b),
        len(found),
    )
    return (
        f"expected …{expected[max(0, start - 40) : start + 60]}…, found"
        f" …{found[max(0, start - 40) : start + 60]}…"
    )


def _work(pipe: Any, root: str) -> None:
    fuzzer = Fuzzer(Path(root))
    while (flip := pipe.recv()) != "end":
        pipe.send(
            (
                flip and fuzzer.check(flip),
                1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            )
        )


class Process:
    """A process that checks flips; if one ends the process, that is the finding, and
    another process is started.
    """

    def __init__(self, fuzzer: Fuzzer) -> None:
        self._fuzzer = fuzzer
        self.grown = 0
        """Bytes that the checks took at most, beyond what the process had before them.
        """
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, end = context.Pipe()
        self._process = context.Process(
            target=_work, args=(end, str(self._fuzzer.root)), daemon=True
        )
        self._process.start()
        end.close()
        self._before = self._ask(None)[1]

    def _ask(self, flip: Flip | None) -> tuple[Finding, int]:
        self._pipe.send(flip)
        found: tuple[Finding, int] = self._pipe.recv()
        return found

    def end(self) -> None:
        """End the process."""
        self._pipe.send("end")
        self._process.join()

    def check(self, flip: Flip) -> Finding:
        """Return what the readers do after a flip."""
        try:
            finding, bytes_now = self._ask(flip)
        except EOFError:
            self._process.join()
            self._fuzzer.restore(flip)
            finding = Finding(
                flip, KILLED, detail=f"exit code {self._process.exitcode}"
            )
            bytes_now = 0
            self._start()
        self.grown = max(self.grown, bytes_now - self._before)
        return finding


def main() -> int:
    """Print the table of outcomes by kind of file, and the failures; return the exit
    code.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--flips", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", default="", help="only files of this kind, e.g. records"
    )
    parser.add_argument(
        "--every-bit",
        action="store_true",
        help="each bit of the newest file of --only, read both ways",
    )
    given = parser.parse_args()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    failures = []
    with tempfile.TemporaryDirectory(prefix="orca-ray-fuzz-") as directory:
        fuzzer = Fuzzer(Path(make_store(Path(directory) / "results").uri))
        flips: Iterator[Flip] = itertools.islice(
            fuzzer.flips(given.seed, given.only), given.flips
        )
        if given.every_bit:
            newest = max(
                path
                for path in fuzzer.contents
                if Flip(path, 0, whole=True).kind == given.only
            )
            flips = itertools.chain.from_iterable(
                fuzzer.every(newest, whole=whole) for whole in (True, False)
            )
        process = Process(fuzzer)
        for flip in flips:
            finding = process.check(flip)
            counts[flip.kind][finding.outcome] += 1
            if finding.outcome not in (SAME, REPORTED):
                failures.append(finding)
        process.end()
    print(f"{'file':24}" + "".join(f"{name:>12}" for name in OUTCOMES))
    for kind, of in [
        *sorted(counts.items()),
        ("all", sum(counts.values(), Counter[str]())),
    ]:
        print(f"{kind:24}" + "".join(f"{of[name]:12}" for name in OUTCOMES))
    print(
        f"memory: at most {process.grown / 1e6:.0f} MB more than before the first flip"
    )
    for finding in failures[:10]:
        print(
            f"\n{finding.outcome}: {finding.flip}, {finding.reader}: {finding.detail}"
        )
    return int(bool(failures) or process.grown > MOST_BYTES)


if __name__ == "__main__":
    sys.exit(main())
