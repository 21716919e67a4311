"""The documentation site builds without a network and without a warning, and its pages load nothing from elsewhere."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from orca_ray.methods.registry import all_methods
from orca_ray.tasks.registry import all_tasks

from .pages import ROOT

NO_NETWORK = """
import socket, sys
def refuse(*given):
    raise OSError("the site is built without a network")
socket.socket.connect = refuse
from sphinx.cmd.build import main
sys.exit(main(sys.argv[1:]))
"""
OPTIONS = next(line for line in (ROOT / "Makefile").read_text().splitlines() if "-m sphinx" in line).split()[3:]
"""Options of ``make docs``."""

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]


class Elements(HTMLParser):
    """The addresses that a page loads: those of all its elements but links to follow."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "a":
            self.loaded += [value for name, value in attrs if name in ("src", "href", "srcset", "data") and value]


def test_the_site(tmp_path: Path) -> None:
    """Built as ``make docs`` does: a link without a target would end the build."""
    command = [sys.executable, "-c", NO_NETWORK, "-d", f"{tmp_path}/doctrees", *OPTIONS[:-1], f"{tmp_path}/html"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    site = tmp_path / "html"
    for page in site.rglob("*.html"):
        assert not [each for each in Elements(page.read_text()).loaded if re.match(r"(https?:)?//", each)], page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", style.read_text()), style.name
    text = (site / "reference" / "registries.html").read_text()
    for name in (*all_methods(), *(task.short_name for task in all_tasks().values()), "minilm-l6", "sinkhorn", "nrmse"):
        assert f">{name}<" in text, name
    assert 'href="files/orca_ray/cli/app.py.html"' in (site / "way-of-a-trial.html").read_text()
    assert 'class="highlight"' in (site / "files" / "orca_ray" / "cli" / "app.py.html").read_text()
    assert "--trial-minutes" in (site / "reference" / "commands.html").read_text()
    assert 'id="orca_ray.tasks.task.Task.prepare"' in (site / "reference" / "python.html").read_text()
