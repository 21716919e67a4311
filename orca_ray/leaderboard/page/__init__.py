"""The page of a board: one HTML file with data, style and program.

It opens without a network. ``page.js`` and ``page.css`` are built from ``page-src`` by
``make page``.
"""

import base64
import contextlib
import hashlib
import html
import json
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from string import Template
from typing import Any

from orca_ray.leaderboard.board import Board
from orca_ray.leaderboard.page.data import page_data
from orca_ray.results.artefacts import parse_payload
from orca_ray.results.store import ResultsStore

__all__ = ["chosen_pictures", "page_data", "render", "render_index"]

MAX_PICTURE_CHARACTERS = 1_000_000
"""Largest number of characters of all artefacts of a page together, as JSON."""
_FOLDER = Path(__file__).parent
_ESCAPES = {ord(each): f"\\u{ord(each):04x}" for each in "<>&\u2028\u2029"}


def render(data: Mapping[str, Any], *, refresh_seconds: int = 0) -> str:
    """Return the HTML page of a board's `page_data`.

    It reloads itself after ``refresh_seconds``, unless that is 0. The page may execute
    only its own script, and load nothing from elsewhere (Content-Security-Policy). Data
    are embedded as JSON without the characters ``<``, ``>`` and ``&``, so that no text
    of a record can end the HTML element that holds them or begin another.
    """
    script, style = (
        (_FOLDER / name).read_text(encoding="utf-8") for name in ("page.js", "page.css")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline';"
        " img-src data:; base-uri 'none'; form-action 'none'"
    )
    links = [
        f'<a href="{html.escape(url)}">{html.escape(each["name"])}: {kind}</a>'
        for each, kind in product(data["methods"], ("paper", "code"))
        if (url := each.get(kind, "")).startswith("https://")
    ]
    text = json.dumps(
        data, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    ).translate(_ESCAPES)
    return Template((_FOLDER / "template.html").read_text(encoding="utf-8")).substitute(
        refresh=f' data-refresh="{refresh_seconds:d}"' if refresh_seconds else "",
        policy=policy,
        title=html.escape(f"{data['benchmark']}: leaderboard"),
        style=style,
        data=text,
        script=script,
        links=(
            '<section class="wide note" aria-label="Papers and code of the'
            f' methods">{", ".join(links)}</section>'
            if links
            else ""
        ),
    )


def render_index(boards: Mapping[str, Board]) -> str:
    """Return an HTML page, without JavaScript, of links to boards.

    ``boards`` maps file names of pages to boards.
    """
    rows = []
    for name, board in boards.items():
        best = {
            method: sum(method in board.best(task) for task in board.tasks)
            for method in board.methods
        }
        most = max(best.values(), default=0)
        leaders = ", ".join(method for method in best if best[method] == most)
        won = (
            f"{leaders}: best on {most} of {len(board.tasks)} tasks"
            if most
            else "no score yet"
        )
        cells = [
            board.sweep,
            board.protocol,
            str(len(board.tasks)),
            str(len(board.methods)),
            won,
        ]
        link = (
            '<th scope="row"><a'
            f' href="{html.escape(name)}">{html.escape(board.benchmark)}</a></th>'
        )
        rows.append(
            f"<tr>{link}{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"
        )
    return Template((_FOLDER / "index.html").read_text(encoding="utf-8")).substitute(
        policy=(
            "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri"
            " 'none'; form-action 'none'"
        ),
        style=(_FOLDER / "page.css").read_text(encoding="utf-8"),
        rows="\n".join(rows),
    )


def chosen_pictures(
    board: Board, store: ResultsStore
) -> dict[str, list[Mapping[str, Any]]]:
    """Return the artefacts that a page shows, by trial key, as plain JSON.

    They are those of each cell's first seed. All together have at most
    `MAX_PICTURE_CHARACTERS`: the first artefact of each cell is taken, then the second
    of each cell, and so on. An artefact that does not fit or has an invalid payload is
    left out.
    """
    keys = [
        next(iter(cell.trial_keys.values()))
        for cell in board.cells.values()
        if cell.trial_keys
    ]
    artefacts = store.artefacts(board.sweep, keys).groupby("trial_key", sort=True)
    payloads = {str(key): group["payload"].tolist() for key, group in artefacts}
    keys = [key for key in keys if key in payloads]
    room = MAX_PICTURE_CHARACTERS
    found: dict[str, list[Mapping[str, Any]]] = {}
    for place in range(max((len(payloads[key]) for key in keys), default=0)):
        for key in keys:
            for payload in payloads[key][place : place + 1]:
                if len(payload) <= room:
                    with contextlib.suppress(ValueError):
                        picture = parse_payload(payload)
                        json.dumps(picture, allow_nan=False)  # a page holds no NaN
                        found.setdefault(key, []).append(picture)
                        room -= len(payload)
    return found
