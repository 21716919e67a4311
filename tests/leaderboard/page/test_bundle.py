"""The built files in the package, and the HTML around them; no browser needed."""

import hashlib
import html
import json
import re
from copy import deepcopy
from pathlib import Path

import pytest

from orca_ray.leaderboard.page import render
from tests.leaderboard.page.conftest import HOSTILE, SCRIPT, data, page_of
from tests.results.factories import make_record

ROOT = Path(__file__).parents[3]
SOURCES = ROOT / "page-src"
BUILT = ROOT / "orca_ray/leaderboard/page"


def test_the_bundle_was_built_from_these_sources() -> None:
    names = [
        path.relative_to(SOURCES).as_posix() for path in (SOURCES / "src").rglob("*.*")
    ]
    digest = hashlib.sha256()
    for name in sorted([*names, "build.mjs", "package.json", "package-lock.json"]):
        digest.update(f"{name}\n".encode() + (SOURCES / name).read_bytes() + b"\n")
    for name in ("page.js", "page.css"):
        header = (BUILT / name).read_text(encoding="utf-8").partition("*/")[0]
        assert digest.hexdigest() in header, "page-src has changed: run make page"


def test_what_is_bundled_comes_with_its_licence() -> None:
    licences = (BUILT / "LICENSES.txt").read_text(encoding="utf-8")
    assert re.search(r"^@observablehq/plot [\d.]+ \(ISC\)$", licences, re.MULTILINE)
    lock = (SOURCES / "package-lock.json").read_text(encoding="utf-8")
    without_funding = re.sub(r'"funding": \{.*?\}', "", lock, flags=re.DOTALL)
    assert "://" not in without_funding, "the lock file names no registry"
    names = ("(ISC)", "(BSD-3-Clause)", "(MIT)")
    assert sum(licences.count(name) for name in names) >= 10


def test_the_page_is_small_and_equal_for_equal_data() -> None:
    page = render(deepcopy(data()))
    data.cache_clear()
    assert page == render(deepcopy(data()))
    assert len(page.encode()) < 500_000
    methods = ["nft", "orca", *map(str, range(40))]
    many = page_of([make_record(method, method=method) for method in methods])
    assert many["pairs"] == []
    assert [question["name"] for question in many["questions"]] == ["aligning"]


def test_content_leaves_memory_while_it_is_written() -> None:
    content = deepcopy(data())
    records = content["records"]
    page = render(content)
    assert not content
    assert not records
    embedded = re.search(r'id="data">(.*?)</script>', page)
    assert embedded is not None
    assert json.loads(embedded[1]) == data()


def test_methods_are_linked_with_their_paper_and_code() -> None:
    urls = {"paper": 'https://x/"><i>', "code": "javascript:alert(1)"}
    page = render(page_of([make_record()], read_about=lambda: {"orca": urls}))
    assert (
        'methods"><a href="https://x/&quot;&gt;&lt;i&gt;">orca: paper</a></section>'
        in page
    )


def test_the_policy_allows_the_pages_own_script_only() -> None:
    page = render(deepcopy(data()))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    rules = dict(rule.split(" ", 1) for rule in html.unescape(policy[1]).split("; "))
    assert rules["default-src"] == "'none'"
    assert re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", rules["script-src"])
    assert "http" not in policy[1]
    assert page.count("<script") == page.count("</script") == 2


@pytest.mark.parametrize(
    "text", [HOSTILE, SCRIPT, "<!--<script>", "\u2028", "\u202e\x9b", "&lt;", '"\\']
)
def test_embedded_text_survives_and_ends_no_element(text: str) -> None:
    page = render(page_of([make_record(method=text, error=text, notes=text)]))
    embedded = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL
    )
    assert not set("<>&\u2028\u202e\x9b") & set(embedded[0])
    assert json.loads(embedded[0])["methods"] == [{"name": text}]


def test_numbers_that_json_does_not_have() -> None:
    record = make_record(
        hyperparameters='{"a": NaN, "b": Infinity}', validation_score=None
    )
    content = page_of([record])
    assert content["hyperparameters"]["common"] == {"a": "NaN", "b": "Infinity"}
    assert content["records"]["validation"] == [None]
    json.dumps(content, allow_nan=False)
