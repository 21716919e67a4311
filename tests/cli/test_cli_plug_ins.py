"""Commands with a plug-in that cannot be used: those that do not name it work, others say which package it is."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from orca_ray.results.store import ResultsStore
from tests.cli.conftest import Command
from tests.plug_in_packages import installed, write_package
from tests.results.factories import make_record

WHERE = "the entry point 'broken = absent_module:X' in orca_ray.methods of the package bad 1.0 cannot be imported"


@pytest.fixture(autouse=True)
def bad_package(tmp_path: Path) -> Iterator[None]:
    site = tmp_path / "site"
    groups = ("methods", "tasks", "distances", "statistics")
    write_package(site, "bad", {f"orca_ray.{group}": {"broken": "absent_module:X"} for group in groups})
    with installed(site):
        yield


def test_commands_that_do_not_name_it_work_and_warn(command: Command) -> None:
    ending = command("methods", "--json")
    assert ending.code == 0
    assert {"orca", "nft"} <= {method["name"] for method in ending.json}
    assert ending.err.count(f"left out: {WHERE}") == 1
    assert command("plan", "pocket", "--methods", "nft", "--tasks", "digits").code == 0
    ResultsStore("results", create=True).append([make_record("a", test_score=0.125)])
    assert "0.125" in command("leaderboard", "pocket").out
    for option, kind in (("--methods", "methods"), ("--tasks", "tasks")):
        error = command.refused("plan", "pocket", option, "broken").partition("error: ")[2]
        assert f"in orca_ray.{kind} of the package bad 1.0 cannot be imported" in error


def test_doctor_notes_it_and_passes(command: Command) -> None:
    ending = command("doctor", "--json")
    assert ending.code == 0
    findings = {finding["item"]: finding for finding in ending.json if finding["topic"] == "plug-ins"}
    assert set(findings) == {"method broken", "task broken", "distance broken", "statistic broken"}
    assert findings["method broken"]["state"] == "note"
    assert WHERE in findings["method broken"]["advice"]
