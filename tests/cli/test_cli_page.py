"""``site``, and ``leaderboard --open`` and ``--watch``: files on disk, as a browser would read them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from orca_ray.results.store import ResultsStore
from tests.cli.conftest import Command
from tests.results.factories import make_record


def embedded(path: Path) -> dict[str, Any]:
    """Return the data in a page."""
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    content: dict[str, Any] = json.loads(found[0])
    return content


@pytest.fixture
def store(tmp_path: Path) -> ResultsStore:
    created = ResultsStore(tmp_path / "store", create=True)
    created.append([make_record("a", test_score=0.25), make_record("b", method="nft", test_score=0.5, minutes=2)])
    return created


def test_a_site_has_an_index_and_a_page_of_each_benchmark(
    command: Command, store: ResultsStore, tmp_path: Path
) -> None:
    hostile = "../<script>alert(1)</script>"
    store.append([make_record("h", benchmark=hostile, task=f"{hostile}/t", sweep="s")])
    site = tmp_path / "deep" / "site"
    ended = command("site", str(site), "--results", store.uri)
    assert ended.code == 0
    pages = {path.name for path in site.iterdir()} - {"index.html"}
    assert {embedded(site / page)["benchmark"] for page in pages} == {"pocket", hostile}
    index = (site / "index.html").read_text()
    assert set(re.findall(r'href="([^"]*\.html)"', index)) == pages
    assert "orca: best on 1 of 1 tasks" in index
    assert "<script" not in index


def test_a_site_is_equal_for_an_equal_store(command: Command, store: ResultsStore, tmp_path: Path) -> None:
    contents = []
    for name in ("one", "two"):
        command("site", str(tmp_path / name), "--results", store.uri)
        contents.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1]


def test_a_site_of_nothing_is_an_error(command: Command, tmp_path: Path) -> None:
    ended = command("site", str(tmp_path / "site"), "--results", str(tmp_path / "none"))
    assert ended.code == 2
    assert "no results" in ended.err
    assert not (tmp_path / "site").exists()


def test_open_shows_the_page(command: Command, store: ResultsStore, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def browse(url: str) -> bool:
        opened.append(url)
        return True

    monkeypatch.setattr("webbrowser.open", browse)
    assert command("leaderboard", "pocket", "--results", store.uri, "--open").code == 0
    assert opened == [Path("pocket.html").resolve().as_uri()]
    assert embedded(Path("pocket.html"))["benchmark"] == "pocket"


def test_a_watched_page_follows_the_store_until_it_is_interrupted(
    command: Command, store: ResultsStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "board.html"
    seen: list[tuple[int, bool]] = []

    def wait(_: float) -> None:
        seen.append((len(embedded(page)["scores"]), "data-refresh" in page.read_text()))
        if len(seen) == 2:
            raise KeyboardInterrupt
        store.append([make_record("c", seed=1, test_score=0.3, minutes=3)])

    monkeypatch.setattr("time.sleep", wait)
    ended = command("leaderboard", "pocket", "--results", store.uri, "--watch", "-o", str(page))
    assert ended.code == 0
    assert seen == [(2, True), (3, True)]
    assert "data-refresh" not in page.read_text()
