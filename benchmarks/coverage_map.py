"""Which tests execute each line of the package: measured by a plugin of pytest, and
read to choose tests for a line.

A copy of this module is that plugin, also in processes that tests start. It needs the
package ``coverage``.
"""

import ast
import atexit
import contextlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # the plugin is copied alone
    from benchmarks.mutation import Source

PLUGIN = "mutants_coverage"
CHILD = f"""\
import os
if os.environ.get("MUTANTS_CONTEXT"):
    import {PLUGIN}
    {PLUGIN}.measure_child()
"""
"""A `sitecustomize`, which every Python process imports that has the plugin's folder on
PYTHONPATH.
"""
MANY = 50
"""A shared fixture with more tests says little about what they are for."""


def copy_tree(source: Path, target: Path) -> None:
    """Copy a tree without what tools have left in it."""
    left_out = shutil.ignore_patterns(
        ".git",
        ".venv",
        "__pycache__",
        ".*_cache",
        ".hypothesis",
        "node_modules",
        "build",
    )
    shutil.copytree(source, target, ignore=left_out, symlinks=True)


def measure(tree: Path, package: str, arguments: list[str]) -> dict[str, Any]:
    """Run the tests of a copy of ``tree`` once, and return the contexts of each line,
    the tests and shared fixtures.

    A context is a test, a shared fixture, or ``ray`` for all tests marked so, whose
    processes outlive a test.
    """
    with tempfile.TemporaryDirectory() as scratch:
        copy, plugin, parts = (
            Path(scratch, each) for each in ("tree", "plugin", "parts")
        )
        copy_tree(tree, copy)
        plugin.mkdir()
        parts.mkdir()
        shutil.copy(__file__, plugin / f"{PLUGIN}.py")
        (plugin / "sitecustomize.py").write_text(CHILD)
        paths = [
            str(plugin),
            str(copy),
            *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)),
        ]
        variables = {
            "PYTHONPATH": os.pathsep.join(paths),
            "MUTANTS_SOURCE": str(copy / package),
            "MUTANTS_PARTS": str(parts),
        }
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            PLUGIN,
            "-p",
            "no:cacheprovider",
            *arguments,
        ]
        subprocess.run(command, cwd=copy, env=os.environ | variables, check=False)
        return _join(parts, copy)


def _join(parts: Path, tree: Path) -> dict[str, Any]:
    tests: dict[str, Any] = {}
    fixtures: dict[str, float] = {}
    for path in parts.glob("*.jsonl"):
        for line in map(json.loads, path.read_text().splitlines()):
            if "test" in line:
                tests[line.pop("test")] = line
            else:
                fixtures[line["fixture"]] = line["seconds"]
    lines: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    numbers: dict[str, int] = {}
    for path in parts.glob("*.coverage"):
        data = importlib.import_module("coverage").CoverageData(basename=str(path))
        with contextlib.suppress(Exception):  # a process was killed while it wrote
            data.read()
            for file in data.measured_files():
                for number, contexts in data.contexts_by_lineno(file).items():
                    found = (
                        numbers.setdefault(each, len(numbers)) for each in contexts
                    )
                    lines[str(Path(file).relative_to(tree))][number].update(found)
    kept = {
        file: {number: sorted(each) for number, each in found.items()}
        for file, found in lines.items()
    }
    return {
        "tests": tests,
        "fixtures": fixtures,
        "contexts": list(numbers),
        "lines": kept,
    }


# The plugin.


def pytest_configure(config: pytest.Config) -> None:
    """Measure in processes that run tests, not in the one that distributes them."""
    if not config.getoption("numprocesses", None) or hasattr(config, "workerinput"):
        config.pluginmanager.register(_Plugin())


def measure_child() -> None:
    """Measure this process for the test that runs, and write every other second: many
    processes are killed.
    """
    ray = any("default_worker" in each for each in sys.orig_argv)
    coverage = _started("ray" if ray else os.environ["MUTANTS_CONTEXT"])

    def write() -> None:
        while True:
            time.sleep(2)
            coverage.save()

    threading.Thread(target=write, daemon=True).start()
    atexit.register(coverage.save)


