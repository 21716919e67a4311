"""The base install is enough for boards; a sweep says what is missing (heavy packages are hidden from the process)."""

import json
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import orca_ray
from orca_ray.cli.app import run
from orca_ray.extras import HEAVY_PACKAGES
from orca_ray.results.store import ResultsStore
from tests.docs.pages import ROOT
from tests.results.factories import make_record

pytestmark = pytest.mark.slow  # each test starts processes

HIDE = f"""
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(HEAVY_PACKAGES)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hide())
from orca_ray.cli.app import run
sys.exit(run(sys.argv[1:]))
"""


def without_the_extra(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", HIDE, *arguments], capture_output=True, text=True, timeout=60)


def test_a_board_needs_the_base_alone(tmp_path: Path) -> None:
    ResultsStore(tmp_path / "store", create=True).append([make_record("a", test_score=0.125)])
    done = without_the_extra("leaderboard", "pocket", "--results", str(tmp_path / "store"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "0.125" in done.stdout


def test_the_effects_of_a_grid_need_the_base_alone(tmp_path: Path) -> None:
    sweep, place = tmp_path / "study.yaml", str(tmp_path / "store")
    sweep.write_text(
        "{name: study, benchmark: pocket, methods: [nft], tasks: [pocket/digits], grid: {refine.epochs: [3, 6]}}"
    )
    common: dict[str, Any] = {"method": "nft", "sweep": "study/full", "seed": 1}
    ResultsStore(place, create=True).append(
        [
            make_record(f"k{epochs}", test_score=score, hyperparameters=f'{{"refine.epochs": {epochs}}}', **common)
            for epochs, score in ((3, 0.5), (6, 0.25), (9, 0.1))
        ]
    )
    done = without_the_extra("leaderboard", str(sweep), "--results", place, "--format", "markdown")
    assert (done.returncode, done.stderr) == (0, "")
    assert "## Effect of refine.epochs, relative to 3\n" in done.stdout
    assert "| 6 | all | 0.50 | 0 | 0 | 1/3 | 0.50 |" in done.stdout
    assert "- 1 trial(s) that are not in the grid left out" in done.stdout
    named = without_the_extra("leaderboard", str(sweep), "--results", place, "--budget", "ful")
    assert named.returncode == 2
    assert "Did you mean 'full'?" in named.stderr


@pytest.mark.parametrize(
    "arguments", [["tasks", "--json"], ["bodies", "--json"], ["methods", "--json"], ["doctor", "--json"]]
)
def test_the_catalogue_needs_the_base_alone(arguments: list[str]) -> None:
    done = without_the_extra(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("[")


def test_a_sweep_without_the_extra_says_how_to_install_it() -> None:
    done = without_the_extra("benchmark", "pocket")
    assert done.returncode == 2
    assert "pip install 'orca-ray[sweep]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("results").exists()


def test_every_package_of_the_extras_is_known_by_its_module() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    modules = metadata.packages_distributions()
    for name in {Requirement(each).name.lower() for each in [*extras["predict"], *extras["sweep"]]} - {"orca-ray"}:
        assert {top for top, owners in modules.items() if name in map(str.lower, owners)} & HEAVY_PACKAGES, name


@pytest.mark.parametrize(
    ("name", "extra"), [("load", "predict"), ("CrossModalClassifier", "predict"), ("adapt", "sweep")]
)
def test_a_missing_package_is_named_in_python(name: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = {"predict": "torch", "sweep": "optuna"}[extra]

    def missing(place: str) -> None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    monkeypatch.setattr(orca_ray, "resolve_name", missing)
    with pytest.raises(ModuleNotFoundError, match=rf"orca_ray\.{name} needs .*'{package}'.*orca-ray\[{extra}\]"):
        getattr(orca_ray, name)


@pytest.mark.parametrize(
    ("gone", "works"), [(["ray", "optuna"], "leaderboards and models"), (["ray", "optuna", "timm"], "leaderboards")]
)
def test_doctor_says_what_works_without_packages(
    gone: list[str], works: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    installed = metadata.version

    def version(name: str) -> str:
        if name in gone:
            raise metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(metadata, "version", version)
    run(["doctor", "--json"])
    (missing,) = [each for each in json.loads(capfd.readouterr().out) if each["item"] == "missing"]
    assert missing["advice"].startswith(f"{works} work, sweeps do not")
