"""Wheel and source distribution, and the plug-in in `examples`.

Of the distributions: what they hold, and that they work installed. Of the plug-in: its
own tests, a sweep with all that it brings, and the documentation.
"""

import email
import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from typing import Literal

import pytest
import yaml

import orca_ray
from orca_ray.discovery import GROUPS
from orca_ray.results.store import ResultsStore
from orca_ray.testing.suite import make_home, save_tokenizer
from tests.docs.pages import ROOT
from tests.plug_in_packages import EXAMPLE

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def build(kind: Literal["wheel", "sdist"], source: Path, out: Path) -> Path:
    """Build the wheel or the source distribution of a checkout; return its path.

    No network is used.
    """
    code = (
        f"import sys; from hatchling.build import build_{kind};"
        f" print(build_{kind}(sys.argv[1]))"
    )
    completed = subprocess.run(
        [sys.executable, "-c", code, str(out)],
        cwd=source,
        capture_output=True,
        text=True,
    )
    assert completed.returncode == 0, completed.stderr
    return out / completed.stdout.split()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def files(directory: Path) -> set[str]:
    """Return the paths of the files under a directory, without compiled ones."""
    return {
        str(path.relative_to(directory))
        for path in directory.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_the_sweeps_and_nothing_else(
    wheel: Path,
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        contents = {
            name.partition(".dist-info/")[2] or name: archive.read(name)
            for name in archive.namelist()
        }
    information = {
        "METADATA",
        "WHEEL",
        "RECORD",
        "entry_points.txt",
        "licenses/LICENSE",
    }
    package = {f"orca_ray/{name}" for name in files(ROOT / "orca_ray")}
    sweeps = {f"orca_ray/sweeps/{name}" for name in files(ROOT / "sweeps")}
    assert set(contents) == package | sweeps | information
    for name in (
        "orca_ray/py.typed",
        "orca_ray/sweeps/pocket.yaml",
        "orca_ray/leaderboard/page/page.js",
    ):
        assert name in contents
    metadata = email.message_from_bytes(contents["METADATA"])
    assert metadata["Version"] == PROJECT["version"]
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert "# orca-ray" in str(metadata.get_payload())
    assert b"orca-sweep = orca_ray.cli.main:entry" in contents["entry_points.txt"]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_source_distribution_gives_the_same_wheel(
    wheel: Path, tmp_path: Path
) -> None:
    archive = build("sdist", ROOT, tmp_path)
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    source = tmp_path / archive.name.removesuffix(".tar.gz")
    names = {
        ".gitignore",
        "PKG-INFO",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "CITATION.cff",
    }
    assert {path.name for path in source.iterdir()} == {"orca_ray", "sweeps", *names}
    rebuilt = build("wheel", source, tmp_path)
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(rebuilt) as second:
        assert first.namelist() == second.namelist()


@pytest.mark.slow
@pytest.mark.exhaustive
def test_an_installed_wheel_works_outside_of_the_checkout(
    wheel: Path, tmp_path: Path
) -> None:
    target = tmp_path / "installed"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-compile",
    ]
    subprocess.run(
        [*pip, "--disable-pip-version-check", "--target", target, wheel], check=True
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(target),
        "ORCA_RAY_HOME": str(tmp_path / "home"),
    }

    def sweep(*arguments: str) -> str:
        command = [str(target / "bin" / "orca-sweep"), *arguments]
        completed = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert completed.returncode == 0, completed.stderr
        return completed.stdout

    assert sweep("--version") == f"orca-ray {PROJECT['version']}\n"
    assert "digits" in sweep("benchmark", "pocket", "--dry-run")
    tasks = sweep("tasks").split()
    assert {"drug/ctrp", "drug/gdsc", "domainnet/sketch"} <= set(tasks)
    methods = sweep("methods").split()
    assert {"joint", "mona", "pare", "recraft", "recraft_code"} <= set(methods)
    assert "drug/published" in sweep("plan", "drug")
    sweep("leaderboard", "nasbench360", "-o", "page.html")
    assert len((tmp_path / "page.html").read_text()) > 100_000


def test_one_version_of_package_changes_images_and_citation() -> None:
    version = PROJECT["version"]
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert version == orca_ray.__version__ == cited["version"]
    changes = (ROOT / "CHANGELOG.md").read_text()
    released = re.findall(r"^## (\d\S*) \((.+)\)$", changes, re.MULTILINE)
    assert released[0] == (version, str(cited["date-released"]))
    assert f"Version {version}" in (ROOT / "docs" / "citing.md").read_text()
    images = {
        tag
        for path in [*(ROOT / "cluster").iterdir(), ROOT / "docs" / "cluster.md"]
        if path.is_file()
        for tag in re.findall(r"orca-ray(?:-serve)?:(\d[\w.]*)", path.read_text())
    }
    assert images == {version}


def test_the_citation_names_software_and_paper() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {
        "cff-version",
        "message",
        "title",
        "authors",
        "version",
        "date-released",
        "license",
        "references",
    } <= set(cited)
    [paper] = cited["references"]
    assert paper["title"] == "Cross-Modal Fine-Tuning: Align then Refine"
    assert paper["authors"][0]["family-names"] == "Shen"


PAGE = ROOT / "docs" / "plug-ins.md"
SWEEP = Path(__file__).with_name("example.yaml").read_text()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory that the example is installed into, without a network."""
    source = tmp_path_factory.mktemp("source")
    site = tmp_path_factory.mktemp("site")
    package = copytree(EXAMPLE, source / EXAMPLE.name)
    options = [
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        "--disable-pip-version-check",
        "--quiet",
    ]
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        *options,
        "--target",
        str(site),
        str(package),
    ]
    subprocess.run(command, check=True, timeout=120)
    return site


def beside(site: Path, **variables: str) -> Mapping[str, str]:
    """Return the environment of processes that find orca-ray and the example."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]),
        **variables,
    }


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_example_passes_its_tests_and_the_conformance_suites(
    site: Path, tmp_path: Path
) -> None:
    tests = copytree(EXAMPLE / "tests", tmp_path / "tests")
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nfilterwarnings = error::pytest.PytestWarning\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(tests),
    ]
    completed = subprocess.run(
        command,
        cwd=tmp_path,
        env=beside(site),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert completed.returncode == 0, (
        completed.stdout[-5000:] + completed.stderr[-2000:]
    )
    assert int(re.findall(r"(\d+) passed", completed.stdout)[0]) >= 81
    assert "skipped" not in completed.stdout


def save_gpt_neo(directory: Path) -> str:
    from transformers import GPTNeoConfig, GPTNeoModel

    config = GPTNeoConfig(
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        vocab_size=120,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=0,
        attention_types=[[["global", "local"], 1]],
    )
    GPTNeoModel(config).save_pretrained(directory)
    save_tokenizer(directory)
    return str(directory)


@dataclass(frozen=True)
class ExampleSweep:
    """A directory in which commands find the plug-ins, and a sweep that used them."""

    directory: Path
    environment: Mapping[str, str]

    @property
    def results(self) -> str:
        return str(self.directory / "results")

    @property
    def tracked(self) -> Path:
        return self.directory / "trials.jsonl"

    def run(self, *arguments: str) -> str:
        """Run ``orca-sweep``, and return what it prints."""
        command = [sys.executable, "-m", "orca_ray.cli.main", *arguments]
        completed = subprocess.run(
            command,
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert completed.returncode == 0, completed.stdout + completed.stderr
        return completed.stdout

    def board(self, *options: str) -> str:
        return self.run("leaderboard", "example", "--results", self.results, *options)


@pytest.fixture(scope="module")
def example_sweep(site: Path, tmp_path_factory: pytest.TempPathFactory) -> ExampleSweep:
    """Run a sweep with all that the example package brings."""
    directory = tmp_path_factory.mktemp("example")
    home = make_home(directory / "home")
    sweep = ExampleSweep(directory, beside(site, ORCA_RAY_HOME=str(home)))
    body = save_gpt_neo(directory / "gpt-neo")
    file = directory / "example.yaml"
    file.write_text(f'{SWEEP}bodies: {{sequence: "{body}"}}\n')
    raw = home / "raw" / "example"
    raw.mkdir(parents=True)
    write = (
        "import sys, test_conformance as t; from pathlib import Path;"
        " t.write_tones(Path(sys.argv[1]))"
    )
    subprocess.run(
        [sys.executable, "-c", write, str(raw)],
        cwd=EXAMPLE / "tests",
        env=sweep.environment,
        check=True,
    )
    options = ["--executor", "inline", "--track", f"json_lines:{sweep.tracked}"]
    sweep.run("run", str(file), "--results", sweep.results, *options)
    return sweep


@pytest.mark.slow
@pytest.mark.exhaustive
def test_all_that_it_brings_becomes_a_leaderboard(example_sweep: ExampleSweep) -> None:
    board = example_sweep.board()
    assert re.search(r"^tones .*\d\.\d{4}\*", board, re.MULTILINE)
    assert re.search(r"^worst rank +\d", board, re.MULTILINE)
    document = json.loads(example_sweep.board("--format", "json"))
    num_tasks = {
        method["name"]: method["worst_rank"]["num_tasks"]
        for method in document["methods"]
    }
    assert num_tasks == {"l2sp": 1, "orca": 1}
    assert "worst_rank" in document["statistics"]
    example_sweep.board("-o", "page.html")
    page = (example_sweep.directory / "page.html").read_text()
    assert '"name":"worst_rank"' in page


@pytest.mark.slow
@pytest.mark.exhaustive
def test_all_that_it_brings_stands_in_the_records(example_sweep: ExampleSweep) -> None:
    store = ResultsStore(example_sweep.results)
    records = store.records()
    is_aligned = (records["method"] == "orca") & (records["phase"] == "confirm")
    aligned = records[is_aligned].iloc[0]
    assert aligned["notes"].startswith(
        "from the package orca-ray-example 0.1.0: task example/tones, metric worst_cl"
    )
    assert aligned["notes"].endswith(
        "augmentation sign_flip, distance coral, source recipes"
    )
    assert aligned["align_epochs"] == 2
    assert records["metric"].unique().tolist() == ["worst_class_error"]
    penalised = records[records["method"] == "l2sp"].iloc[0]
    assert json.loads(penalised["hyperparameters"])["l2sp.strength"] > 0
    artefacts = store.artefacts("example/full", [aligned["trial_key"]])
    assert "confidence" in artefacts["kind"].tolist()
    lines = [
        json.loads(line) for line in example_sweep.tracked.read_text().splitlines()
    ]
    assert {line["trial"] for line in lines} == set(records["trial_key"])
    assert sum("test_score" in line for line in lines) == 2


@pytest.mark.slow
@pytest.mark.exhaustive
def test_doctor_lists_what_it_brings(example_sweep: ExampleSweep) -> None:
    findings = json.loads(example_sweep.run("doctor", "--json"))
    items = {(finding["topic"], finding["item"]) for finding in findings}
    assert ("plug-ins", "body family gpt_neo") in items


def blocks(language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )


def test_the_page_shows_the_files_of_the_package() -> None:
    python_blocks = set(blocks("python"))
    files = {
        path.name: path.read_text()
        for path in (EXAMPLE / "orca_ray_example").glob("[!_]*.py")
    }
    missing = [name for name, text in files.items() if text not in python_blocks]
    assert sorted(missing) == []
    tests = (EXAMPLE / "tests" / "test_conformance.py").read_text()
    for block in python_blocks - set(files.values()):
        assert block.strip() in tests, block


def test_the_page_shows_every_entry_point() -> None:
    declared = (EXAMPLE / "pyproject.toml").read_text()
    text = PAGE.read_text()
    for group in GROUPS.values():
        assert f'[project.entry-points."{group}"]' in declared
        assert f"`{group}`" in text
    for block in blocks("toml"):
        assert block.strip() in declared


def test_records_carry_the_commit_or_the_digits_of_the_code(tmp_path: Path) -> None:
    package = tmp_path / "checkout" / "orca_ray"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "version.py").write_bytes(
        (ROOT / "orca_ray" / "version.py").read_bytes()
    )
    (package.parent / ".gitignore").write_text("__pycache__/")

    def version() -> str:
        code = "from orca_ray.version import code_version; print(code_version())"
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=package.parent,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(
            ["git", *identity, *arguments],
            cwd=package.parent,
            check=True,
            capture_output=True,
        )

    number = re.escape(PROJECT["version"])
    wheel_version = version()
    assert re.fullmatch(rf"{number}\+w[0-9a-f]{{12}}", wheel_version)
    git("init")
    git("add", ".")
    git("commit", "-m", "All")
    (package.parent / "notes").write_text("not of the package")
    commit_version = version()
    assert re.fullmatch(rf"{number}\+g[0-9a-f]{{12}}", commit_version)
    (package / "new.toml").write_text("")
    changed_version = version()
    digits = re.fullmatch(
        re.escape(commit_version) + r"\.dirty\.([0-9a-f]{12})", changed_version
    )
    assert digits is not None
    assert digits[1] != wheel_version[-12:]