def _started(context: str) -> Any:
    """Return started coverage of the package, which writes to a file of its own."""
    handle, data = tempfile.mkstemp(suffix=".coverage", dir=os.environ["MUTANTS_PARTS"])
    os.close(handle)
    module = importlib.import_module("coverage")
    source = [os.environ["MUTANTS_SOURCE"]]
    coverage = module.Coverage(
        data_file=data, source=source, context=context or None, config_file=False
    )
    coverage.start()
    return coverage


class _Plugin:
    """Writes for each test its seconds, whether it passed, and its shared fixtures; the
    lines are coverage's.
    """

    def __init__(self) -> None:
        self._coverage = _started("")
        self._out = Path(os.environ["MUTANTS_PARTS"], f"{os.getpid()}.jsonl")
        self._context = ""
        self._seconds_of_fixtures = 0.0
        self._passed = False

    def _switch(self, context: str) -> str:
        before = self._context
        self._context = context
        self._coverage.switch_context(context)
        os.environ["MUTANTS_CONTEXT"] = context
        return before

    def _write(self, **line: object) -> None:
        with self._out.open("a") as out:
            out.write(json.dumps(line) + "\n")

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        definitions = getattr(item, "_fixtureinfo").name2fixturedefs.values()  # noqa: B009 - private in pytest 9
        fixtures = [
            _context_of(each[-1])
            for each in definitions
            if each[-1].scope != "function"
        ]
        self._passed = False
        self._seconds_of_fixtures = 0.0
        start = time.perf_counter()
        self._switch(item.nodeid)
        yield
        self._switch("")
        seconds = time.perf_counter() - start - self._seconds_of_fixtures
        ray = item.get_closest_marker("ray") is not None
        self._write(
            test=item.nodeid,
            seconds=seconds,
            passed=self._passed,
            ray=ray,
            fixtures=fixtures,
        )

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
        if fixturedef.scope == "function":
            yield
            return
        before = self._switch(_context_of(fixturedef))
        start = time.perf_counter()
        earlier = self._seconds_of_fixtures
        yield
        seconds = time.perf_counter() - start
        self._seconds_of_fixtures = earlier + seconds
        self._write(fixture=self._switch(before), seconds=seconds)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self._passed = report.passed and not hasattr(report, "wasxfail")
        elif report.failed:
            self._passed = False

    def pytest_unconfigure(self) -> None:
        self._coverage.stop()
        self._coverage.save()


def _context_of(fixture: Any) -> str:
    return f"fixture {fixture.baseid}::{fixture.argname}"


# Reading.


def module_of(test: str) -> str:
    """Return the file of a test."""
    return test.partition("::")[0]


def function_of(test: str) -> str:
    """Return the name of a test without the case."""
    return test.partition("[")[0]


