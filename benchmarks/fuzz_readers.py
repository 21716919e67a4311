"""Mutates small files of every kind of own data, and reads each as ``adapt`` does:
reading, inferring, preparing.

``python -m benchmarks.fuzz_readers --mutations 20000 --seeds 3 [--kinds npz,csv]
[--state FILE]`` prints a table.

A reader must succeed or raise `UserError`. Any other exception is a finding, and so are
a process that dies, one that takes more than `MOST_SECONDS`, and one that takes more
than `MOST_BYTES` of memory. Mutation k of a kind and a seed is the same on every
machine with the same libraries: ``--kinds npz --seed 1 --only 17`` runs one, with its
traceback.
"""

# ruff: noqa: T201 - a benchmark prints its table

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz_samples import KINDS, Sample
from benchmarks.mutations import mutate
from orca_ray.data import child_process, hdf5_process
from orca_ray.errors import UserError

MOST_SECONDS = 10.0
"""CPU time that one file may take in the process that reads it."""
_CLOCK_SECONDS = 120.0
"""How long one file may take by the clock; a busy machine makes every file slow."""
MOST_BYTES = 2**30
"""Memory that one file may take; the files have some 10 kB each."""
_RELOADED = 400
"""Number of mutations after which a worker is replaced by a new process."""


@dataclass
class Outcome:
    """What one mutation did."""

    number: int
    change: str
    """The mutation, in words."""
    result: str
    """``read``, ``refused``, ``exception``, ``died``, ``hung`` or ``memory``."""
    seconds: float = 0.0
    """CPU time; without that of the process of an HDF5 file, which has its own limit.
    """
    peak: int = 0
    """Bytes of memory above those before the file was read."""
    detail: str = ""
    """Message or traceback."""

    @property
    def is_finding(self) -> bool:
        """Whether a reader did something else than to read or refuse."""
        return self.result not in ("read", "refused")


@dataclass
class Tally:
    """Results of the mutations of one kind and one seed."""

    kind: str
    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    peak: int = 0
    findings: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Count an outcome."""
        self.counts[outcome.result] += 1
        self.slowest = max(self.slowest, outcome.seconds)
        self.peak = max(self.peak, outcome.peak)
        if outcome.is_finding:
            self.findings.append(outcome)


@contextmanager
def limits(num_bytes: int, seconds: float = 60.0) -> Iterator[None]:
    """Fail if the block takes more than ``num_bytes`` of new memory or ``seconds``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    started = time.monotonic()
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert time.monotonic() - started < seconds


def adapt_without_training(sample: Sample) -> None:
    """Read, infer and prepare own data as ``adapt`` does."""
    from orca_ray.own_data import read
    from orca_ray.own_data.infer_task import infer
    from orca_ray.own_data.registration import in_memory

    data = read(sample.path, sample.options)
    in_memory(infer(data, sample.options, warn=lambda _: None), data)


def run(
    kind: str, seed: int, numbers: Sequence[int], originals: Path
) -> Iterator[Outcome]:
    """Yield the outcome of each mutation; workers that die or hang are replaced."""
    numbers = list(numbers)
    while numbers:
        receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)
        worker = multiprocessing.get_context("fork").Process(
            target=_work, args=(kind, seed, numbers[:_RELOADED], originals, sender)
        )
        worker.start()
        sender.close()
        last = Outcome(-1, "", "read")
        left = numbers[:_RELOADED]
        while left:
            if not receiver.poll(_CLOCK_SECONDS):
                worker.kill()
                yield Outcome(
                    left.pop(0),
                    _change(kind, seed, originals, last),
                    "hung",
                    _CLOCK_SECONDS,
                )
                break
            try:
                last = receiver.recv()
            except EOFError:
                worker.join()
                detail = f"exit code {worker.exitcode}"
                yield Outcome(
                    left.pop(0),
                    _change(kind, seed, originals, last),
                    "died",
                    detail=detail,
                )
                break
            if last.result != "started":
                left.pop(0)
                yield last
        worker.join()
        numbers = left + numbers[_RELOADED:]


def _change(kind: str, seed: int, originals: Path, last: Outcome) -> str:
    return last.change if last.result == "started" else f"after {last.number}"


