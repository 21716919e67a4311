"""Build the wheel and the source archive, and install both in empty environments.

    python -m benchmarks.release_check python3.11 python3.12 python3.13
    python -m benchmarks.release_check python3.11 --extras sweep,trees

Each Python gets an environment for each of the two files, with the dependencies of the
base installation, in which commands run outside of the checkout. With ``--extras``, a
model is also trained and used. Needs only Python, and a package index for the
dependencies. Ends with 1 at the first command that fails.
"""

# ruff: noqa: T201 - prints a table

import argparse
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The checkout."""

DATA = (".toml", ".yaml", ".html", ".csv", ".txt", ".js", ".css", ".typed")
"""Endings of the files of the package that are no code."""

COMMANDS: tuple[tuple[str, ...], ...] = (
    ("--version",),
    ("--help",),
    ("tasks", "pocket"),
    ("methods",),
    ("leaderboard", "nasbench360", "-o", "board.html"),
)
"""Arguments of ``orca-sweep`` that work in the base installation."""

TRAINING: tuple[tuple[str, ...], ...] = (
    ("plan", "pocket"),
    ("benchmark", "pocket", "--dry-run"),
    (
        *("adapt", "plants.csv", "--target", "kind", "--methods", "linear"),
        *("--executor", "inline", "--minutes", "0.2", "--out", "model"),
    ),
    ("predict", "model", "plants.csv", "-o", "predictions.csv"),
)
"""Arguments of ``orca-sweep`` that need the extra ``sweep``."""

Run = Callable[..., str]
"""Function that runs a program with arguments, and returns what it prints."""


def run_in(directory: Path) -> Run:
    """Return a function that runs programs in a directory, with a cache of its own.

    It ends this process with what a program has printed if the program fails.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ORCA_", "PYTHON"))
    }
    environment["ORCA_RAY_HOME"] = str(directory / "home")

    def run(*words: str | Path) -> str:
        completed = subprocess.run(
            words, cwd=directory, env=environment, capture_output=True, text=True
        )
        if completed.returncode != 0:
            print(completed.stdout[-3000:] + completed.stderr[-3000:])
            sys.exit(f"failed: {' '.join(map(str, words))}")
        return completed.stdout

    return run


def make_environment(run: Run, python: str, directory: Path) -> Path:
    """Make an empty virtual environment; return the folder of its programs."""
    run(python, "-m", "venv", directory)
    return directory / "bin"


def build(scratch: Path) -> tuple[Path, Path]:
    """Build the files that git tracks; return the wheel and the source archive."""
    run = run_in(scratch)
    programs = make_environment(run, sys.executable, scratch / "build")
    run(programs / "pip", "install", "--quiet", "build")
    source = scratch / "source"
    for name in run("git", "-C", ROOT, "ls-files", "-z").split("\0"):
        tracked = ROOT / name
        if tracked.is_file():
            copy = source / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(tracked, copy)
    run(programs / "python", "-m", "build", "--outdir", scratch / "dist", source)
    [wheel] = (scratch / "dist").glob("*.whl")
    [archive] = (scratch / "dist").glob("*.tar.gz")
    return wheel, archive


def missing_data(wheel: Path, archive: Path) -> Iterator[str]:
    """Yield the data files of the package that one of the two files lacks."""
    with zipfile.ZipFile(wheel) as zipped:
        in_wheel = set(zipped.namelist())
    with tarfile.open(archive) as tar:
        in_archive = {name.partition("/")[2] for name in tar.getnames()}
    for folder, place in (("orca_ray", "orca_ray"), ("sweeps", "orca_ray/sweeps")):
        for path in (ROOT / folder).rglob("*"):
            name = path.relative_to(ROOT / folder).as_posix()
            if path.suffix not in DATA or not path.is_file():
                continue
            if f"{place}/{name}" not in in_wheel:
                yield f"{wheel.name}: {place}/{name}"
            if f"{folder}/{name}" not in in_archive:
                yield f"{archive.name}: {folder}/{name}"


def write_plants(path: Path) -> None:
    """Write a table of two classes that differ in one column."""
    numbers = random.Random(0)
    lines = ["height,width,kind"]
    for row in range(80):
        height = numbers.gauss(3 * (row % 2), 1)
        width = numbers.gauss(0, 1)
        kind = ("fern", "moss")[row % 2]
        lines.append(f"{height:.3f},{width:.3f},{kind}")
    path.write_text("\n".join(lines) + "\n")


def check(python: str, package: Path, extras: str, directory: Path) -> str:
    """Install a file in an empty environment and run commands there.

    Returns a line of the table: what was installed, on which Python, and the seconds.
    """
    directory.mkdir()
    run = run_in(directory)
    begin = time.monotonic()
    programs = make_environment(run, python, directory / "venv")
    requirement = f"{package}[{extras}]" if extras else str(package)
    run(programs / "pip", "install", "--quiet", requirement)
    installed = time.monotonic()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    commands = [*COMMANDS]
    if extras:
        write_plants(directory / "plants.csv")
        commands += TRAINING
    outputs = [run(programs / "orca-sweep", *words) for words in commands]
    if outputs[0] != f"orca-ray {version}\n":
        sys.exit(f"{package.name}: --version prints {outputs[0]!r}, not {version}")
    if (directory / "board.html").stat().st_size < 100_000:
        sys.exit(f"{package.name}: the page of a board lacks its data")
    number = run(python, "-c", "import sys; print(sys.version.split()[0])").strip()
    seconds = installed - begin
    commands_seconds = time.monotonic() - installed
    return (
        f"{package.name:36} {number:8} {extras or 'base':12}"
        f" {seconds:6.0f} {len(commands):9} {commands_seconds:6.0f}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Build, check the contents, and check each installation."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], allow_abbrev=False
    )
    parser.add_argument("pythons", nargs="*", default=[sys.executable])
    parser.add_argument(
        "--extras", default="", help="extras to install, e.g. sweep,trees"
    )
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="orca-release-") as folder:
        scratch = Path(folder)
        files = build(scratch)
        for file in files:
            print(f"{file.name}: {file.stat().st_size / 1e6:.2f} MB", flush=True)
        missing = list(missing_data(*files))
        if missing:
            sys.exit("missing: " + ", ".join(missing))
        print(f"{'file':36} {'Python':8} {'extras':12} {'inst s':>6}  commands  run s")
        for python in options.pythons:
            for file in files:
                number = len(list(scratch.iterdir()))
                directory = scratch / str(number)
                print(check(python, file, options.extras, directory), flush=True)
                shutil.rmtree(directory / "venv")


if __name__ == "__main__":
    main()
