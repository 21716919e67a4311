"""Share of mutants of the package that the tests kill, for each room (folder of the
package).

A mutant is the package with one small fault, e.g. ``<`` for ``<=``. The tests kill it
if one of them fails. ::

    python benchmarks/mutants.py sample --json sample.json
    python benchmarks/mutants.py cover --json cover.json -- tests -n 2
    python benchmarks/mutants.py run --sample sample.json --cover cover.json \
        --json before.jsonl
    python benchmarks/mutants.py table before.jsonl after.jsonl

Of the tests that execute the changed line, a limited number runs, so the share is a
lower bound. ``run`` works on a copy of ``--tree`` and continues an earlier run. A
mutant may delete files and end processes: run it where that does no harm. ``cover``
needs the package ``coverage`` on PYTHONPATH.
"""

# ruff: noqa: T201 - a benchmark prints its table

import argparse
import contextlib
import gc
import importlib
import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.coverage_map import (
    CoverageMap,
    copy_tree,
    function_of,
    measure,
    module_of,
)
from benchmarks.mutation import (
    SHARES,
    Mutant,
    Source,
    find,
    is_another_program,
    read_package,
)

ROOT = Path(__file__).resolve().parents[1]
OWN_PATHS = ("", str(ROOT), str(ROOT / "benchmarks"))
PACKAGE = "orca_ray"
LEAST = 8
"""Number of mutants of the smallest room."""
LIBRARIES = (
    "torch",
    "transformers",
    "ray.tune",
    "optuna",
    "sklearn",
    "scipy.stats",
    "pandas",
    "pyarrow.dataset",
    "timm",
    "typer",
    "hypothesis",
)
"""Imported once: each mutant runs in a fork."""
TIME_OUT = "time-out"
END = "end of the process"
PATIENCE = 120.0, 5.0
"""Seconds, and multiple of the seconds that its tests took, after which a mutant counts
as killed.
"""


def sample(options: argparse.Namespace) -> None:
    """Draw mutants of every room, in proportion to its lines of code but at least
    eight.
    """
    sources = read_package(options.tree.resolve() / PACKAGE)
    lines: Counter[str] = Counter()
    for source in sources:
        lines[source.room] += sum(
            bool(each.strip()) and not each.strip().startswith("#")
            for each in source.lines
        )
    sizes = {
        room: max(LEAST, round(options.number * count / lines.total()))
        for room, count in lines.items()
    }
    sizes[max(sizes, key=lines.__getitem__)] += options.number - sum(sizes.values())
    drawn = [
        each
        for room in sorted(sizes)
        for each in _draw(sources, room, sizes[room], options.seed)
    ]
    options.json.write_text(json.dumps([asdict(each) for each in drawn], indent=1))
    print(
        f"{len(drawn)} mutants:",
        ", ".join(f"{room} {size}" for room, size in sorted(sizes.items())),
    )


def _draw(sources: list[Source], room: str, size: int, seed: int) -> list[Mutant]:
    """Draw mutants of one room, at most one for a line."""
    rng = random.Random(f"{seed} {room}")
    pools: dict[str, list[tuple[Source, Mutant]]] = defaultdict(list)
    for source in sources:
        for mutant in source.mutants() if source.room == room else ():
            pools[mutant.operator].append((source, mutant))
    drawn: dict[tuple[object, ...], Mutant] = {}
    while len(drawn) < size and any(pools.values()):
        names = sorted(name for name, pool in pools.items() if pool)
        pool = pools[rng.choices(names, [SHARES[each] for each in names])[0]]
        source, mutant = pool.pop(rng.randrange(len(pool)))
        if is_another_program(source, mutant):
            drawn.setdefault(
                (mutant.file, mutant.function, mutant.before, mutant.occurrence), mutant
            )
    return list(drawn.values())


def cover(options: argparse.Namespace) -> None:
    """Run the tests once, and write which of them execute each line."""
    options.json.write_text(
        json.dumps(measure(options.tree.resolve(), PACKAGE, options.arguments))
    )


class Chosen:
    """Plugin of pytest that runs chosen tests in their order, and remembers the first
    that fails.
    """

    def __init__(self, tests: list[str]) -> None:
        self._order = {each: number for number, each in enumerate(tests)}
        self.failed = ""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted(
            (each for each in items if each.nodeid in self._order),
            key=lambda each: self._order[each.nodeid],
        )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed = self.failed or (report.nodeid if report.failed else "")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.failed = self.failed or (report.nodeid if report.failed else "")