def _work(
    kind: str, seed: int, numbers: Sequence[int], originals: Path, sender: Any
) -> None:
    """Run mutations in a process of its own, in a folder in memory that is removed."""
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what libraries print
    limit = _status("VmSize") + 4 * MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, _late)
    # What libraries load and keep counts for no mutation.
    with suppress(UserError):
        adapt_without_training(KINDS[kind].at(originals / kind))
    vars(child_process)["start"] = _forked
    hdf5_process.BASE_SECONDS = 1
    with tempfile.TemporaryDirectory(
        dir="/dev/shm" if os.path.isdir("/dev/shm") else None
    ) as folder:
        os.environ["ORCA_RAY_HOME"] = str(Path(folder, "cache"))
        for number in numbers:
            sample, change = mutated(
                kind, seed, number, originals, Path(folder, "data")
            )
            sender.send(Outcome(number, change, "started"))
            sender.send(outcome_of(sample, number, change))
    sender.close()


class _Fork:
    """What `ChildProcess` uses of a `subprocess.Popen`, for a forked process."""

    returncode: int | None = None

    def __init__(self, number: int) -> None:
        self._number = number

    def kill(self) -> None:
        """End the process if it runs."""
        if self.returncode is None:
            os.kill(self._number, signal.SIGKILL)

    def wait(self) -> None:
        """Wait for its end."""
        if self.returncode is None:
            _, status = os.waitpid(self._number, 0)
            self.returncode = os.waitstatus_to_exitcode(status)


def _forked(function: str, descriptors: Sequence[int], _: object) -> _Fork:
    """Start the process of a reader as a fork, which need not import anything: that
    takes 0.3 s.
    """
    process = os.fork()
    if process:
        return _Fork(process)
    try:
        signal.setitimer(signal.ITIMER_PROF, 0)
        for number in map(int, os.listdir("/proc/self/fd")):
            if number > 2 and number not in descriptors:
                with suppress(OSError):  # the list of the folder itself
                    os.close(number)
        module, _, name = function.partition(":")
        getattr(sys.modules[module], name)(*descriptors)
    finally:
        os._exit(1)


class _Late(BaseException):
    """Raised when a file takes too long; no reader's ``except`` stops it."""


def _late(*_: object) -> None:
    raise _Late


