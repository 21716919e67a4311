"""The page of a board: one HTML file with data, style and program.

It opens without a network. ``page.js`` and ``page.css`` are built from ``page-src`` by
``make page``.
"""

import base64
import hashlib
import html
import json
from collections.abc import Iterator, Mapping, Sequence
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
"""Folder of the files that pages are made of."""
_HIDDEN = [*range(0x7F, 0xA0), *range(0x200E, 0x2010), *range(0x202A, 0x202F)]
_HIDDEN += range(0x2066, 0x206A)
"""Control characters, and marks that change the direction of the text after them."""
_ESCAPES = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}
"""Escapes in JSON of characters that could end the HTML element around it."""
_ESCAPES |= {code: f"\\u{code:04x}" for code in _HIDDEN}


def render(data: dict[str, Any], *, refresh_seconds: int = 0) -> str:
    """Return the HTML page of a board's `page_data`, which is emptied.

    It reloads itself after ``refresh_seconds``, unless that is 0. The page may execute
    only its own script, and load nothing from elsewhere (Content-Security-Policy). Data
    are embedded as JSON without the characters ``<``, ``>`` and ``&``, so that no text
    of a record can end the HTML element that holds them or begin another.
    """
    script = _read("page.js")
    refresh = ""
    if refresh_seconds:
        refresh = f' data-refresh="{refresh_seconds:d}"'
    texts = {
        "refresh": refresh,
        "policy": _policy(script),
        "title": html.escape(f"{data['benchmark']}: leaderboard"),
        "style": _read("page.css"),
        "script": script,
        "links": _links(data["methods"]),
    }
    before, after = _read("template.html").split("$data")
    return "".join(
        [
            Template(before).substitute(texts),
            *_json_pieces(data),
            Template(after).substitute(texts),
        ]
    )


def _json_pieces(data: dict[str, Any]) -> Iterator[str]:
    """Yield the parts of an object as JSON, and remove each value before the next one.

    A page of a million records thus takes 0.7 GB of memory instead of 0.9.
    """
    separator = "{"
    for name in list(data):
        yield f"{separator}{_escaped_json(name)}:"
        separator = ","
        if name == "records":
            yield from _json_pieces(data.pop(name))
        else:
            yield _escaped_json(data.pop(name))
    yield "}"


def _escaped_json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(_ESCAPES)


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _policy(script: str = "") -> str:
    """Return the Content-Security-Policy of a page.

    The page may execute ``script`` and no other one; "" allows none.
    """
    allowed_script = ""
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        allowed_script = f" script-src 'sha256-{digest}';"
    return (
        f"default-src 'none';{allowed_script} style-src 'unsafe-inline'; img-src data:;"
        " base-uri 'none'; form-action 'none'"
    )


def _links(methods: Sequence[Mapping[str, str]]) -> str:
    """Return the section of links to papers and code of methods; "" without links."""
    links = []
    for method in methods:
        for kind in ("paper", "code"):
            url = method.get(kind, "")
            if url.startswith("https://"):
                text = f"{html.escape(method['name'])}: {kind}"
                links.append(f'<a href="{html.escape(url)}">{text}</a>')
    if not links:
        return ""
    return (
        '<section class="wide note" aria-label="Papers and code of the methods">'
        f"{', '.join(links)}</section>"
    )


def render_index(boards: Mapping[str, Board]) -> str:
    """Return an HTML page, without JavaScript, of links to boards.

    ``boards`` maps file names of pages to boards.
    """
    rows = [_index_row(name, board) for name, board in boards.items()]
    return Template(_read("index.html")).substitute(
        policy=_policy(), style=_read("page.css"), rows="\n".join(rows)
    )


def _index_row(name: str, board: Board) -> str:
    """Return the HTML row of a board in the index, whose page is the file ``name``.

    It names the methods that are best on the most tasks.
    """
    num_best = {
        method: sum(method in board.best(task) for task in board.tasks)
        for method in board.methods
    }
    most_best = max(num_best.values(), default=0)
    if most_best:
        leaders = ", ".join(
            method for method, num in num_best.items() if num == most_best
        )
        summary = f"{leaders}: best on {most_best} of {len(board.tasks)} tasks"
    elif board.scores.empty:
        summary = "no score yet"
    else:
        summary = "no two methods with a score on one task"
    texts = [
        board.sweep,
        board.protocol,
        str(len(board.tasks)),
        str(len(board.methods)),
        summary,
    ]
    cells = "".join(f"<td>{html.escape(text)}</td>" for text in texts)
    url = html.escape(name)
    title = html.escape(board.benchmark)
    return f'<tr><th scope="row"><a href="{url}">{title}</a></th>{cells}</tr>'


def chosen_pictures(
    board: Board, store: ResultsStore
) -> dict[str, list[Mapping[str, Any]]]:
    """Return the artefacts that a page shows, by trial key, as plain JSON.

    They are those of each cell's first seed. All together have at most
    `MAX_PICTURE_CHARACTERS`: the first artefact of each cell is taken, then the second
    of each cell, and so on. An artefact that does not fit or has an invalid payload is
    left out.
    """
    first_keys = [
        next(iter(cell.trial_keys.values()))
        for cell in board.cells.values()
        if cell.trial_keys
    ]
    artefacts = store.artefacts(board.sweep, first_keys).groupby("trial_key", sort=True)
    payloads = {str(key): group["payload"].tolist() for key, group in artefacts}
    pictures: dict[str, list[Mapping[str, Any]]] = {}
    num_left = MAX_PICTURE_CHARACTERS
    for key, payload in _one_of_each(payloads, first_keys):
        if len(payload) > num_left:
            continue
        picture = _picture(payload)
        if picture is not None:
            pictures.setdefault(key, []).append(picture)
            num_left -= len(payload)
    return pictures


def _one_of_each(
    payloads: Mapping[str, list[str]], keys: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Yield the first payload of each key, then the second of each key, and so on."""
    most_payloads = max(map(len, payloads.values()), default=0)
    for place in range(most_payloads):
        for key in keys:
            if place < len(payloads.get(key, [])):
                yield key, payloads[key][place]


def _picture(payload: str) -> Mapping[str, Any] | None:
    """Return the picture in a payload; None if the payload is invalid."""
    try:
        picture = parse_payload(payload)
        json.dumps(picture, allow_nan=False)  # a page holds no NaN
    except ValueError:
        return None
    return picture
