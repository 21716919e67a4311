"""The example package, installed beside orca-ray: its own tests, a sweep with all it brings, and the documentation."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from shutil import copytree

import pytest

from orca_ray.discovery import GROUPS
from orca_ray.results.store import ResultsStore
from orca_ray.testing.suite import make_home, save_tokenizer
from tests.plug_in_packages import EXAMPLE

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "plug-ins.md"
SWEEP = Path(__file__).with_name("example.yaml").read_text()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory that the example package is installed into, without a network."""
    source, site = tmp_path_factory.mktemp("source") / "plugin", tmp_path_factory.mktemp("site")
    copytree(EXAMPLE, source)
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(site), str(source)]
    subprocess.run(command, check=True, timeout=120)
    return site


def beside(site: Path, **variables: str) -> Mapping[str, str]:
    """Return the environment of processes that find orca-ray and the example package."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]), **variables}


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_package_passes_the_conformance_suites(site: Path, tmp_path: Path) -> None:
    tests = copytree(EXAMPLE / "tests", tmp_path / "tests")
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error::pytest.PytestWarning\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    done = subprocess.run(command, cwd=tmp_path, env=beside(site), capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) > 90
    assert "skipped" not in done.stdout


def save_gpt_neo(directory: Path) -> str:
    from transformers import GPTNeoConfig, GPTNeoModel

    config = GPTNeoConfig(
        hidden_size=16, num_layers=2, num_heads=2, vocab_size=120, max_position_embeddings=64, bos_token_id=0,
        eos_token_id=0, attention_types=[[["global", "local"], 1]],
    )  # fmt: skip
    GPTNeoModel(config).save_pretrained(directory)
    save_tokenizer(directory)
    return str(directory)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_all_that_it_brings_becomes_a_leaderboard(site: Path, tmp_path: Path) -> None:
    home, results, tracked = make_home(tmp_path / "home"), tmp_path / "results", tmp_path / "trials.jsonl"
    sweep = tmp_path / "example.yaml"
    body = save_gpt_neo(tmp_path / "gpt-neo")
    sweep.write_text(f'{SWEEP}bodies: {{sequence: "{body}"}}\n')
    raw = home / "raw" / "example"
    raw.mkdir(parents=True)
    environment = beside(site, ORCA_RAY_HOME=str(home))

    def orca_sweep(*arguments: str) -> str:
        command = [sys.executable, "-m", "orca_ray.cli.main", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    write = "import sys, test_conformance as t; from pathlib import Path; t.write_tones(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", write, str(raw)], cwd=EXAMPLE / "tests", env=environment, check=True)
    track = ["--track", f"json_lines:{tracked}"]
    orca_sweep("run", str(sweep), "--executor", "inline", "--results", str(results), *track)
    board = orca_sweep("leaderboard", "example", "--results", str(results))
    assert re.search(r"^tones .*\d\.\d{4}\*", board, re.MULTILINE)
    assert re.search(r"^worst rank +\d", board, re.MULTILINE)
    document = json.loads(orca_sweep("leaderboard", "example", "--results", str(results), "--format", "json"))
    ranked = {method["name"]: method["worst_rank"]["num_tasks"] for method in document["methods"]}
    assert ranked == {"l2sp": 1, "orca": 1}
    assert "worst_rank" in document["statistics"]
    orca_sweep("leaderboard", "example", "--results", str(results), "-o", "page.html")
    assert '"name":"worst_rank"' in (tmp_path / "page.html").read_text()

    records = ResultsStore(str(results)).records()
    aligned = records[(records["method"] == "orca") & (records["phase"] == "confirm")].iloc[0]
    assert aligned["notes"].startswith("from the package orca-ray-example 0.1.0: task example/tones, metric worst_cl")
    assert aligned["notes"].endswith("augmentation sign_flip, distance coral, source recipes")
    assert aligned["align_epochs"] == 2
    assert records["metric"].unique().tolist() == ["worst_class_error"]
    assert json.loads(records[records["method"] == "l2sp"].iloc[0]["hyperparameters"])["l2sp.strength"] > 0
    kinds = ResultsStore(str(results)).artefacts("example/full", [aligned["trial_key"]])["kind"].tolist()
    assert "confidence" in kinds
    lines = [json.loads(line) for line in tracked.read_text().splitlines()]
    assert {line["trial"] for line in lines} == set(records["trial_key"])
    assert sum("test_score" in line for line in lines) == 2

    found = {(each["topic"], each["item"]) for each in json.loads(orca_sweep("doctor", "--json"))}
    assert ("plug-ins", "body family gpt_neo") in found


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_page_shows_the_files_of_the_package() -> None:
    shown = set(blocks("python"))
    files = {path.name: path.read_text() for path in (EXAMPLE / "orca_ray_example").glob("[!_]*.py")}
    assert sorted(name for name, text in files.items() if text not in shown) == []
    tests = (EXAMPLE / "tests" / "test_conformance.py").read_text()
    for block in shown - set(files.values()):
        assert block.strip() in tests, block


def test_the_page_shows_every_entry_point() -> None:
    declared = (EXAMPLE / "pyproject.toml").read_text()
    text = PAGE.read_text()
    for group in GROUPS.values():
        assert f'[project.entry-points."{group}"]' in declared
        assert f"`{group}`" in text
    for block in blocks("toml"):
        assert block.strip() in declared