def mutated(
    kind: str, seed: int, number: int, originals: Path, folder: Path
) -> tuple[Sample, str]:
    """Copy the sample of a kind to ``folder``, mutate it, and return it with the
    mutation in words.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(originals / kind, folder)
    drawer = np.random.default_rng([seed, list(KINDS).index(kind), number])
    return KINDS[kind].at(folder), mutate(folder, drawer)


def outcome_of(sample: Sample, number: int, change: str) -> Outcome:
    """Return what reading a sample did, in this process."""
    found = Outcome(number, change, "read")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    before = _status("VmRSS")
    started = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    try:
        adapt_without_training(sample)
    except UserError as error:
        found.result = "refused"
        found.detail = str(error)
    except _Late:
        found.result = "hung"
        found.detail = traceback.format_exc()
    except Exception:
        found.result = "exception"
        found.detail = traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    found.seconds = time.process_time() - started
    found.peak = max(0, _status("VmHWM") - before)
    if found.peak > MOST_BYTES and not found.is_finding:
        found.result = "memory"
    return found


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(
        int(line.split()[1]) for line in lines if line.startswith(f"{name}:")
    )


def write_originals(folder: Path, kinds: Sequence[str]) -> None:
    """Write a valid sample of each of the kinds, in a process of its own: libraries
    start threads when they write.
    """
    worker = multiprocessing.get_context("fork").Process(
        target=_write, args=(folder, kinds)
    )
    worker.start()
    worker.join()
    if worker.exitcode:
        raise RuntimeError("no samples were written")


def _write(folder: Path, kinds: Sequence[str]) -> None:
    for name in kinds:
        (folder / name).mkdir(parents=True)
        KINDS[name].write(folder / name)


def fuzz(
    kinds: Sequence[str], seeds: Sequence[int], mutations: int, state: Path | None
) -> list[Tally]:
    """Run ``mutations`` mutations for each seed, shared by the kinds; what the file
    ``state`` has is not repeated.
    """
    tallies = (
        []
        if state is None or not state.exists()
        else [_parsed(line) for line in state.open()]
    )
    done = {(tally.kind, tally.seed) for tally in tallies}
    with tempfile.TemporaryDirectory() as folder:
        write_originals(Path(folder), kinds)
        for seed in seeds:
            for place, kind in enumerate(kinds):
                if (kind, seed) in done:
                    continue
                tally = Tally(kind, seed)
                share = mutations // len(kinds)
                if place < mutations % len(kinds):
                    share += 1
                for outcome in run(kind, seed, range(share), Path(folder)):
                    tally.add(outcome)
                tallies.append(tally)
                if state is not None:
                    with state.open("a") as stream:
                        stream.write(
                            json.dumps(
                                {
                                    **vars(tally),
                                    "findings": [vars(each) for each in tally.findings],
                                }
                            )
                            + "\n"
                        )
                print(_row(tally.kind, [tally]), flush=True)
    return tallies


def _parsed(line: str) -> Tally:
    content = json.loads(line)
    findings = [Outcome(**each) for each in content.pop("findings")]
    return Tally(
        **{**content, "counts": Counter(content["counts"]), "findings": findings}
    )


def _row(name: str, tallies: Sequence[Tally]) -> str:
    counts: Counter[str] = sum((tally.counts for tally in tallies), Counter[str]())
    findings = sum(len(tally.findings) for tally in tallies)
    slowest = max(tally.slowest for tally in tallies)
    peak = max(tally.peak for tally in tallies)
    total = sum(counts.values())
    return (
        f"| {name} | {total:,} | {counts['read']:,} | {counts['refused']:,} |"
        f" {findings:,} | {slowest:.2f} s | {peak / 2**20:.0f} MB |"
    )


def table(tallies: Sequence[Tally]) -> str:
    """Return a Markdown table of the results, with a line for each kind and one for
    all.
    """
    lines = [
        "| kind | mutations | read | refused | findings | slowest | most memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys(tally.kind for tally in tallies):
        lines.append(_row(kind, [tally for tally in tallies if tally.kind == kind]))
    return "\n".join([*lines, _row("all", tallies)])


def report(tallies: Sequence[Tally]) -> str:
    """Return the findings: those that end in the same line of code once, with their
    number.
    """
    groups: dict[str, list[str]] = {}
    for tally in tallies:
        for each in tally.findings:
            last = [
                line for line in each.detail.strip().splitlines() if "orca_ray" in line
            ][-1:]
            why = each.detail.strip().splitlines()[-1:] or [""]
            where = (
                f"{tally.kind} seed {tally.seed} only {each.number}: {each.change}"
                f" ({each.peak / 2**20:.0f} MB)"
            )
            groups.setdefault(
                f"{each.result} {''.join(last)} {why[0][:200]}", []
            ).append(where)
    ordered = sorted(groups.items(), key=lambda pair: -len(pair[1]))
    return "\n".join(
        f"{len(places)} × {what}\n    {places[0]}" for what, places in ordered
    )


def main() -> int:
    """Run the fuzzer from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--mutations",
        type=int,
        default=20_000,
        help="for each seed, shared by the kinds",
    )
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds: 0, 1, …")
    parser.add_argument("--seed", type=int, help="this seed alone")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument(
        "--state", type=Path, help="file of results, from which an ended run continues"
    )
    parser.add_argument("--only", type=int, help="this mutation alone, in this process")
    options = parser.parse_args()
    kinds = options.kinds.split(",")
    seeds = range(options.seeds) if options.seed is None else [options.seed]
    if options.only is not None:
        with tempfile.TemporaryDirectory() as folder:
            write_originals(Path(folder), kinds)
            signal.signal(signal.SIGPROF, _late)
            sample, change = mutated(
                kinds[0], seeds[0], options.only, Path(folder), Path(folder, "mutated")
            )
            print(change)
            print(outcome_of(sample, options.only, change))
            return 0
    tallies = fuzz(kinds, seeds, options.mutations, options.state)
    print(table(tallies))
    print(report(tallies))
    return int(any(tally.findings for tally in tallies))


if __name__ == "__main__":
    sys.exit(main())