class Copy:
    """A copy of the tree, for one mutant after the other, whose tests run in forks of
    this process.
    """

    def __init__(self, tree: Path, scratch: Path) -> None:
        self._tree = scratch / "tree"
        self._scratch = scratch
        self._token = f"{os.getpid()}-{time.time()}"
        copy_tree(tree, self._tree)

    def write(self, file: str, text: str, number: int) -> None:
        """Write a module, with a time of its own: the compiled file of another mutant
        must not be used for it.
        """
        (self._tree / file).write_text(text)
        os.utime(self._tree / file, (number, number))

    def test(self, tests: list[str], limit: float) -> str:
        """Run ``tests`` until one fails, and return its id, or `TIME_OUT`, or `END`; an
        empty text if all pass.
        """
        result = self._scratch / "result"
        result.unlink(missing_ok=True)
        shutil.rmtree(self._tree / ".hypothesis", ignore_errors=True)
        if not (child := os.fork()):
            self._test_here(tests, result)
        watch = select.poll()
        watch.register(process := os.pidfd_open(child), select.POLLIN)
        if not (ended := watch.poll(limit * 1000)):
            os.kill(child, signal.SIGKILL)
        os.close(process)
        os.waitpid(child, 0)
        self._end_children(child)
        return (result.read_text() if result.exists() else END) if ended else TIME_OUT

    def _test_here(self, tests: list[str], result: Path) -> None:
        os.setsid()
        log = os.open(self._scratch / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor, target in (
            (os.open(os.devnull, os.O_RDONLY), 0),
            (log, 1),
            (log, 2),
        ):
            os.dup2(descriptor, target)
        os.chdir(self._tree)
        os.environ |= {"PYTHONPATH": str(self._tree), "MUTANTS_RUN": self._token}
        sys.path[:] = [
            str(self._tree),
            *(each for each in sys.path if each not in OWN_PATHS),
        ]
        for name in [
            each for each in sys.modules if each.partition(".")[0] == "benchmarks"
        ]:
            del sys.modules[name]
        chosen = Chosen(tests)
        options = [
            "-x",
            "-n",
            "0",
            "-p",
            "no:cacheprovider",
            "--hypothesis-seed=0",
            "--timeout=200",
        ]
        options += [
            f"--basetemp={self._scratch / 't'}",
            *dict.fromkeys(map(function_of, tests)),
        ]
        code = -1
        with contextlib.suppress(BaseException):  # a mutant may raise anything
            code = pytest.main(options, plugins=[chosen])
        result.write_text(chosen.failed or ("" if code in (0, 1, 5) else END))
        os._exit(0)

    def _end_children(self, child: int) -> None:
        """End what the tests have left: the processes of the fork, and those with our
        variable in their environment.
        """
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        mark = f"MUTANTS_RUN={self._token}".encode()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    os.kill(int(process.name), signal.SIGKILL)


class Killing:
    """Finds for each mutant the test that kills it, on a copy of the tree."""

    def __init__(
        self,
        options: argparse.Namespace,
        copy: Copy,
        sources: list[Source],
        covered: CoverageMap,
    ) -> None:
        self._options = options
        self._copy = copy
        self._sources = sources
        self._covered = covered
        self._reliable: set[str] = set()
        self._unreliable: set[str] = set()

    def run(self, mutant: Mutant, number: int) -> dict[str, object]:
        """Return the state of a mutant: killed (by which test), survived, uncovered,
        unclear, or gone from the tree.
        """
        if not (place := find(mutant, self._sources)):
            return {"state": "gone"}
        source, line = place
        most = self._options.tests
        seconds = self._options.seconds
        chosen = self._covered.choose(
            source, line, len(mutant.before), most=most, seconds=seconds
        )
        while tests := [
            each for each in chosen if function_of(each) not in self._unreliable
        ]:
            self._copy.write(
                source.file, source.replace(line, mutant.after), number + 1
            )
            killer = self._copy.test(tests, self._limit(tests))
            self._copy.write(source.file, source.text, 0)
            if not killer:
                return {"state": "survived", "tests": len(tests)}
            if killer == TIME_OUT or function_of(killer) in self._reliable:
                return {"state": "killed", "tests": len(tests), "killer": killer}
            # Does it pass without the mutant?
            suspects = [
                each for each in tests if killer in (each, module_of(each))
            ] or tests
            failed = self._copy.test(suspects, self._limit(suspects))
            if failed in (TIME_OUT, END):
                return {"state": "unclear", "tests": len(tests), "killer": killer}
            if not failed:
                self._reliable.update({function_of(killer)} - {END})
                return {"state": "killed", "tests": len(tests), "killer": killer}
            self._unreliable.update(
                function_of(each)
                for each in suspects
                if failed in (each, module_of(each))
            )
        return {"state": "uncovered"}

    def _limit(self, tests: list[str]) -> float:
        return PATIENCE[0] + PATIENCE[1] * self._covered.seconds(tests)


def run(options: argparse.Namespace) -> None:
    """Run the tests that execute the changed lines, for each mutant, and append a line
    of JSON for each.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported
    done = set(_results(options.json)) if options.json.exists() else set()
    texts = (
        {**each, "before": tuple(each["before"]), "after": tuple(each["after"])}
        for each in json.loads(options.sample.read_text())
    )
    waiting = [
        (number, Mutant(**each))
        for number, each in enumerate(texts)
        if number not in done
    ]
    random.Random(0).shuffle(waiting)  # so that the first results are a sample, too
    sources = read_package(options.tree.resolve() / PACKAGE)
    covered = CoverageMap(options.cover, sources)
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()

    def work(job: int) -> None:
        with (
            tempfile.TemporaryDirectory(prefix="m") as scratch,
            options.json.open("a", buffering=1) as out,
        ):
            killing = Killing(
                options, Copy(options.tree.resolve(), Path(scratch)), sources, covered
            )
            for number, mutant in waiting[job :: options.jobs]:
                start = time.perf_counter()
                found = killing.run(mutant, number)
                line = {
                    "number": number,
                    **asdict(mutant),
                    **found,
                    "seconds": round(time.perf_counter() - start, 1),
                }
                out.write(json.dumps(line) + "\n")

    workers = [
        get_context("fork").Process(target=work, args=(job,))
        for job in range(options.jobs)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    table(argparse.Namespace(results=[options.json]))


def _results(path: Path) -> dict[int, Any]:
    return {
        each["number"]: each for each in map(json.loads, path.read_text().splitlines())
    }


def table(options: argparse.Namespace) -> None:
    """Print for each room how many mutants are killed, with those gone from the tree
    left out, and the survivors.
    """
    runs = [_results(path) for path in options.results]
    print(f"{'room':12}", *(f"{path.stem:>16}" for path in options.results))
    for room in [*sorted({each["room"] for each in runs[0].values()}), "all"]:
        cells = []
        for results in runs:
            states = Counter(
                each["state"]
                for each in results.values()
                if room in (each["room"], "all")
            )
            found = states.total() - states["gone"]
            cells.append(
                f"{states['killed']:4} of {found:3}"
                f" {states['killed'] / max(1, found):5.0%}"
            )
        print(f"{room:12}", *cells)
    for path, results in zip(options.results, runs, strict=True):
        print(f"\n{path.stem}: not killed")
        for each in results.values():
            if each["state"] != "killed":
                before, after = next(
                    pair
                    for pair in zip(each["before"], each["after"], strict=True)
                    if len(set(pair)) > 1
                )
                print(
                    f"  {each['number']:3} {each['state']:9} {each['file']}"
                    f" {each['function']}: {before}  ->  {after}"
                )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for call in (sample, cover, run, table):
        command = commands.add_parser(call.__name__, help=call.__doc__)
        command.set_defaults(call=call)
        if call is table:
            command.add_argument("results", nargs="+", type=Path)
            continue
        command.add_argument("--tree", type=Path, default=ROOT)
        command.add_argument("--json", type=Path, required=True)
        if call is sample:
            command.add_argument("--number", type=int, default=320)
            command.add_argument("--seed", type=int, default=0)
        if call is cover:
            command.add_argument(
                "arguments", nargs="*", help="arguments of pytest, after --"
            )
        if call is run:
            command.add_argument("--sample", type=Path, required=True)
            command.add_argument("--cover", type=Path, nargs="+", required=True)
            command.add_argument("--jobs", type=int, default=1)
            command.add_argument(
                "--tests", type=int, default=40, help="most tests for a mutant"
            )
            command.add_argument(
                "--seconds",
                type=float,
                default=90,
                help="most seconds of tests for a mutant, as `cover` measured them",
            )
    options = parser.parse_args()
    options.call(options)


if __name__ == "__main__":
    main()