class CoverageMap:
    """Results of `measure` for the modules ``sources``, in one or more files."""

    def __init__(self, paths: Iterable[Path], sources: Iterable["Source"]) -> None:
        self._sources = {each.file: each for each in sources}
        self._tests: dict[str, Any] = {}
        self._fixtures: dict[str, float] = {}
        self._lines: dict[str, dict[int, set[str]]] = defaultdict(
            lambda: defaultdict(set)
        )
        for path in paths:
            read = json.loads(path.read_text())
            self._tests |= read["tests"]
            self._fixtures |= read["fixtures"]
            for file, lines in read["lines"].items():
                for line, contexts in lines.items():
                    self._lines[file][int(line)].update(
                        read["contexts"][each] for each in contexts
                    )
        self._users: dict[str, set[str]] = defaultdict(set)
        for test, about in self._tests.items():
            for context in (
                test,
                *about["fixtures"],
                *(["ray"] if about["ray"] else []),
            ):
                self._users[context].update([test] if about["passed"] else [])
        self._share = self._shares()

    def _shares(self) -> dict[str, dict[str, float]]:
        """Return for each module, of the lines in functions that a test executes, the
        share in this module.
        """
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        total: Counter[str] = Counter()
        for file, source in self._sources.items():
            for number in filter(source.called.__getitem__, self._lines.get(file, ())):
                for context in self._lines[file][number]:
                    counts[file].update(
                        self._users[context]
                        if len(self._users[context]) <= MANY
                        else ()
                    )
            total.update(counts[file])
        return {
            file: {test: count / total[test] for test, count in each.items()}
            for file, each in counts.items()
        }

    def seconds(self, tests: Iterable[str]) -> float:
        """Return the seconds of tests, as measured, without their shared fixtures."""
        return float(sum(self._tests[each]["seconds"] for each in tests))

    def choose(
        self, source: "Source", line: int, count: int, *, most: int, seconds: float
    ) -> list[str]:
        """Return at most ``most`` tests of at most ``seconds`` for ``count`` lines,
        cheap modules of tests first.

        They alternate between those that execute little else than the module and the
        fastest ones, with at most three cases of one test function. If they are too
        few, tests of other lines of the module follow: what runs at import, in a
        fixture or behind a cache is not always executed by each test that depends on
        it.
        """
        direct = self._executing(source, line, count)
        if direct is None:
            return []
        share = self._share.get(source.file, {})
        special = sorted(
            direct,
            key=lambda each: (-share.get(each, 0), self._tests[each]["seconds"], each),
        )
        fast = sorted(direct, key=lambda each: (self._tests[each]["seconds"], each))
        ranked = [each for pair in zip(special, fast, strict=True) for each in pair]
        others = sorted(share.keys() - direct, key=lambda each: (-share[each], each))
        if not ranked and not others:
            others = sorted(
                each
                for each in self._tests
                if f"/{source.room}/" in each and self._tests[each]["passed"]
            )
        chosen: list[str] = []
        ready: set[tuple[str, str]] = set()
        for test in dict.fromkeys(
            [*_few_cases(ranked), *_few_cases(others), *ranked, *others]
        ):
            fixtures = {
                (module_of(test), each) for each in self._tests[test]["fixtures"]
            } - ready
            cost = self.seconds([test]) + sum(
                self._fixtures.get(each, 0) for _, each in fixtures
            )
            if cost <= seconds and len(chosen) < most:
                chosen.append(test)
                ready |= fixtures
                seconds -= cost
        cost_of_module: Counter[str] = Counter()
        for test in chosen:
            cost_of_module[module_of(test)] += self._tests[test]["seconds"]
        return sorted(
            chosen,
            key=lambda each: (
                cost_of_module[module_of(each)],
                module_of(each),
                self.seconds([each]),
            ),
        )

    def _executing(self, source: "Source", line: int, count: int) -> set[str] | None:
        """Return the tests that execute the lines; for what runs at import, those that
        execute lines with its name.

        None: no test executes the lines.
        """
        lines = self._lines.get(source.file, {})
        statement = source.statements[line]
        if not source.called[line]:
            return self._naming(source, line, statement) if lines else None
        numbers = [each for each in range(line, line + count) if each in lines]
        if not numbers and statement and statement.lineno in lines:
            numbers = [statement.lineno]
        return (
            {
                test
                for each in numbers
                for context in lines[each]
                for test in self._users[context]
            }
            if numbers
            else None
        )

    def _naming(
        self, source: "Source", line: int, statement: ast.stmt | None
    ) -> set[str]:
        match statement:
            case (
                ast.Assign(targets=[ast.Name(id=name), *_])
                | ast.AnnAssign(target=ast.Name(id=name))
            ):
                bound = name
            case _:
                bound = (
                    source.functions[line].rpartition(".")[2] or Path(source.file).stem
                )
        word = re.compile(rf"\b{re.escape(bound)}\b")
        tests: set[str] = set()
        for file, other in self._sources.items():
            for number, contexts in self._lines.get(file, {}).items():
                if other.called[number] and word.search(other.lines[number]):
                    tests.update(
                        test for each in contexts for test in self._users[each]
                    )
        return tests


def _few_cases(tests: Iterable[str]) -> Iterator[str]:
    cases: Counter[str] = Counter()
    for test in dict.fromkeys(tests):
        cases[function_of(test)] += 1
        if cases[function_of(test)] <= 3:
            yield test
